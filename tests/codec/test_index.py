"""Index sets: identity, the cheapest form, and refusal of what is not a set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec.index import HEAD, index_decode, index_encode
from engine.errors import FrameError
from engine.kernels import _native


def draw(kind: str, n: int, density: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "runs":
        rows = np.flatnonzero(rng.random(max(1, n // 50)) < density)
        return (rows[:, None] * 50 + np.arange(50)).ravel()
    return np.flatnonzero(rng.random(n) < density)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["even", "runs"]), st.integers(0, 30000), st.sampled_from([0, 0.001, 0.05, 0.4, 0.97, 1]),
       st.integers(0, 9), st.booleans(), st.sampled_from([np.uint32, np.uint64]))
def test_identity(kind, n, density, seed, fast, dtype):
    index = draw(kind, n, density, seed).astype(dtype)
    data = index_encode(index, n + 50, fast=fast)
    again = index_decode(data)
    assert again.dtype == dtype and np.array_equal(again, index)


@pytest.mark.parametrize("isa", _native.isa_runs())
@pytest.mark.parametrize("kind", ["even", "runs"])
@pytest.mark.parametrize("fast", [False, True])
def test_same_bytes_everywhere(isa, kind, fast):
    index, n = draw(kind, 300_000, 0.3, 1).astype(np.uint32), 300_000
    outs = []
    for level in ("base", isa):
        out = np.empty(_native.index_bound(len(index), n), np.uint8)
        outs.append(out[: _native.index_encode(index, n, out, fast, isa=level)])
    assert np.array_equal(*outs)
    again = np.empty_like(index)
    assert _native.index_decode(outs[0], n, again, isa=isa) == len(outs[0]) and np.array_equal(again, index)


@pytest.mark.parametrize(
    ("index", "most"),
    [
        (np.arange(100_000, dtype=np.uint32), 100),  # one run
        (np.arange(0, 100_000, 2, dtype=np.uint32), 7_000),  # one gap again and again: a bit each
        (draw("even", 100_000, 0.5, 3).astype(np.uint32), 12_600),  # a bitmap's worth
        (draw("runs", 1_000_000, 0.013, 3).astype(np.uint32), 1_000),  # rows: below 0.3 bit an index
    ],
)
def test_size(index, most):
    assert len(index_encode(index, int(index[-1]) + 1)) <= most


def test_near_entropy():
    n, p = 1 << 22, 0.01
    index = draw("even", n, p, 5).astype(np.uint32)
    p = len(index) / n
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) / p
    assert len(index_encode(index, n)) * 8 / len(index) <= entropy + 0.2


def test_large():
    index = np.array([0, 5, 2**32 - 1, 2**32, 2**40, 2**63], np.uint64)
    assert np.array_equal(index_decode(index_encode(index, 2**64 - 1)), index)
    top = np.array([2**32 - 2, 2**32 - 1], np.uint32)
    assert np.array_equal(index_decode(index_encode(top, 2**32)), top)


@pytest.mark.parametrize("index", [[3, 3], [4, 2], [1, 10]])
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_not_a_set(index, dtype):
    with pytest.raises(ValueError, match="ascending"):
        index_encode(np.array(index, dtype), 10)


@pytest.mark.parametrize("kind", ["even", "runs"])
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_every_prefix_is_refused(kind, dtype):
    data = index_encode(draw(kind, 3000, 0.1, 2).astype(dtype), 4000)
    for size in range(len(data)):
        with pytest.raises(FrameError):
            index_decode(data[:size])
    with pytest.raises(FrameError):
        index_decode(data + b"\0")


@pytest.mark.parametrize("fast", [False, True])
def test_flips_are_refused_or_are_a_set(fast):
    rng = np.random.default_rng(7)
    data = np.frombuffer(index_encode(draw("even", 200_000, 0.05, 2).astype(np.uint32), 200_000, fast=fast), np.uint8)
    for place in rng.integers(HEAD.size, len(data), 300):
        bad = data.copy()
        bad[place] ^= 1 << int(rng.integers(8))
        try:
            index = index_decode(bad)
        except FrameError:
            continue
        assert (np.diff(index.astype(np.int64)) > 0).all() and index[-1] < 200_000
