"""Statistics against their definitions, one pass, and scikit-learn."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, DataError
from engine.models.cluster import Kmeans
from engine.models.factor import Factor
from engine.models.sketch import Counts, Quantiles
from engine.models.stats import Bayes, Moments, Pca, Ridge, Scatter
from engine.types import Batch


def rows(seed, n=400, d=5, classes=3):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, d)) * [1, 5, 0.1, 20, 1][:d] + [0, 100, -3, 7, 1e3][:d]).astype(np.float32)
    y = rng.integers(0, classes, n).astype(np.float32)
    x[:, 0] += y
    return Batch(y, np.arange(n), np.full(n, np.nan, np.float32), x=x)


@pytest.mark.parametrize("ranks", [2, 8])
def test_moments_and_covariance_split_over_ranks_equal_one_pass(ranks):
    x = rows(1, 803).x
    before, parts = x[:100], np.array_split(x[100:], ranks)
    one, team = Moments(5), [Moments(5) for _ in range(ranks)]
    pca, many = Pca(5, 3), [Pca(5, 3) for _ in range(ranks)]
    for m in (one, *team):
        m.add(before)
        m.load(m.data.copy())
    for p in (pca, *many):
        p.add(before)
        p.scatter.mark()
    one.add(x[100:])
    pca.add(x[100:])
    for m, p, part in zip(team, many, parts, strict=True):
        m.add(part)
        p.add(part)
    total = sum(m.update() for m in team)
    for m in team:
        m.merge(total)
    np.testing.assert_allclose(team[0].data, one.data, rtol=1e-12)
    np.testing.assert_allclose(one.mean, x.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(one.variance, x.astype(float).var(0, ddof=1), rtol=1e-9)
    whole = sum(p.scatter.update() for p in many)
    many[0].scatter.merge(whole)
    axes, variances = many[0].axes()
    want, expected = pca.axes()
    np.testing.assert_allclose(axes, want, atol=1e-9)
    np.testing.assert_allclose(variances, expected, rtol=1e-9)


def test_pca_is_that_of_sklearn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = rows(2).x.astype(float)
    p = Pca(5, 2)
    for part in np.array_split(x, 7):
        p.add(part)
    peer = decomposition.PCA(2, svd_solver="full").fit(x)
    np.testing.assert_allclose(p.axes()[1], peer.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(np.abs(p.axes()[0] @ peer.components_.T), np.eye(2), atol=1e-7)
    with pytest.raises(ConfigError, match="1 to 5 components"):
        Pca(5, 6)


def test_bayes_is_that_of_sklearn():
    naive = pytest.importorskip("sklearn.naive_bayes")
    batch = rows(3)
    m = Bayes(5, 3)
    m.learn(batch)
    peer = naive.GaussianNB().fit(batch.x.astype(float), batch.y)
    np.testing.assert_allclose(m.link(m.predict(batch)), peer.predict_proba(batch.x.astype(float)), atol=2e-5)


@pytest.mark.parametrize("l2", [0.5, 10.0])
def test_ridge_is_that_of_sklearn(l2):
    linear = pytest.importorskip("sklearn.linear_model")
    batch = rows(4)
    batch.y = (batch.x @ np.array([1, 2, 0, 0.5, -1], np.float32) + 3).astype(np.float32)
    m = Ridge(5, l2=l2)
    m.learn(batch)
    peer = linear.Ridge(alpha=l2).fit(batch.x.astype(float), batch.y.astype(float))
    np.testing.assert_allclose(m.weights()[0][:, 0], peer.coef_, rtol=1e-6)
    np.testing.assert_allclose(m.weights()[1][0], peer.intercept_, rtol=1e-6)


def test_faded_ridge_merges_as_if_all_rows_had_come_at_once():
    one, team = Ridge(5, half_life=100, batch=80), [Ridge(5, half_life=100, batch=40) for _ in range(2)]
    first, second = rows(5, 80), rows(6, 80)
    for part in (first, second):
        one.learn(part)
        for m, half in zip(team, (part.slice(0, 40), part.slice(40, 80)), strict=True):
            m.learn(half)
        total = [m.update() for m in team]
        for m in team:
            m.merge(type(total[0])(None, total[0].values + total[1].values, 80.0), 2)
    np.testing.assert_allclose(team[0].scatter.n, one.scatter.n, rtol=1e-9)
    np.testing.assert_allclose(team[0].scatter.state(), team[1].scatter.state(), rtol=0)


def test_weights_of_rows_are_rows_repeated():
    x = rows(7, 30).x
    weight = np.random.default_rng(0).integers(0, 4, 30).astype(np.float32)
    a, b = Scatter(5), Scatter(5)
    a.add(x, weight)
    b.add(np.repeat(x, weight.astype(int), axis=0))
    np.testing.assert_allclose(a.state(), b.state(), rtol=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([0.005, 0.01, 0.05]))
def test_quantiles_are_within_their_error_and_merge_by_adding(seed, error):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.lognormal(0, 3, 500), -rng.lognormal(2, 2, 300), np.zeros(20)])
    rng.shuffle(values)
    one, parts = Quantiles(error), [Quantiles(error) for _ in range(8)]
    one.add(values)
    for p, part in zip(parts, np.array_split(values, 8), strict=True):
        p.add(part)
    for p in parts[1:]:
        parts[0].merge(p.counts)
    np.testing.assert_array_equal(parts[0].counts, one.counts)
    ordered = np.sort(values)
    for q in (0, 0.01, 0.25, 0.5, 0.75, 0.99, 1):
        true = ordered[int(q * (len(ordered) - 1))]
        assert abs(one.quantile(q) - true) <= error * abs(true) * 1.0001 + 1e-12
    with pytest.raises(DataError, match="finite"):
        one.add(np.array([np.nan]))
    assert np.isnan(Quantiles().quantile(0.5))


def test_counts_are_within_their_bound_and_merge_by_adding():
    rng = np.random.default_rng(0)
    keys = rng.zipf(1.3, 20000).clip(max=10**6).astype(np.uint32)
    one, parts = Counts(1 << 10), [Counts(1 << 10) for _ in range(8)]
    one.add(keys)
    for p, part in zip(parts, np.array_split(keys, 8), strict=True):
        p.add(part)
        if p is not parts[0]:
            parts[0].merge(p.counts)
    np.testing.assert_array_equal(parts[0].counts, one.counts)
    distinct, true = np.unique(keys, return_counts=True)
    found = one.estimate(distinct)
    assert (found >= true).all()
    assert (found - true > 2 * len(keys) / (1 << 10)).mean() <= 2.0**-5


def test_centres_are_found_from_rows_of_several_replicas():
    rng = np.random.default_rng(0)
    middles = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], float)
    team = [Kmeans(2, 4, outputs=4) for _ in range(3)]
    from engine.update.merge import combine
    for step in range(20):
        for i, m in enumerate(team):
            y = rng.integers(0, 4, 64)
            x = (middles[y] + rng.normal(size=(64, 2))).astype(np.float32)
            if step == 0:
                y[:4], x[:4] = [0, 1, 2, 3], middles + 0.1 * i
            at = (step * 3 + i) * 64
            m.learn(Batch(y.astype(np.float32), np.arange(at, at + 64), np.full(64, np.nan, np.float32), x=x))
        total = combine([m.update() for m in team])
        for m in team:
            m.merge(total, 3)
    found = team[0].centres
    np.testing.assert_array_equal(found, team[2].centres)
    assert max(np.linalg.norm(found - c, axis=1).min() for c in middles) < 0.2
    check = Batch(np.arange(4, dtype=np.float32), np.arange(4), np.zeros(4, np.float32), x=middles.astype(np.float32))
    assert team[0].predict(check).argmax(1).tolist() == [0, 1, 2, 3]
    assert team[0].data[:, 0].sum() == 20 * 3 * 64


@pytest.mark.parametrize("fields", [0, 3])
@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_the_step_of_a_factorization_machine_is_along_the_gradient(fields, loss):
    rng = np.random.default_rng(1)
    indptr, keys = np.array([0, 3]), np.array([4, 1, 7], np.uint32)
    values, y = rng.normal(size=3).astype(np.float32), np.array([1], np.float32)
    batch = Batch(y, np.arange(1), y, indptr=indptr, keys=keys, values=values)
    m = Factor(10, loss=loss, fields=fields, spread=0.5, rate=1e-3, beta=1e6)  # a huge beta: plain, tiny gradient steps
    before = m.state()["model/factor"].data.copy()

    def value(data):
        other = Factor(10, loss=loss, fields=fields)
        other.load({"model/factor": type(m.state()["model/factor"])(data.astype(np.float32))})
        score = float(other.predict(batch)[0])
        return np.logaddexp(0, -score) if loss == "logistic" else (score - 1) ** 2 / 2

    g = np.zeros_like(before, float)
    for row in (4, 1, 7, 10, 2):
        for column in (0, *range(3, before.shape[1])):
            if row == 10 and column > 0:
                continue
            for sign in (1, -1):
                moved = before.astype(float).copy()
                moved[row, column] += sign * 5e-3
                g[row, column] += sign * value(moved) / 1e-2
    m = Factor(10, loss=loss, fields=fields, rate=10.0, rate_v=10.0, beta=1e3)
    m.load({"model/factor": type(m.state()["model/factor"])(before)})
    m.learn(batch)
    step = (m.state()["model/factor"].data - before).astype(float)
    step[:, 1:3] = 0
    np.testing.assert_allclose(step, -g * 10 / 1e3, atol=4e-3 * np.abs(g).max() * 10 / 1e3 + 2e-6)


def test_a_factorization_machine_learns_what_a_line_cannot():
    rng = np.random.default_rng(0)
    n = 6000
    keys = np.stack([rng.integers(0, 10, n), 10 + rng.integers(0, 10, n)], 1).astype(np.uint32)
    y = ((keys[:, 0] + keys[:, 1]) % 2).astype(np.float32)
    batch = Batch(y, np.arange(n), y, indptr=np.arange(0, 2 * n + 1, 2), keys=keys.ravel())
    from engine.models.linear import Linear
    line = Linear(32).learn(batch)
    for fields in (0, 2):
        score = Factor(32, fields=fields, rate=0.3, spread=0.3, factors=8).learn(batch)
        assert ((score > 0) == y)[-2000:].mean() > 0.97 > 0.6 > ((line > 0) == y)[-2000:].mean()
    with pytest.raises(DataError, match="outside the key space"):
        Factor(4).learn(batch)
