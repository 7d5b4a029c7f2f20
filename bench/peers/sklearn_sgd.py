"""scikit-learn's SGDClassifier fed by partial_fit in mini-batches: each batch is scored, then learnt."""
import time


def prepare(path, batch, settings):
    """`path`: npz with `x` (n, d) and `y` (n,) of 0/1."""
    import numpy as np
    import sklearn
    from sklearn.linear_model import SGDClassifier

    held = np.load(path)
    x, y = held["x"], held["y"].astype(int)

    def run():
        learner, right = SGDClassifier(**settings), 0
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(y), batch):
            part = slice(start, start + batch)
            if start:
                right += int((learner.predict(x[part]) == y[part]).sum())
            learner.partial_fit(x[part], y[part], classes=[0, 1])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"wall": wall, "cpu": cpu, "rows": len(y), "accuracy": right / len(y), "version": sklearn.__version__}

    return run
