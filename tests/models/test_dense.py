"""Nets, their gradients, and the exchange of what was learned from them."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, DataError, ShardError, StoreError
from engine.models import loss as losses
from engine.models.dense import Mlp
from engine.models.graded import Graded
from engine.types import Batch
from engine.update.merge import combine
from engine.update.policy import parse

CHAINS = ["sgd(0.05)", "momentum(0.01)", "adam(0.01)", "adagrad(0.1)", "ftrl(0.1)", "coin()", "clip(1)|normalised(0.01)"]


def rows(seed, n=40, d=6, classes=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    y = np.argmax(x @ rng.normal(size=(d, classes)), 1).astype(np.float32)
    return Batch(y, np.arange(n), np.full(n, np.nan, np.float32), x=x)


def thin(seed, n=30, d=20, classes=3):
    rng = np.random.default_rng(seed)
    count = rng.integers(0, 5, n)
    indptr = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    keys = rng.integers(0, d, indptr[-1]).astype(np.uint32)
    values = rng.normal(size=indptr[-1]).astype(np.float32)
    y = rng.integers(0, classes, n).astype(np.float32)
    return Batch(y, np.arange(n), np.full(n, np.nan, np.float32), indptr=indptr, keys=keys, values=values)


def model(chain="sgd(0.05)", loss="softmax", outputs=3, width=6, hidden=(8,), **more):
    more = {"batch": 8, **more}
    return Graded(lambda: Mlp([width, *hidden, outputs], seed=3), parse(chain), loss=loss, width=width, **more)


def same(a, b):
    sa, sb = a.state(), b.state()
    assert sa.keys() == sb.keys()
    for path in sa:
        np.testing.assert_array_equal(sa[path].data, sb[path].data, err_msg=path)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("loss", "outputs"), [("softmax", 3), ("logistic", 1), ("squared", 1)])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_gradient_is_that_of_finite_differences(activation, loss, outputs, sparse):
    batch = thin(1) if sparse else rows(1)
    if loss == "logistic":
        batch.y = (batch.y > 0).astype(np.float32)
    width = 20 if sparse else 6
    net = Mlp([width, 7, 5, outputs], activation=activation, seed=5)
    net.theta += np.random.default_rng(0).normal(size=len(net.theta)).astype(np.float32) * 0.1
    slope = losses.slope(loss, net.forward(batch).copy(), batch.y, None, None)
    g = net.pull(batch, slope).astype(float).copy()
    wide = net.theta.astype(float)

    def value(theta):
        net.theta[:] = theta
        return losses.value(loss, net.forward(batch).copy(), batch.y, None)

    rng = np.random.default_rng(2)
    for _ in range(6):
        way = rng.normal(size=len(wide))
        step = 2e-3 / np.sqrt(len(wide))
        rise = (value(wide + step * way) - value(wide - step * way)) / (2 * step)
        assert abs(rise - g @ way) < 0.02 * np.linalg.norm(g) * np.sqrt(len(wide)) ** 0.5 + 1e-3


@pytest.mark.parametrize("chain", CHAINS)
def test_resume_is_uninterrupted(chain):
    batch = rows(2, 120)
    whole, first = model(chain, scale=True), model(chain, scale=True)
    whole.learn(batch)
    first.learn(batch.slice(0, 64))
    again = model(chain, scale=True)
    again.load(first.state())
    again.take([first.own()])
    again.learn(batch.slice(64, 120))
    same(again, whole)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("merge", ["owner", "add", "average"])
def test_merge_gives_all_the_same_bits_and_one_alone_its_own(chain, merge):
    parts = [rows(s, 24) for s in range(3)]
    first = model(chain, merge=merge, scale=True)
    team = [first, first.fork(), first.fork()]
    for _ in range(2):
        for m, part in zip(team, parts, strict=True):
            m.learn(part)
        total = combine([m.update() for m in team])
        assert total.keys is None
        for m in team:
            m.merge(total, 3)
        same(team[0], team[1])
        same(team[0], team[2])
    alone, free = model(chain, merge=merge), model(chain, merge=merge)
    alone.learn(parts[0])
    free.learn(parts[0])
    alone.merge(alone.update(), 1)
    for path, block in free.state().items():
        if path != "model/steps":
            np.testing.assert_allclose(alone.state()[path].data, block.data, atol=2e-6, err_msg=path)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_merge_commutes(seed):
    ups = []
    for s in range(2):
        m = model("adam(0.01)")
        m.learn(rows(seed + s, 16))
        ups.append(m.update())
    a, b = model("adam(0.01)"), model("adam(0.01)")
    a.merge(combine(ups), 2)
    b.merge(combine(ups[::-1]), 2)
    same(a, b)


def test_orthogonal_changes_add_and_equal_ones_average():
    m = model(hidden=())
    one, two = np.zeros_like(m.net.theta), np.zeros_like(m.net.theta)
    one[0], two[1] = 1, 1

    def joined(a, b):
        squares = np.array([a[s] @ a[s] + b[s] @ b[s] for s in m.net.spans.values()], np.float32)
        return m._joined(a + b, squares, 2.0)

    np.testing.assert_allclose(joined(one, two), one + two)
    np.testing.assert_allclose(joined(one, one), one)


def test_classes_appear_as_they_come():
    m = model(outputs=10, width=2, hidden=())
    x = np.array([[1, 0], [0, 1]], np.float32)
    batch = Batch(np.array([7, 7], np.float32), np.arange(2), np.full(2, np.nan, np.float32), x=x)
    m.learn(batch)
    assert (m.predict(batch).argmax(1) == 7).all()
    for _ in range(200):
        batch.y = np.array([7, 2], np.float32)
        m.learn(batch)
    assert m.predict(batch).argmax(1).tolist() == [7, 2]
    p = m.link(m.predict(batch))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-4)
    assert p[:, [0, 1, 3, 4, 5, 6, 8, 9]].max() < 1e-6
    batch.y = np.array([10, 2], np.float32)
    with pytest.raises(DataError, match="from 0 to 9, found 10"):
        m.learn(batch)


def test_bad_rows_are_scored_and_passed_over():
    batch = rows(4, 16)
    batch.y[3] = np.nan
    batch.x[5, 0] = np.nan
    m, clean = model(), model()
    scores = m.learn(batch)
    assert len(scores) == 16 and m.bad == 1
    assert np.isfinite(m.net.theta).all()
    want = clean.learn(rows(4, 16))
    np.testing.assert_array_equal(scores[:3], want[:3])
    with pytest.raises(DataError, match="expected 6 columns, found 5"):
        m.learn(rows(1, d=5))
    with pytest.raises(DataError, match="outside the key space"):
        model(width=10).learn(thin(0))
    empty = rows(1).slice(0, 0)
    assert m.learn(empty).shape == (0, 3)


def test_labels_that_are_all_equal_do_no_harm():
    batch = rows(6, 64)
    batch.y[:] = 1
    m = model("adam(0.01)")
    m.learn(batch)
    assert np.isfinite(m.net.theta).all() and (m.predict(batch).argmax(1) == 1).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="1 to 4 layers"):
        Mlp([3, 4, 4, 4, 4, 2])
    with pytest.raises(ConfigError, match="relu or tanh"):
        Mlp([3, 2], activation="gelu")
    with pytest.raises(StoreError, match="model/theta: expected shape"):
        model().load(model(hidden=(9,)).state())
    with pytest.raises(ShardError, match="track"):
        model(tracked=False).update()


def test_it_learns_what_sklearn_learns():
    sklearn = pytest.importorskip("sklearn.datasets")
    from sklearn.linear_model import SGDClassifier

    found = sklearn.load_digits()
    x, y = (found.data / 16).astype(np.float32), found.target.astype(np.float32)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order], y[order]
    m = model("adam(0.003)", outputs=10, width=64, hidden=(64,), batch=10)
    hits = [m.learn(Batch(y[:1500], np.arange(1500), y[:1500], x=x[:1500])) for _ in range(3)]
    got = (m.predict(Batch(y[1500:], np.arange(297), y[1500:], x=x[1500:])).argmax(1) == y[1500:]).mean()
    peer = SGDClassifier(loss="log_loss", random_state=0).fit(x[:1500], y[:1500])
    assert got >= peer.score(x[1500:], y[1500:]) - 0.01
    assert (hits[0].argmax(1) == y[:1500]).mean() > 0.6
