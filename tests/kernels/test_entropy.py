"""The class coder: every instruction set gives the bytes of plain, and reads them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels import _native
from engine.kernels.plain import entropy as plain


def native(values, cond, isa=""):
    out = np.empty(_native.class_bound(len(values)), np.uint8)
    return out[: _native.class_encode(values, cond, out, isa=isa)].tobytes()


@settings(max_examples=25)
@given(st.sampled_from([1, 2, 31, 500, 2100, 16384, 16399, 66_000]), st.sampled_from([0, 1, 8, 20, 32]), st.booleans(),
       st.integers(0, 99))
def test_plain_is_the_definition(n, bits, under, seed):
    draw = np.random.default_rng(seed)
    shift = np.minimum(64, 31 - bits + draw.geometric(0.4, n)).astype(np.uint64)
    values = (draw.integers(0, 2**32, n, np.uint64) >> shift).astype(np.uint32)
    cond = np.clip(draw.normal(120, 3, n), 0, 255).astype(np.uint8) if under else None
    want = plain.class_encode(values, cond)
    got, used = plain.class_decode(want, cond, n)
    assert np.array_equal(got, values) and used == len(want)
    for isa in _native.isa_runs():
        assert native(values, cond, isa) == want, isa
        out = np.empty(n, np.uint32)
        assert _native.class_decode(np.frombuffer(want, np.uint8), cond, out, isa=isa) == len(want)
        assert np.array_equal(out, values)


@settings(max_examples=40)
@given(st.integers(1, 40_000), st.sampled_from([0.001, 0.02, 0.3, 0.9, 1]), st.integers(1, 60), st.integers(0, 9))
def test_index_sets_are_plain(n, share, run, seed):
    index = np.flatnonzero(np.repeat(np.random.default_rng(seed).random(-(-n // run)) < share, run)[:n]).astype(np.uint32)
    out = np.empty(_native.index_bound(len(index), n), np.uint8)
    assert out[: _native.index_encode(index, n, out)].tobytes() == plain.index_encode(index, n)


@pytest.mark.parametrize("isa", _native.isa_runs())
def test_flips_in_a_code_are_refused_or_are_a_code(isa):
    draw = np.random.default_rng(1)
    values = draw.geometric(0.01, 20_000).astype(np.uint32)
    good = np.frombuffer(native(values, None), np.uint8)
    for _ in range(500):
        bad = good.copy()
        bad[draw.integers(len(bad))] ^= 1 << draw.integers(8)
        try:
            _native.class_decode(bad[: draw.integers(len(bad) + 1)], None, np.empty(len(values), np.uint32), isa=isa)
        except ValueError:
            continue
