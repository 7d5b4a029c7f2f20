"""Scoring kernels in NumPy: what csrc/score computes, bit for bit, a column at a time."""

from __future__ import annotations

import numpy as np

from ...types import Array

TOP, UNIT, BINS, LABELS = 16.0, float(1 << 24), 65536, 5
_EXP = (
    2.755731922398589e-07,
    2.7557319223985893e-06,
    2.48015873015873e-05,
    1.984126984126984e-04,
    1.388888888888889e-03,
    8.333333333333333e-03,
    4.1666666666666664e-02,
    1.6666666666666666e-01,
    0.5,
    1.0,
    1.0,
)


def decay(a: Array) -> Array:
    """exp(-a), float64 a in [0, 64]: 2^-k times an 11-term Taylor polynomial, + - * only."""
    k = np.floor(a * 1.4426950408889634 + 0.5)
    r = k * 0.6931471805599453 - a
    p = np.full_like(a, 2.505210838544172e-08)
    for c in _EXP:
        p = p * r + c
    return np.ldexp(p, -k.astype(np.int64))


def grow(t: Array) -> Array:
    """log(1 + t), float64 t in [0, 1]: 2 atanh(t / (2 + t)) to the 23rd power."""
    s = t / (t + 2.0)
    q = s * s
    p = np.full_like(t, 1.0 / 23.0)
    for n in range(21, 0, -2):
        p = p * q + 1.0 / n
    return 2.0 * s * p


def cost(m: Array) -> Array:
    """Log loss of signed margins (float64), clipped to |m| <= 16; NaN costs the most."""
    m = np.where(np.isnan(m), -TOP, m)
    a = np.minimum(np.abs(m), TOP)
    return grow(decay(a)) + np.where(m < 0, a, 0.0)


def score_binary(
    scores: Array,
    y: Array,
    previous: Array,
    order: Array,
    table: Array,
    bucket_rows: int,
    confusion: Array,
    hist: Array,
) -> None:
    """Add rows to `table` (buckets, 7), `confusion` (2, 2) and `hist` (2, 65536); all int64, labels 0, 1 or NaN."""
    keep = ~np.isnan(y)
    m, y, previous, slot = scores[keep].astype(np.float64), y[keep], previous[keep], order[keep] // bucket_rows
    label = (y == 1).astype(np.int64)
    nan = np.isnan(m)
    guess = np.where(nan, 1 - label, m > 0)
    edge = np.where(nan, 0.0, np.clip(m, -TOP, TOP))
    loss = (cost(np.where(label == 1, m, -m)) * UNIT + 0.5).astype(np.int64)
    one = np.ones_like(label)
    for column, amount in enumerate((one, guess == label, previous == y, loss, ~np.isfinite(m))):
        np.add.at(table[:, column], slot, amount)
    np.add.at(table, (slot, LABELS + label), 1)
    np.add.at(confusion, (label, guess), 1)
    np.add.at(hist, (label, np.minimum(((edge + TOP) * 2048.0).astype(np.int64), BINS - 1)), 1)
