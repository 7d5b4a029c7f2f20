"""Integrity kernels: the same sums on every instruction set; what was written down is what is computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels import _native
from engine.kernels.plain import check as plain


@given(st.integers(0, 900), st.integers(0, 9), st.integers(0, 2**40), st.integers(0, 99))
def test_hash_is_plain_on_every_path(n, shift, first, seed):
    data = np.random.default_rng(seed).integers(0, 256, n + shift, np.uint8)[shift:]
    want = plain.hash64(data, first)
    assert {_native.hash64(data, first, isa=isa) for isa in _native.isa_runs()} == {want}


def test_a_sum_of_its_parts():
    data = np.random.default_rng(1).integers(0, 256, 4003, np.uint8)
    parts = [_native.hash64(data[:808]), _native.hash64(data[808:], 101)]
    assert sum(parts) % 2**64 == _native.hash64(data)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 9), st.data())
def test_the_hash_follows_dirty_rows(count, width, seed, data):
    draw = np.random.default_rng(seed)
    table = draw.integers(0, 256, (count, width), np.uint8)
    value = _native.hash64(table)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1)))), np.int64)
    value -= _native.hash64_rows(table.reshape(-1), width, rows)
    table[rows] = draw.integers(0, 256, (len(rows), width), np.uint8)
    value += _native.hash64_rows(table.reshape(-1), width, rows)
    assert value % 2**64 == _native.hash64(table)


def test_rows_are_checked():
    table = np.zeros(64, np.uint8)
    for width, rows in [(8, [8]), (8, [-1]), (8, [1, 1]), (8, [2, 1]), (7, [0]), (0, [0])]:
        with pytest.raises(ValueError, match="hash64_rows"):
            _native.hash64_rows(table, width, np.array(rows, np.int64))


def test_what_moves_shifts_or_cancels_is_seen():
    """Faults with a structure, on data with little: none may have the hash of what it damaged."""
    draw = np.random.default_rng(7)
    for data in (np.zeros(512, np.uint32), draw.integers(0, 3, 512, np.uint32), draw.integers(0, 2**32, 512, np.uint32)):
        data[100] = 5
        seen = {_native.hash64(data): data.tobytes()}
        faults = [structured(data, i, j, draw) for i in range(500) for j in range(7)]
        for bad in faults:
            assert seen.setdefault(_native.hash64(bad), bad.tobytes()) == bad.tobytes()
        assert len(seen) > 1500


def structured(data, i, kind, draw):
    """`data` with a fault of a kind at word i: patterns that sum to 0, exchanges, shifts, one bit, exchanges at two places."""
    bad, one = data.copy(), np.uint32(1)
    if kind == 0:
        bad[i : i + 3] += np.array([1, 2**32 - 2, 1], np.uint32)
    elif kind in (1, 2):
        bad[[i, i + kind]] = bad[[i + kind, i]]
    elif kind == 3:
        bad[[i, i + 4]] += np.array([2, 2**32 - 2], np.uint32)
    elif kind == 4:
        bad = np.roll(bad, i)
    elif kind == 5:
        bad[i] ^= one << np.uint32(31)
    else:
        j = int(draw.integers(500))
        bad[[i, i + 2]] = bad[[i + 2, i]]
        bad[[j, j + 2]] = bad[[j + 2, j]]
    return bad


@pytest.mark.parametrize("isa", _native.isa_runs())
def test_crc_is_plain(isa):
    data = np.random.default_rng(0).integers(0, 256, 9000, np.uint8)
    assert plain.crc32c(b"123456789") == 0xE3069283
    for size in [*range(80), 255, 256, 257, 1023, 4095, 4096, 4097, 9000]:
        for start in (0, 1, 7):
            part = data[start:size]
            assert _native.crc32c(part, 3, isa=isa) == plain.crc32c(part.tobytes(), 3)


def test_every_flip_is_seen():
    words = np.random.default_rng(2).integers(0, 2**32, 64, np.uint32)
    seen = {_native.hash64(words)}
    for bit in range(64 * 32):
        words[bit // 32] ^= np.uint32(1 << bit % 32)
        seen.add(_native.hash64(words))
        words[bit // 32] ^= np.uint32(1 << bit % 32)
    assert len(seen) == 64 * 32 + 1
