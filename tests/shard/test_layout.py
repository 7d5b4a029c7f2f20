"""Laws of every rule: each row one owner, the union complete, ranges in order; columns cut and put together again."""
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError, DataError, ShardError
from engine.shard.layout import Bounds, Columns, estimate, whole
from engine.shard.rule import owner
from engine.types import Batch

RAGGED = Batch(*np.zeros((3, 2)), x=np.array([[1], [1, 2]], object))
RULES = ("deal", "hash", "random", "range", "part", "window", "user")


def rows_of(n, width=3, seed=1, sparse=False):
    draw = np.random.default_rng(seed)
    y, order, previous = np.zeros(n, np.float32), np.arange(n), np.zeros(n, np.float32)
    if not sparse:
        return Batch(y, order, previous, x=draw.normal(size=(n, width)).astype(np.float32))
    count = draw.integers(0, 4, n)
    indptr = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    keys = draw.integers(0, width, indptr[-1]).astype(np.uint32)
    return Batch(y, order, previous, indptr=indptr, keys=keys, values=draw.normal(size=indptr[-1]).astype(np.float32))


@given(rule=st.sampled_from(RULES), size=st.integers(1, 9), n=st.integers(0, 80), cut=st.integers(0, 80), sparse=st.booleans())
def test_each_row_has_one_owner_however_the_rows_are_cut(rule, size, n, cut, sparse):
    rows, cut = rows_of(n, sparse=sparse), min(cut, n)
    bounds = np.arange(1, size) / size if not sparse else np.arange(1, size)
    more = {"block_rows": 4, "seed": 5, "bounds": bounds, "window": 7.0, "user": lambda order, batch, size: order % size}
    found = owner(rule, rows.order, rows, size, **more)
    assert found.shape == (n,)
    assert ((found >= 0) & (found < size)).all()
    parts = [owner(rule, rows.order[a:b], rows.slice(a, b), size, **more) for a, b in ((0, cut), (cut, n))]
    assert np.array_equal(np.concatenate(parts), found)
    if rule == "range" and not sparse:
        assert (np.diff(found[np.argsort(rows.x[:, 0])]) >= 0).all()


@given(sample=st.lists(st.integers(-50, 50), min_size=1, max_size=300), parts=st.integers(1, 12), seed=st.integers(0, 999))
def test_ranges_stay_whole_and_in_order_through_splits_and_merges(sample, parts, seed):
    draw, keys = np.random.default_rng(seed), np.arange(-60, 61)
    made = Bounds.learn(np.array(sample), parts)
    assert len(made.ids) <= parts
    before = made.find(keys)
    for _ in range(6):
        part = int(draw.choice(made.ids))
        inside = keys[made.find(keys) == part]
        if draw.random() < 0.5 and len(inside) > 1:
            new = made.split(part, int(inside[draw.integers(1, len(inside))]))
            now = made.find(keys)
            assert set(before[now == new].tolist()) == {part}
        elif part != made.ids[-1]:
            gone = made.merge(part)
            now = made.find(keys)
            assert set(now[before == gone].tolist()) <= {part}
        else:
            continue
        assert np.array_equal(now[~np.isin(before, [part, *made.ids])], now[~np.isin(before, [part, *made.ids])])
        same = ~np.isin(before, [part]) & ~np.isin(now, [part])
        assert np.array_equal(now[same], before[same])
        place = {int(i): n for n, i in enumerate(made.ids)}
        assert (np.diff([place[int(p)] for p in now]) >= 0).all()
        before = now


def test_learned_bounds_even_out_a_skewed_key_and_adapt_to_drift():
    draw = np.random.default_rng(0)
    sample = draw.lognormal(size=20_000)
    made = Bounds.learn(sample, 16)
    load = np.bincount(made.find(sample), minlength=16)
    assert load.max() <= 1.02 * load.mean()
    moved = draw.lognormal(mean=2.0, size=20_000)
    worst = np.bincount(made.find(moved), minlength=16).max()
    for _ in range(6):
        made.adapt(moved)
    after = np.unique(made.find(moved), return_counts=True)[1]
    assert after.max() * 2.5 < worst
    assert after.max() <= 2.1 * len(moved) / len(made.ids)


