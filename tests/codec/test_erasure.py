"""Erasure code: any k of k + m blocks give back the others; parity follows a change without the other blocks."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.codec.erasure import erasure_encode, erasure_matrix, erasure_repair, erasure_update


def made(k, n, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (k, n), np.uint8))


@pytest.mark.parametrize(("k", "m"), [(1, 1), (4, 2), (3, 3), (5, 1), (2, 4)])
def test_every_loss_up_to_m_is_repaired(k, m):
    data = made(k, 333)
    whole = [*data, *erasure_encode(data, m)]
    for count in range(m + 1):
        for lost in combinations(range(k + m), count):
            left = [None if at in lost else block for at, block in enumerate(whole)]
            assert all(map(np.array_equal, erasure_repair(left, k), whole))
    with pytest.raises(ValueError, match="are needed"):
        erasure_repair([None] * (m + 1) + whole[m + 1 :], k)


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 9), st.data())
def test_any_loss_of_any_code(k, m, seed, data):
    blocks = made(k, 70, seed)
    whole = [*blocks, *erasure_encode(blocks, m)]
    lost = data.draw(st.sets(st.integers(0, k + m - 1), max_size=m))
    left = [None if at in lost else block for at, block in enumerate(whole)]
    assert all(map(np.array_equal, erasure_repair(left, k), whole))


@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 60), st.integers(0, 40), st.data())
def test_parity_follows_a_change(k, m, start, size, data):
    blocks = made(k, 100)
    parity = erasure_encode(blocks, m)
    at = data.draw(st.integers(0, k - 1))
    change = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    blocks[at][start : start + size] ^= change
    erasure_update(parity, k, at, change, start=start)
    assert all(map(np.array_equal, parity, erasure_encode(blocks, m)))


def test_one_parity_is_xor_and_more_can_be_added_later():
    data = made(6, 50)
    first, second = erasure_encode(data, 1), erasure_encode(data, 3)
    assert np.array_equal(first[0], np.bitwise_xor.reduce(data)) and np.array_equal(first[0], second[0])
    assert np.array_equal(erasure_matrix(6, 2), erasure_matrix(6, 5)[:2])
    floats = [np.arange(8, dtype=np.float32), np.ones(8, np.float32)]
    out = [np.zeros(32, np.uint8)]
    assert erasure_encode(floats, 1, out=out)[0].base is out[0] or np.array_equal(out[0], erasure_encode(floats, 1)[0])
    assert np.array_equal(erasure_repair([None, floats[1], *out], 2)[0].view(np.float32), floats[0])


def test_the_widest_code_holds():
    data = made(250, 3)
    whole = [*data, *erasure_encode(data, 6)]
    left = [None if at in (0, 7, 100, 249, 251, 255) else block for at, block in enumerate(whole)]
    assert all(map(np.array_equal, erasure_repair(left, 250), whole))


def test_refusals():
    for k, m in [(0, 1), (1, -1), (200, 57)]:
        with pytest.raises(ValueError, match="at most 256"):
            erasure_matrix(k, m)
    parity = erasure_encode(made(2, 8), 1)
    with pytest.raises(ValueError, match="data block 2 of 2"):
        erasure_update(parity, 2, 2, np.zeros(8, np.uint8))
    with pytest.raises(ValueError, match="outside"):
        erasure_update(parity, 2, 0, np.zeros(8, np.uint8), start=1)
    with pytest.raises(ValueError, match="contiguous"):
        erasure_encode([np.zeros(16, np.uint8)[::2]], 1)
