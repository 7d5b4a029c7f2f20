"""River: predict_one then learn_one, row by row, over dicts built outside the clock."""
import time

LEARNERS = {
    "pa": lambda linear, optim, C, mode: linear.PAClassifier(C=C, mode=mode),
    "logistic": lambda linear, optim, lr: linear.LogisticRegression(optimizer=optim.SGD(lr)),
}


def prepare(path, model, settings, scale):
    """`path`: npz with `x` (n, d) and `y` (n,) of 0/1; with `scale`, behind River's own online StandardScaler."""
    import numpy as np
    import river
    from river import linear_model, optim, preprocessing

    held = np.load(path)
    names = [str(at) for at in range(held["x"].shape[1])]
    features = [dict(zip(names, row, strict=True)) for row in held["x"].tolist()]
    labels = [bool(one) for one in held["y"].tolist()]

    def run():
        learner = LEARNERS[model](linear_model, optim, **settings)
        if scale:
            learner = preprocessing.StandardScaler() | learner
        right, predict, learn = 0, learner.predict_one, learner.learn_one
        wall, cpu = time.perf_counter(), time.process_time()
        for x, y in zip(features, labels, strict=True):
            right += predict(x) == y
            learn(x, y)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        accuracy = right / len(labels)
        return {"wall": wall, "cpu": cpu, "rows": len(labels), "accuracy": accuracy, "version": river.__version__}

    return run
