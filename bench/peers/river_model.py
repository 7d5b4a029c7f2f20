"""River's own models, row by row, predict then learn, over dicts built outside the clock."""
import time


def made(name, river, settings):
    from river import cluster, drift, forest, linear_model, naive_bayes, neighbors, optim, preprocessing, tree

    scaled = preprocessing.StandardScaler
    return {
        "ht": lambda: tree.HoeffdingTreeClassifier(**settings),
        "hat": lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=1, **settings),
        "arf": lambda: forest.ARFClassifier(seed=1, **settings),
        "lr": lambda: scaled() | linear_model.LogisticRegression(optim.SGD(settings.get("lr", 0.05))),
        "pa": lambda: scaled() | linear_model.PAClassifier(**settings),
        "softmax": lambda: scaled() | linear_model.SoftmaxRegression(optim.SGD(settings.get("lr", 0.05))),
        "bayes": lambda: naive_bayes.GaussianNB(),
        "kmeans": lambda: cluster.KMeans(seed=1, **settings),
        "linear": lambda: scaled() | linear_model.LinearRegression(optim.SGD(settings.get("lr", 0.01))),
        "par": lambda: scaled() | linear_model.PARegressor(**settings),
        "htr": lambda: scaled() | tree.HoeffdingTreeRegressor(**settings),
        "arfr": lambda: scaled() | forest.ARFRegressor(seed=1, **settings),
        "adwin": lambda: drift.ADWIN(**settings),
        "knn": lambda: neighbors.KNNClassifier(**settings),
    }[name]()


def prepare(path, model, settings=None, task="class", rows=0):
    """`path`: npz with `x` (n, d), `y` (n,), NaN = not told; `learn` (n,) bool where rows are learned late: see bench."""
    import numpy as np
    import river

    held = np.load(path)
    x, y = held["x"], held["y"]
    if rows:
        x, y = x[:rows], y[:rows]
    late = held["late"].tolist() if "late" in held.files else None  # row i's label comes before row late[i]
    names = [str(at) for at in range(x.shape[1])]
    features = [dict(zip(names, row, strict=True)) for row in x.tolist()]
    labels = y.tolist() if task == "value" else [int(v) for v in y.tolist()]

    def run():
        learner = made(model, river, settings or {})
        wall, cpu = time.perf_counter(), time.process_time()
        found = _cluster(learner, features) if task == "cluster" else _pass(learner, features, labels, late)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if task == "value":
            gap = np.array([0.0 if p is None else p for p in found]) - y
            score = {"mae": float(np.abs(gap).mean()), "rmse": float(np.sqrt((gap**2).mean()))}
        elif task == "cluster":
            score = {"distance": found / len(labels)}
        else:
            score = {"accuracy": float(np.mean([p == t for p, t in zip(found, labels, strict=True)]))}
        return {"wall": wall, "cpu": cpu, "rows": len(labels), "version": river.__version__, **score}

    return run


def _pass(learner, features, labels, late):
    """Predictions row by row; a label is learned at once, or when the row `late` names has been predicted."""
    if late is None:
        out = []
        for x, y in zip(features, labels, strict=True):
            out.append(learner.predict_one(x))
            learner.learn_one(x, y)
        return out
    due = {}
    for i, at in enumerate(late):
        due.setdefault(at, []).append(i)
    out = []
    for i, x in enumerate(features):
        for j in due.get(i, ()):
            learner.learn_one(features[j], labels[j])
        out.append(learner.predict_one(x))
    return out


def _cluster(learner, features):
    """Sum of squared distances of each row to its centre, before the row is learned."""
    total = 0.0
    for x in features:
        if learner.centers:
            centre = learner.centers[learner.predict_one(x)]
            total += sum((x[name] - centre[name]) ** 2 for name in x)
        learner.learn_one(x)
    return total
