"""Integrity kernels: the same sums on every instruction set; what was written down is what is computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kernels import _native
from engine.kernels.plain import check as plain


@given(st.integers(0, 300), st.integers(0, 7), st.integers(0, 2**40), st.integers(0, 99))
def test_hash_is_plain_on_every_path(n, shift, offset, seed):
    words = np.random.default_rng(seed).integers(0, 2**32, n + shift, np.uint32)[shift:]
    want = plain.hash64(words, offset)
    assert {_native.hash64(words, offset, isa=isa) for isa in _native.isa_runs()} == {want}


@given(st.binary(max_size=70), st.integers(0, 50))
def test_hash_of_bytes_fills_the_last_word(data, words):
    filled = np.frombuffer(data + bytes(-len(data) % 4), np.uint32)
    assert _native.hash_bytes(data, 4 * words) == plain.hash64(filled, words)


def test_a_sum_of_its_parts():
    words = np.arange(1000, dtype=np.uint32)
    parts = [_native.hash64(words[:333]), _native.hash64(words[333:], 333)]
    assert sum(parts) % 2**64 == _native.hash64(words)


@pytest.mark.parametrize("isa", _native.isa_runs())
def test_crc_is_plain(isa):
    data = np.random.default_rng(0).integers(0, 256, 9000, np.uint8)
    assert plain.crc32c(b"123456789") == 0xE3069283
    for size in [*range(0, 80), 255, 256, 257, 1023, 4095, 4096, 4097, 9000]:
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
