"""Selection with fused error feedback in NumPy: what csrc/sparse computes, bit for bit.

x = g + e (e where that is not finite, counted); selected entries leave the residual whole, so decode + e' = x exactly.
"""

from __future__ import annotations

import numpy as np

from ...types import Array
from .quant import take


def threshold_encode(
    g: Array | None, e: Array, start: int, t: float, index: Array, value: Array, at: int = 0
) -> tuple[int, int, int]:
    """Entries |x| >= t of elements from `start` on to (index, value) from place `at`; here always to the end.

    Returns (elements done, entries, non-finite g + e).  The native form stops when fewer than 64 places are left.
    """
    x, bad = take(None if g is None else g[start:], e[start:])
    hit = np.flatnonzero(np.abs(x) >= np.float32(t))
    index[at : at + len(hit)] = hit + start
    value[at : at + len(hit)] = x[hit]
    x[hit] = 0
    e[start:] = x
    return len(e), at + len(hit), bad


def topk_keep(index: Array, value: Array, count: int, k: int, e: Array) -> float:
    """Keep the k largest magnitudes in place and in order, the lowest place first among equals; the rest back to e."""
    order = np.argsort(-np.abs(value[:count]), kind="stable")
    keep = np.sort(order[:k])
    edge = float(np.abs(value[order[k - 1]]))
    rest = np.setdiff1d(np.arange(count), keep)
    e[index[rest]] = value[rest]
    index[:k], value[:k] = index[keep], value[keep]
    return edge


def topk(g: Array, e: Array, k: int) -> tuple[Array, Array]:
    """Indices (ascending) and values of the k largest |g + e|, ties to the lowest index; e is left the residual."""
    index, value = np.empty(len(e), np.uint32), np.empty(len(e), np.float32)
    _, count, _ = threshold_encode(g, e, 0, 0.0, index, value)
    if k:
        topk_keep(index, value, count, k, e)
    return index[:k], value[:k]


def strata(n: int, key: int, index: Array) -> None:
    """One index of each of len(index) strata of n elements, drawn from the key: a 32-bit fraction of its width."""
    k = len(index)
    edge = np.array([i * n // max(1, k) for i in range(k + 1)], np.uint64)
    with np.errstate(over="ignore"):
        x = (edge[:-1] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(key)
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    index[:] = edge[:-1] + ((x >> np.uint64(32)) * np.diff(edge) >> np.uint64(32))


def scatter_add(index: Array, value: Array, acc: Array) -> None:
    """acc[index] += value, one after another; ValueError, with nothing added, where an index is past the end."""
    if len(index) and int(index.max()) >= len(acc):
        raise ValueError("scatter: an index is past the end")
    np.add.at(acc, index, value)
