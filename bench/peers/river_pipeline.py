"""River: StatImputer, StandardScaler, lags and FeatureHasher on dicts, learn_one then transform_one row by row."""
import time


def prepare(path, categories, lags, bits):
    """`path`: npz with `x` (n, d); the first `categories` columns are categories. Dicts are made outside the clock."""
    import river
    import numpy as np
    from river import preprocessing, stats

    x = np.load(path)["x"]
    names = [f"c{i}" for i in range(x.shape[1])]
    numbers = names[categories:]
    rows = [{n: (None if v != v else (str(int(v)) if i < categories else v)) for i, (n, v) in enumerate(zip(names, row))} for row in x.tolist()]

    def run():
        impute = preprocessing.StatImputer(*((n, stats.Mean()) for n in numbers))
        scale, hasher = preprocessing.StandardScaler(), preprocessing.FeatureHasher(n_features=1 << bits, seed=0)
        before = []
        wall, cpu = time.perf_counter(), time.process_time()
        for row in rows:
            filled = impute.transform_one(row)
            impute.learn_one(row)
            part = {n: filled[n] for n in numbers}
            scaled = scale.transform_one(part)
            scale.learn_one(part)
            out = {n: filled[n] for n in names[:categories] if filled[n] is not None}
            out.update(scaled)
            for k, held in enumerate(before, 1):
                out.update({f"{n}@{k}": v for n, v in held.items()})
            before = [scaled, *before][:lags]
            hasher.transform_one(out)
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "rows": len(rows), "version": river.__version__}

    return run
