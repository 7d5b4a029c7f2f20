"""Selection: native is plain on every ISA and split; exact k with all ties; what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels import _native
from engine.kernels.plain import sparse as plain

ISAS = _native.isa_runs()


def data(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(n).astype(np.float32)) ** 3


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 127, 1021, 9001])
def test_threshold_is_plain_in_any_split(isa, n):
    g, start = data(n), data(n, 1)
    if n > 20:
        g[[3, 17]] = np.nan, np.inf
    for t in (0.0, 0.5, 1e9):
        want, i, v = start.copy(), np.zeros(n, np.uint32), np.zeros(n, np.float32)
        _, count, bad = plain.threshold_encode(g, want, 0, t, i, v)
        for room in (n + 64, 200):
            e, pairs, at, found = start.copy(), [], 0, 0
            while at < n:
                j, w = np.zeros(room, np.uint32), np.zeros(room, np.float32)
                at, part, more = _native.threshold_encode(g, e, at, t, j, w, isa=isa)
                found += more
                pairs.append((j[:part], w[:part]))
            assert e.tobytes() == want.tobytes() and found == bad
            if pairs:
                assert np.concatenate([p[0] for p in pairs]).tobytes() == i[:count].tobytes()
                assert np.concatenate([p[1] for p in pairs]).tobytes() == v[:count].tobytes()
        sent = np.zeros(n, np.float32)
        _native.scatter_add(i[:count], v[:count], sent)
        x = g + start
        assert np.array_equal(sent + want, np.where(np.isfinite(x), x, start))


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.0000001, 2.0, 1e-41, -3e38, 0.5]), min_size=1, max_size=300),
    st.data(),
)
@settings(deadline=None, max_examples=60)
def test_keep_is_exact_with_ties(values, draw):
    x = np.array(values, np.float32)
    k = draw.draw(st.integers(1, len(x)))
    order = np.sort(np.argsort(-np.abs(x), kind="stable")[:k])
    for keep in (_native.topk_keep, plain.topk_keep):
        e, i, v = np.zeros(len(x), np.float32), np.arange(len(x), dtype=np.uint32), x.copy()
        edge = keep(i, v, len(x), k, e)
        assert np.array_equal(i[:k], order) and v[:k].tobytes() == x[order].tobytes() and edge == np.abs(x[order]).min()
        e[i[:k]] += v[:k]
        assert np.array_equal(e, x)


@given(st.integers(0, 5000), st.integers(0, 2**64 - 1), st.data())
@settings(deadline=None, max_examples=60)
def test_strata_are_plain_and_one_each(n, key, draw):
    k = draw.draw(st.integers(0, n))
    got, want = np.zeros(k, np.uint32), np.zeros(k, np.uint32)
    _native.strata(n, key, got)
    plain.strata(n, key, want)
    assert got.tobytes() == want.tobytes()
    edge = [i * n // max(1, k) for i in range(k + 1)]
    assert all(low <= i < high for i, low, high in zip(got, edge[:-1], edge[1:], strict=True))


def test_strata_draw_evenly():
    index = np.zeros(50_000, np.uint32)
    _native.strata(50_000 * 10, 99, index)
    count = np.bincount(index % 10, minlength=10)
    assert np.abs(count - 5000).max() < 5 * np.sqrt(5000 * 0.9)


def test_foreign_indices_are_refused():
    acc = np.zeros(5, np.float32)
    with pytest.raises(ValueError):
        _native.scatter_add(np.array([1, 5], np.uint32), np.ones(2, np.float32), acc)
    assert not acc.any()
    with pytest.raises(ValueError):
        _native.topk_keep(np.array([9], np.uint32), np.ones(1, np.float32), 1, 1, acc)
