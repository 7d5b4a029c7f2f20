"""scikit-learn's load_svmlight_file."""


def prepare(path):
    import sklearn
    from sklearn.datasets import load_svmlight_file

    def run():
        x, _ = load_svmlight_file(path)
        return {"rows": x.shape[0], "version": sklearn.__version__}

    return run
