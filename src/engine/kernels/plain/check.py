"""Integrity sums in Python: what csrc/check computes."""

from __future__ import annotations

import numpy as np

from ...types import Array

ODD = np.uint64(0x9E3779B97F4A7C15)


def mix(v: Array) -> Array:
    """lo * hi + v of the halves of uint64 v: (lo + 2^32)(hi + 1) - 2^32, so that no change within one half is lost."""
    return (v & np.uint64(0xFFFFFFFF)) * (v >> np.uint64(32)) + v


def hash64(data: Array, first: int = 0) -> int:
    """Sum modulo 2^64 over the 64-bit words of `data` (uint8; the last word filled up with zeros), the first at place `first`,
    of mix(word ^ mix((place + 1) * ODD)).
    """
    words = np.frombuffer(data.tobytes() + bytes(-len(data) % 8), np.uint64)
    places = np.arange(len(words), dtype=np.uint64) + np.uint64(first + 1)
    return int(mix(words ^ mix(places * ODD)).sum(dtype=np.uint64))


def crc32c(data: bytes, seed: int = 0) -> int:
    """CRC-32C, bit by bit."""
    crc = ~seed & 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return ~crc & 0xFFFFFFFF
