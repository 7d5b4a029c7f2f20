"""Erasure kernels: every instruction set gives the bytes of plain, at any length and alignment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels import _native
from engine.kernels.plain import parity as plain


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 700), st.integers(0, 63), st.booleans(), st.integers(0, 99))
def test_every_path_is_plain(k, m, n, shift, keep, seed):
    draw = np.random.default_rng(seed)
    matrix = draw.choice(np.array([0, 1, 2, 29, 128, 255], np.uint8), (m, k))
    data = [draw.integers(0, 256, n + shift, np.uint8)[shift:] for _ in range(k)]
    start = [draw.integers(0, 256, n, np.uint8) for _ in range(m)]
    want = [block.copy() for block in start]
    plain.parity_dot(matrix, data, want, keep)
    for isa in _native.isa_runs():
        got = [block.copy() for block in start]
        _native.parity_dot(matrix, data, got, keep, isa=isa)
        assert all(map(np.array_equal, got, want)), isa


@pytest.mark.parametrize("isa", _native.isa_runs())
def test_every_product(isa):
    x = np.arange(256, dtype=np.uint8)
    for c in range(256):
        got = np.empty(256, np.uint8)
        _native.parity_dot(np.array([[c]], np.uint8), [x], [got], isa=isa)
        assert np.array_equal(got, plain.product(np.uint8(c), x))


def test_the_field_is_a_field():
    x = np.arange(256, dtype=np.uint8)
    table = plain.product(x[:, None], x)
    assert np.array_equal(table, table.T) and all(len(set(row)) == 256 for row in table[1:].tolist())
    assert np.array_equal(plain.product(plain.quotient(x[:, None], x[1:]), x[1:]), np.broadcast_to(x[:, None], (256, 255)))
    a = np.random.default_rng(1).integers(0, 256, (9, 9), np.uint8)
    eye = [np.empty(9, np.uint8) for _ in range(9)]
    plain.parity_dot(a, list(plain.invert(a)), eye)
    assert np.array_equal(np.stack(eye), np.eye(9, dtype=np.uint8))
    with pytest.raises(ValueError, match="singular"):
        plain.invert(np.ones((2, 2), np.uint8))


def test_refusals():
    one, block = np.ones((1, 1), np.uint8), np.zeros(8, np.uint8)
    for matrix, data, out, said in [
        (np.ones((2, 1), np.uint8), [block], [block.copy()], "matrix"),
        (one, [block], [np.zeros(7, np.uint8)], "size"),
        (one, [np.zeros(8, np.float32)], [block], "uint8"),
        (one, [block], [block], "overlaps"),
        (np.ones((2, 1), np.uint8), [block.copy()], [block, block], "overlap"),
        (one, [np.zeros(16, np.uint8)[::2]], [block], "contiguous"),
    ]:
        with pytest.raises(ValueError, match=said):
            _native.parity_dot(matrix, data, out)
