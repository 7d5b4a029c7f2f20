import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels import _native
from engine.kernels.plain import learn as plain

LOSSES = ["squared", "logistic", "hinge", "quantile", "poisson", "epsilon"]
PAIRS = [(a, b) for a in ("sgd", "adagrad", "ftrl", "nag") for b in LOSSES]
PAIRS += [(a, b) for a in ("pa1", "pa2") for b in ("hinge", "epsilon")]


def rule_of(learner, loss, **more):
    rule = {"learner": learner, "loss": loss, "rate": 0.25, "power_t": 0.5, "beta": 0.5, "l1": 0.01, "l2": 0.02,
            "tau": 0.3, "epsilon": 0.1, "bias": 1.0}
    if learner.startswith("pa"):
        rule |= {"l1": 0.0, "l2": 0.0}
    return rule | more


def native(rule, block, clock, classes=1, tracked=False):
    numbers = [rule[k] for k in ("rate", "power_t", "beta", "l1", "l2", "tau", "epsilon", "bias")]
    return _native.Learner(block, clock, None, classes, rule["loss"], rule["learner"], numbers, False, tracked, "owner")


def rows_of(rng, count, width, ones):
    sizes = rng.integers(0, 11, count)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    keys = rng.integers(0, width, indptr[-1]).astype(np.uint32)  # keys meet within a row: learned in turn
    values = None if ones else rng.normal(size=len(keys)).astype(np.float32)
    return indptr, keys, values


@pytest.mark.parametrize(("learner", "loss"), PAIRS)
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("ones", [True, False])
def test_native_is_plain_bit_for_bit(learner, loss, classes, ones):
    rng, width, count = np.random.default_rng(3), 12, 60
    rule = rule_of(learner, loss)
    indptr, keys, values = rows_of(rng, count, width, ones)
    y = rng.integers(0, classes + 1, count).astype(np.float32)
    block, clock = np.zeros(((width + 1) * classes, 4), np.float32), np.zeros(2)
    want, ticks = block.copy(), clock.copy()
    scores = np.empty((count, classes), np.float32)
    native(rule, block, clock, classes, tracked=True).learn(scores, y, None, indptr, keys, values)
    for i in range(count):
        part = slice(indptr[i], indptr[i + 1])
        row = np.append(keys[part], np.uint32(width))
        x = np.append(np.ones(len(row) - 1, np.float32) if ones else values[part], np.float32(1))
        got = plain.learn(rule, want, ticks, classes, row, x, y[i])
        np.testing.assert_array_equal(scores[i], got)
    np.testing.assert_array_equal(block[:, :3].view(np.uint32), want[:, :3].view(np.uint32))
    np.testing.assert_array_equal(clock, ticks)
    assert np.abs(block[:, 0]).max() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_slope_is_the_difference_quotient(loss):
    value = {
        "squared": lambda m, y: (m - y) ** 2 / 2,
        "logistic": lambda m, y: np.log1p(np.exp(-m * (2 * y - 1))),
        "hinge": lambda m, y: np.maximum(0, 1 - m * (2 * y - 1)),
        "quantile": lambda m, y: np.where(y > m, 0.3 * (y - m), 0.7 * (m - y)),
        "poisson": lambda m, y: np.exp(m) - y * m,
        "epsilon": lambda m, y: np.maximum(0, np.abs(y - m) - 0.1),
    }[loss]
    m = np.random.default_rng(1).uniform(-3, 3, 200).astype(np.float32)
    y = (np.arange(200) % 2).astype(np.float32)
    out = np.empty_like(m)
    native(rule_of("sgd", loss), np.zeros((2, 4), np.float32), np.zeros(2)).slope(m, y, out)
    h = 1e-6
    want = (value(m.astype(float) + h, y) - value(m.astype(float) - h, y)) / (2 * h)
    np.testing.assert_allclose(out, want, atol=2e-4)


def test_sigmoid_is_close_everywhere():
    m = np.linspace(-100, 100, 20001).astype(np.float32)
    out = np.empty_like(m)
    _native.sigmoid(m, out)
    want = 1 / (1 + np.exp(-np.clip(m.astype(float), -88, 87)))
    np.testing.assert_allclose(out, want, rtol=3e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["sgd", "adagrad", "ftrl", "nag", "pa1", "pa2"]), st.integers(1, 4))
def test_tracking_and_cutting_change_no_bit(seed, learner, cuts):
    rng = np.random.default_rng(seed)
    rule, width, count = rule_of(learner, "hinge"), 40, 50
    indptr, keys, values = rows_of(rng, count, width, seed % 2 == 0)
    y = rng.integers(0, 2, count).astype(np.float32)
    blocks, outs = [], []
    for tracked, edges in ((False, [0, count]), (True, [0, *np.sort(rng.integers(0, count, cuts)), count])):
        block, scores = np.zeros((width + 1, 4), np.float32), np.empty(count, np.float32)
        learner_ = native(rule, block, np.zeros(2), tracked=tracked)
        for low, high in itertools.pairwise(edges):
            part = slice(indptr[low], indptr[high])
            learner_.learn(scores[low:high], y[low:high], None, indptr[low:high + 1] - indptr[low], keys[part],
                           None if values is None else values[part])
        blocks.append(block[:, :3].tobytes())
        outs.append(scores.tobytes())
    assert blocks[0] == blocks[1]
    assert outs[0] == outs[1]


