import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, log_loss, roc_auc_score

from engine.errors import DataError
from engine.kernels import _native
from engine.kernels.plain import score
from engine.types import Batch
from engine.watch.meter import Meter


def rows(n, task="binary", classes=2, seed=0, gap=1):
    rng = np.random.default_rng(seed)
    y = rng.standard_normal(n) if task == "regression" else rng.integers(0, classes, n)
    y = y.astype(np.float32)
    previous = np.concatenate([[np.nan], y[:-1]]).astype(np.float32)
    batch = Batch(y, np.arange(n, dtype=np.int64) * gap, previous)
    shape = (n, classes) if task == "multiclass" else n
    scores = rng.standard_normal(shape).astype(np.float32) * 2
    if task == "binary":
        scores += y - 0.5
    return scores, batch


def state_equal(a, b, exact=True):
    for key, value in a.items():
        (np.testing.assert_array_equal if exact else np.testing.assert_allclose)(b[key], value)


@pytest.mark.parametrize("isa", _native.isa_runs())
def test_binary_kernel_gives_the_plain_bits(isa):
    scores, batch = rows(20000)
    scores[:9] = [np.nan, np.inf, -np.inf, 0, -0.0, 16, -16, 1e30, -1e-30]
    batch.y[50:60] = np.nan

    def fresh():
        return np.zeros((40, 7), np.int64), np.zeros((2, 2), np.int64), np.zeros((2, 65536), np.int64)

    got, want = fresh(), fresh()
    args = (scores, batch.y, batch.previous, batch.order)
    assert _native.score_binary(*args, 0, got[0], 500, got[1], got[2], isa=isa) == 20000
    score.score_binary(*args, want[0], 500, want[1], want[2])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_binary_against_sklearn():
    scores, batch = rows(5000)
    meter = Meter("binary")
    meter.add(scores, batch)
    got = meter.summary()
    y, p = batch.y.astype(int), 1 / (1 + np.exp(-scores.astype(float)))
    assert got["rows"] == 5000 and got["accuracy"] == np.mean((scores > 0) == y)
    assert got["logloss"] == pytest.approx(log_loss(y, p), abs=1e-7)
    assert got["auc"] == pytest.approx(roc_auc_score(y, scores), abs=1e-4)
    assert got["kappa"] == pytest.approx(cohen_kappa_score(y, scores > 0), abs=1e-12)
    same = np.mean(batch.previous == y)
    assert got["no_change"] == same
    assert got["kappa_temporal"] == pytest.approx((got["accuracy"] - same) / (1 - same))
    last = slice(5000 - got["window_rows"], None)
    assert 1000 <= got["window_rows"] <= 1125
    assert got["window_accuracy"] == np.mean((scores > 0)[last] == y[last])


def test_multiclass_and_regression_against_numpy():
    scores, batch = rows(3000, "multiclass", 5)
    meter = Meter("multiclass", 5)
    meter.add(scores, batch)
    got, y = meter.summary(), batch.y.astype(int)
    p = 1 / (1 + np.exp(-scores.astype(float)))
    p /= p.sum(1, keepdims=True)
    assert got["accuracy"] == np.mean(scores.argmax(1) == y)
    assert got["logloss"] == pytest.approx(log_loss(y, p), abs=1e-6)
    assert got["kappa"] == pytest.approx(cohen_kappa_score(y, scores.argmax(1)), abs=1e-12)
    scores, batch = rows(3000, "regression")
    meter = Meter("regression")
    meter.add(scores, batch)
    got, e = meter.summary(), batch.y.astype(float) - scores
    assert got["rmse"] == pytest.approx(np.sqrt(np.mean(e * e))) and got["mae"] == pytest.approx(np.mean(np.abs(e)))
    assert got["no_change"] == pytest.approx(np.sqrt(np.mean(np.diff(batch.y.astype(float)) ** 2)))
    assert 0.9 < got["mean"] < 1.1


def test_majority_is_the_most_frequent_label_of_earlier_buckets():
    meter = Meter("multiclass", 3, window=8)
    y = np.array([2, 2, 1, 0, 0, 0, 0, 2], np.float32)
    meter.add(np.zeros((8, 3), np.float32), Batch(y, np.arange(8), np.full(8, np.nan, np.float32)))
    guesses = [0, 2, 2, 2, 2, 0, 0, 0]
    assert meter.bucket_rows == 1 and meter.summary()["majority"] == np.mean(guesses == y)
    assert meter.summary()["no_change"] == 0


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["binary", "multiclass", "regression"]),
    st.integers(1, 5),
    st.integers(1, 900),
    st.integers(1, 60),
    st.randoms(),
)
def test_scores_do_not_depend_on_which_rank_saw_a_row(task, ranks, n, gap, random):
    classes = {"binary": 2, "multiclass": 3, "regression": 0}[task]
    scores, batch = rows(n, task, classes or 2, seed=n, gap=gap)
    one = Meter(task, classes, window=16, buckets=64)
    one.add(scores, batch)
    owner = np.array([random.randrange(ranks) for _ in range(n)])
    states = []
    for rank in range(ranks):
        meter = Meter(task, classes, window=16, buckets=64)
        mine = np.flatnonzero(owner == rank)
        for part in np.array_split(mine, 3):
            meter.add(np.ascontiguousarray(scores[part]), batch.take(part))
        states.append(meter.state())
    random.shuffle(states)
    exact = task != "regression"
    both = Meter.merged(states)
    state_equal(one.state(), both.state(), exact)
    back = Meter(task, classes, window=16, buckets=64)
    back.load(both.state())
    state_equal(both.state(), back.state())
    assert len(one.state()["table"]) <= 64
    if exact:
        assert repr(both.summary()) == repr(one.summary())
    else:
        assert both.summary() == pytest.approx(one.summary(), nan_ok=True)


def test_curve_is_thin_and_adds_up():
    scores, batch = rows(60000)
    meter = Meter("binary", window=80)
    meter.add(scores, batch)
    curve = meter.curve(100)
    assert 50 <= len(curve["rows"]) <= 100 and curve["rows"][-1] >= 60000 and np.all(np.diff(curve["rows"]) > 0)
    assert np.mean(curve["accuracy"]) == pytest.approx(meter.summary()["accuracy"], abs=0.002)
    assert Meter("binary").curve()["rows"].size == 0 and np.isnan(Meter("binary").summary()["accuracy"])


def test_bad_rows_are_named():
    for y, order in ((3.0, 7), (0.5, 7), (1.0, -1)):
        batch = Batch(np.array([0, y], np.float32), np.array([6, order]), np.zeros(2, np.float32))
        for task, scores in (("binary", np.zeros(2, np.float32)), ("multiclass", np.zeros((2, 3), np.float32))):
            with pytest.raises(DataError, match=f"row {order}"):
                Meter(task, 3 if task == "multiclass" else 2).add(scores, batch)
    with pytest.raises(ValueError, match="differ"):
        Meter("binary").add(np.zeros(3, np.float32), batch)
    with pytest.raises(ValueError, match="expected task"):
        Meter("binary").load(Meter("regression").state())