def scores(rows, weights):
    return np.array([rows.values[a:b] @ weights[rows.keys[a:b]] for a, b in itertools.pairwise(rows.indptr)])


@given(width=st.integers(1, 12), groups=st.integers(1, 12), by=st.sampled_from(["range", "hash"]), n=st.integers(0, 20))
def test_columns_put_together_again_are_the_rows(width, groups, by, n):
    groups = min(groups, width)
    made = Columns(width, groups, by=by)
    assert sorted(np.concatenate([made.of(g) for g in range(groups)]).tolist()) == list(range(width))
    dense = rows_of(n, width)
    assert np.array_equal(whole([made.take(dense, g) for g in range(groups)], made).x, dense.x)
    sparse = rows_of(n, width, sparse=True)
    weights = np.random.default_rng(2).normal(size=width)
    pieces = [(made.take(sparse, g), weights[made.of(g)]) for g in range(groups)]
    total = sum(scores(part, w) for part, w in pieces)
    want = scores(sparse, weights)
    assert np.allclose(total, want, atol=1e-5)


def test_weighted_columns_even_out_the_work():
    weight = np.r_[np.full(10, 100.0), np.ones(1000)]
    load = np.bincount(Columns(1010, 4, weight=weight).group, weight)
    assert load.max() <= 1.2 * load.mean()


def test_a_piece_is_cheap_or_the_overhead_shows():
    load = np.random.default_rng(1).lognormal(size=4096)
    cost = {"overhead_s": 1e-4, "seconds_a_load": 1e-3}
    coarse, fine = (estimate(np.add.reduceat(load, np.arange(0, 4096, k)), 16, **cost) for k in (256, 8))
    assert coarse[0] > fine[0] >= 1
    assert coarse[1] < fine[1]


@pytest.mark.parametrize(("call", "kind", "said"), [
    (lambda: owner("hash", np.arange(3), rows_of(3), 2, key_column=9), DataError, "key column is missing: expected column 9"),
    (lambda: owner("range", np.arange(3), rows_of(3), 2, key_column=9, bounds=np.zeros(1)), DataError, "found 3 columns"),
    (lambda: owner("user", np.arange(3), rows_of(3), 2, user=lambda o, b, s: o), ShardError, "expected shards 0 to 1, found 2"),
    (lambda: owner("user", np.arange(3), rows_of(3), 2, user=lambda o, b, s: o[:1]), ShardError, "expected 3 whole numbers"),
    (lambda: owner("user", np.arange(3), rows_of(3), 2, user=lambda o, b, s: o / 2), ShardError, "expected 3 whole numbers"),
    (lambda: owner("user", np.arange(3), rows_of(3), 2), ConfigError, "expected a function"),
    (lambda: owner("window", np.arange(3), rows_of(3), 2), ConfigError, "a span above 0"),
    (lambda: owner("window", np.arange(3), rows_of(3), 2, window=1, time=np.array([0, np.nan, 1])), DataError, "no time"),
    (lambda: Columns(3, 5), ConfigError, "expected 1 to 3 groups, found 5"),
    (lambda: Columns(4, 2).take(rows_of(3), 0), DataError, "expected rows of 4 columns, found 3"),
    (lambda: Columns(2, 2).take(RAGGED, 0), DataError, "found ragged rows"),
    (lambda: Columns(2, 2).take(rows_of(9, 3, sparse=True), 0), DataError, "expected keys below 2"),
    (lambda: Bounds(np.array([1.0, 2.0])).split(1, 5.0), ShardError, "expected a bound inside range 1"),
    (lambda: Bounds(np.array([2.0, 1.0])), ConfigError, "strictly ascending"),
])
def test_bad_input_is_refused_before_data_moves(call, kind, said):
    with pytest.raises(kind, match=said):
        call()