def test_many_first_touches_outgrow_the_track():
    width = 5000
    block = np.zeros((width + 1, 4), np.float32)
    learner = native(rule_of("ftrl", "logistic", l1=0.0), block, np.zeros(2), tracked=True)
    keys, indptr = np.arange(width, dtype=np.uint32)[::-1].copy(), np.arange(width + 1, dtype=np.int64)
    learner.learn(np.empty(width, np.float32), np.ones(width, np.float32), None, indptr, keys)
    got, values = learner.update()
    np.testing.assert_array_equal(got, np.arange(width + 1))
    assert (values[:, 5] == 1).all()
    assert (values[:, 0] < 0).all()


def test_rows_outside_the_block_are_refused():
    learner = native(rule_of("sgd", "squared"), np.zeros((5, 4), np.float32), np.zeros(2))
    out, y = np.empty(1, np.float32), np.zeros(1, np.float32)
    indptr = np.array([0, 1], np.int64)
    with pytest.raises(IndexError, match="key 4 outside the key space of 4"):  # row 4 is the bias
        learner.learn(out, y, None, indptr, np.array([4], np.uint32))
    with pytest.raises(ValueError, match="end within keys"):
        learner.learn(out, y, None, np.array([0, 2], np.int64), np.array([1], np.uint32))
    with pytest.raises(ValueError, match="columns"):
        learner.learn(out, y, x=np.zeros((1, 5), np.float32))
    with pytest.raises(TypeError):
        learner.learn(out.astype(np.float64), y, None, indptr, np.array([1], np.uint32))


def dense_case(seed, width, count, odd):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(count, width)).astype(np.float32), rng.integers(-1, 2, count).astype(np.float32)
    if odd and count and width:  # rows to be passed over: no label, no number, too large a number
        for value in (np.nan, np.inf, -np.inf, np.float32(3e38)):
            x[rng.integers(0, count), rng.integers(0, width)] = value
        y[rng.integers(0, count, 3)] = np.nan, np.inf, np.nan
    weight = rng.choice(np.float32([0, 0.5, 1, 3]), count) if seed % 2 else None
    block = rng.normal(size=(width + 7, 4)).astype(np.float32)
    block[:, 1:3] = np.abs(block[:, 1:3])
    block[:, 3] = 0
    return x, y, weight, block


@settings(deadline=None, max_examples=120)
@given(st.integers(0, 2**32 - 1), st.sampled_from(PAIRS), st.sampled_from([0, 1, 3, 4, 5, 9, 40, 1025]), st.integers(0, 40),
       st.booleans(), st.booleans(), st.booleans())
def test_dense_rows_are_sparse_rows_that_name_every_key_bit_for_bit(seed, pair, width, count, odd, tracked, bias):
    """Scores, weights, marks, the update and what is refused; in calls of many rows (dense.h), of few, and one by one."""
    x, y, weight, start = dense_case(seed, width, count, odd)
    rule = rule_of(*pair, bias=0.75 if bias else 0.0)
    keys = np.arange(width, dtype=np.uint32)
    ends, found = [0, count // 2, count], []
    for kind in ("dense", "sparse"):
        block, clock, scores, bad = start.copy(), np.zeros(2), np.zeros(count, np.float32), 0
        learner = native(rule, block, clock, tracked=tracked)
        before = np.zeros((2, count), np.float32)
        for at, (low, high) in enumerate(itertools.pairwise(ends)):
            n = high - low
            rows = {"x": x[low:high]}
            if kind == "sparse":
                rows = {"indptr": np.arange(n + 1, dtype=np.int64) * width, "keys": np.tile(keys, n),
                        "values": x[low:high].ravel()}
            learner.predict(before[at, low:high], **rows)
            bad += learner.learn(scores[low:high], y[low:high], None if weight is None else weight[low:high], **rows)
        update = list(learner.update()) if tracked else []
        for each in (scores, before, block, *update[1:]):  # a ruined model scores inf here and NaN there
            each[~np.isfinite(each)] = np.nan
        found.append([bad, *(part.tobytes() for part in (scores, before, block, clock, *update))])
    assert found[0] == found[1]


@pytest.mark.parametrize("learner", ["sgd", "adagrad", "ftrl", "nag", "pa1"])
def test_a_scaler_learns_the_same_row_by_row_and_at_once(learner):
    x, y, _, _ = dense_case(5, 9, 60, odd=True)
    found = []
    for cuts in ([0, 60], range(61)):
        block, scale, scores = np.zeros((10, 4), np.float32), np.zeros((9, 3)), np.empty(60, np.float32)
        rule = rule_of(learner, "epsilon")
        numbers = [rule[k] for k in ("rate", "power_t", "beta", "l1", "l2", "tau", "epsilon", "bias")]
        whole = _native.Learner(block, np.zeros(2), scale, 1, "epsilon", learner, numbers, False, True, "owner")
        for low, high in itertools.pairwise(cuts):
            whole.learn(scores[low:high], y[low:high], x=x[low:high])
        found.append((block.tobytes(), scale.tobytes(), scores.tobytes(), whole.update()[1].tobytes()))
    assert found[0] == found[1]
