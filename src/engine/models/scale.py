"""Statistics of the online standard scaler: count, mean and sum of squared deviations a column, exactly mergeable.

Arrays are float64 `(columns, 3)`: n, mean, M2.  Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances" (1979); Welford (1962) row by row, inside the native learner.
"""
from __future__ import annotations

import numpy as np

from engine.types import Array

LAST = 0xFFFFFFFE  # column j travels in an Update as key LAST - j


def join(a: Array, b: Array) -> Array:
    """Statistics of the rows behind `a` and the rows behind `b` together."""
    n = a[:, 0] + b[:, 0]
    share = np.divide(b[:, 0], n, out=np.zeros_like(n), where=n > 0)
    gap = b[:, 1] - a[:, 1]
    return np.stack([n, a[:, 1] + gap * share, a[:, 2] + b[:, 2] + gap * gap * a[:, 0] * share], axis=1)


def since(base: Array, now: Array) -> Array:
    """Additive float64 `(columns, 3)` of the rows since `base`: n, sum and sum of squares about the base's mean."""
    n = now[:, 0] - base[:, 0]
    total = now[:, 0] * (now[:, 1] - base[:, 1])
    square = now[:, 2] + now[:, 0] * (now[:, 1] - base[:, 1]) ** 2 - base[:, 2]
    return np.stack([n, total, square], axis=1)


def advance(base: Array, total: Array) -> Array:
    """`base` after the rows behind `total`, a sum of what `since` gave against the same base."""
    n, add, square = total.T
    mean = np.divide(add, n, out=np.zeros_like(add), where=n > 0)
    part = np.stack([n, base[:, 1] + mean, np.maximum(square - add * mean, 0)], axis=1)
    return join(base, part)


def pack(total: Array) -> tuple[Array, Array]:
    """Keys uint32 and values float32 `(columns, 6)` of additive statistics: a double is a 12-bit head and a tail."""
    values = np.zeros((len(total), 6), np.float32)
    values[:, 0] = total[:, 0]
    for column in (1, 2):
        head = total[:, column].astype(np.float32)
        head = (head.view(np.uint32) & np.uint32(0xFFFFF000)).view(np.float32)
        values[:, 2 * column - 1] = head
        values[:, 2 * column] = total[:, column] - head
    keys = (LAST - np.arange(len(total))).astype(np.uint32)
    return keys[::-1].copy(), values[::-1].copy()


def unpack(keys: Array, values: Array, columns: int) -> Array:
    """What `pack` took, summed or not; columns that are absent are zero."""
    total = np.zeros((columns, 3))
    part = values.astype(np.float64)
    total[LAST - keys.astype(np.int64)] = np.stack(
        [part[:, 0], part[:, 1] + part[:, 2], part[:, 3] + part[:, 4]], axis=1)
    return total
