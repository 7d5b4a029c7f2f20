"""Sums of products over GF(2^8), polynomial 0x11D, in NumPy: what csrc/parity computes, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...types import Array

POLYNOMIAL = 0x11D

EXP = np.zeros(510, np.uint8)  # powers of 2, twice over, so that a sum of two logarithms needs no remainder
LOG = np.zeros(256, np.int64)
_power = 1
for _i in range(255):
    EXP[_i] = EXP[_i + 255] = _power
    LOG[_power] = _i
    _power = _power << 1 ^ (POLYNOMIAL if _power & 0x80 else 0)


def product(a: Array, b: Array) -> Array:
    """Elementwise products of uint8."""
    a, b = np.broadcast_arrays(np.asarray(a, np.uint8), np.asarray(b, np.uint8))
    return np.where((a == 0) | (b == 0), np.uint8(0), EXP[LOG[a] + LOG[b]])


def quotient(a: Array, b: Array) -> Array:
    """Elementwise a / b of uint8; b has no zero."""
    a, b = np.broadcast_arrays(np.asarray(a, np.uint8), np.asarray(b, np.uint8))
    return np.where(a == 0, np.uint8(0), EXP[LOG[a] + 255 - LOG[b]])


def parity_dot(matrix: Array, data: Sequence[Array], out: Sequence[Array], keep: bool = False) -> None:
    """out[j] = (out[j] if keep else 0) + sum of matrix[j, i] * data[i]; all uint8, + is xor, `matrix` (m, k)."""
    for row, target in zip(matrix, out, strict=True):
        if not keep:
            target[:] = 0
        for factor, source in zip(row, data, strict=True):
            target ^= product(factor, source)


def invert(matrix: Array) -> Array:
    """Inverse of a square uint8 matrix by Gauss-Jordan elimination; ValueError where it is singular."""
    size = len(matrix)
    work = np.concatenate([np.asarray(matrix, np.uint8), np.eye(size, dtype=np.uint8)], axis=1)
    for at in range(size):
        pivot = at + int(np.argmax(work[at:, at] != 0))
        if not work[pivot, at]:
            raise ValueError("parity: the matrix is singular")
        work[[at, pivot]] = work[[pivot, at]]
        work[at] = quotient(work[at], work[at, at])
        factor = work[:, at].copy()
        factor[at] = 0
        work ^= product(factor[:, None], work[at])
    return np.ascontiguousarray(work[:, size:])
