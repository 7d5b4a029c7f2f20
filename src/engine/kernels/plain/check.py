"""Integrity sums in Python: what csrc/check computes."""

from __future__ import annotations

import numpy as np

from ...types import Array

ODD, FIRST, SECOND = (np.uint64(k) for k in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mix(x: Array) -> Array:
    """The finaliser of splitmix64, elementwise on uint64."""
    x = (x ^ x >> np.uint64(30)) * FIRST
    x = (x ^ x >> np.uint64(27)) * SECOND
    return x ^ x >> np.uint64(31)


def hash64(words: Array, offset: int = 0) -> int:
    """Sum modulo 2^64 of mix((place + 1) * ODD ^ word) over uint32 `words`, the first at place `offset`."""
    place = np.arange(len(words), dtype=np.uint64) + np.uint64(offset + 1)
    return int(mix(place * ODD ^ words.astype(np.uint64)).sum(dtype=np.uint64))


def crc32c(data: bytes, seed: int = 0) -> int:
    """CRC-32C, bit by bit."""
    crc = ~seed & 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return ~crc & 0xFFFFFFFF
