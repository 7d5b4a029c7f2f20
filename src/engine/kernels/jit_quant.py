"""Quantisers compiled by Numba for the CPU: an independent witness of the native bytes, and a way without them."""

from __future__ import annotations

import numpy as np
from numba import njit

from ..types import Array


@njit(cache=False, fastmath=False, error_model="numpy")
def int8_encode(g: Array, e: Array, block: int, out: Array, scales: Array) -> int:
    """ef int8, nearest even: see plain.quant.quant_encode; `out` uint8 of whole groups of 64."""
    n, bad = len(e), 0
    levels, zero = np.float32(127), np.float32(0)
    for number in range(len(scales)):
        start, stop = number * block, min((number + 1) * block, n)
        top = zero
        for i in range(start, stop):
            x = g[i] + e[i]
            if np.isfinite(x):
                e[i] = x
            else:
                bad += 1
            top = max(top, abs(e[i]))
        scale, inverse = top / levels, zero
        if top < np.float32(1e-30):
            scale = zero
        else:
            inverse = levels / top
        if not np.isfinite(scale * levels):
            scale = np.nextafter(scale, zero)
        scales[number] = scale
        for i in range(start, stop):
            q = np.float32(np.rint(e[i] * inverse))
            out[i] = np.uint8(np.int8(q))
            product = q * scale
            e[i] = e[i] - product
    out[n:] = 0
    return bad


@njit(cache=False, fastmath=False, error_model="numpy")
def int8_decode_add(payload: Array, scales: Array, block: int, acc: Array) -> None:
    for i in range(len(acc)):
        product = np.float32(np.int8(payload[i])) * scales[i // block]
        acc[i] = acc[i] + product
