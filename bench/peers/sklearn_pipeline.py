"""scikit-learn in mini-batches: running means by NumPy (SimpleImputer has no partial_fit), StandardScaler.partial_fit, lags by
NumPy, FeatureHasher for the categories beside the numbers as CSR."""
import time


def prepare(path, categories, lags, bits, batch):
    import numpy as np
    import scipy.sparse as sp
    import sklearn
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.preprocessing import StandardScaler

    x = np.load(path)["x"]

    def run():
        scale, hasher = StandardScaler(), FeatureHasher(1 << bits, input_type="string")
        d = x.shape[1] - categories
        count, total, before = np.zeros(d), np.zeros(d), np.zeros((lags, d))
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(x), batch):
            part = x[start : start + batch]
            numbers = part[:, categories:]
            gap = np.isnan(numbers)
            filled = np.where(gap, total / np.maximum(count, 1), numbers)
            count += (~gap).sum(0)
            total += np.where(gap, 0, numbers).sum(0)
            scale.partial_fit(filled)
            scaled = scale.transform(filled)
            whole = np.concatenate([before, scaled])
            lagged = np.concatenate([scaled, *(whole[lags - k : len(whole) - k] for k in range(1, lags + 1))], 1)
            before = whole[len(whole) - lags :]
            words = [[f"{j}={int(v)}" for j, v in enumerate(row) if v == v] for row in part[:, :categories].tolist()]
            sp.hstack([hasher.transform(words), sp.csr_matrix(lagged)], "csr")
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "rows": len(x), "version": sklearn.__version__}

    return run
