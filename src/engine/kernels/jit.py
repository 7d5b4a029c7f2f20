"""The codecs' kernels compiled by Numba for the CPU, by the names of the native module and with its bytes.

They run where no compiled module is loaded (kernels/table.py), and they are a second opinion on it: one plain loop over
elements, written from kernels/plain and not from csrc.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ..types import Array
from .plain.quant import BITS, payload_size
from .plain.quant import FORMATS as NARROW

MODES = {name: at for at, name in enumerate(BITS)}
SIGN, TERNARY = MODES["sign"], MODES["ternary"]
LARGEST, SMALLEST, INFINITE = np.float32(3.40282347e38), np.float32(1e-30), 0x7F800000
options: dict[str, Any] = {"cache": False, "fastmath": False, "error_model": "numpy", "nogil": True}


@njit(**options)
def take(g: Array, e: Array) -> int:
    """e = g + e where that is finite; counts where it is not. `g` empty: e stays."""
    bad = 0
    for i in range(len(g)):
        x = np.float32(g[i]) + e[i]
        if np.isfinite(x):
            e[i] = x
        else:
            bad += 1
    return bad


@njit(**options)
def tree(lane: Array) -> Any:
    half = 32
    while half:
        for j in range(half):
            lane[j] = lane[j] + lane[j + half]
        half //= 2
    return lane[0]


@njit(**options)
def scale_of(x: Array, mode: int, levels: Any, stochastic: bool) -> Any:
    """Scale, and its inverse or the ternary edge, of one block."""
    zero = np.float32(0)
    lane = np.zeros(64, np.float32)
    top = zero
    for i in range(len(x)):
        lane[i % 64] = lane[i % 64] + abs(x[i])
        top = max(top, abs(x[i]))
    if mode <= TERNARY:
        scale = min(np.float32(tree(lane) / np.float32(len(x))), LARGEST)
        if mode == SIGN:
            return scale, zero
        edge, kept = scale * np.float32(0.7), 0
        lane[:] = zero
        for i in range(len(x)):
            if abs(x[i]) > edge:
                lane[i % 64] = lane[i % 64] + abs(x[i])
                kept += 1
        return (np.float32(tree(lane) / np.float32(kept)) if kept else zero), edge
    if top < SMALLEST:
        return zero, zero
    scale, inverse = np.float32(top / levels), np.float32(levels / top)
    if not np.isfinite(np.float32(scale * levels)):
        scale = np.float32(np.nextafter(scale, zero))
    if stochastic:
        inverse = np.float32(np.nextafter(np.float32(np.nextafter(inverse, zero)), zero)) * np.float32(65536)
    return scale, inverse


@njit(**options)
def draw(i: int, key: Any, counter: Any) -> Any:
    """The dither of element i of the block that begins at `counter`."""
    wide = np.uint64(0xFFFFFFFF)
    slot = np.uint64(i // 64 * 32 + i % 32)
    x = (slot + counter // np.uint64(2) + (key & wide)) & wide
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(0x7FEB352D) + (key >> np.uint64(32)) + (counter >> np.uint64(33))) & wide
    x ^= x >> np.uint64(15)
    x = x * np.uint64(0x846CA68B) & wide
    top = x >> np.uint64(16)
    return np.int64((x ^ top) & np.uint64(0xFFFF)) if i % 64 < 32 else np.int64(top)


@njit(**options)
def quant_blocks(
    mode: int, bits: int, stochastic: bool, e: Array, block: int, out: Array, scales: Array, key: Any, counter: Any
) -> None:
    levels = np.float32(127 if bits == 8 else 7 if bits == 4 else 1)
    planes = 8 // bits
    out[:] = 0
    for number in range(len(scales)):
        start = number * block
        x = e[start : start + block]
        scale, other = scale_of(x, mode, levels, stochastic)
        scales[number] = scale
        for i in range(len(x)):
            negative, q = np.signbit(x[i]), np.int64(0)
            if mode == SIGN:
                q = np.int64(-1 if negative else 1)
            elif mode == TERNARY:
                q = np.int64(0 if abs(x[i]) <= other else -1 if negative else 1)
            else:
                q = np.int64(np.rint(np.float32(x[i] * other)))
                if stochastic:
                    q = (q + draw(i, key, counter + np.uint64(start))) >> 16
            at = start + i
            if bits == 1:
                if q < 0:
                    out[at // 8] |= np.uint8(1 << at % 8)
            elif bits == 8:
                out[at] = np.uint8(q & 255)
            else:
                byte = at // (16 * planes) * 16 + at % 16
                out[byte] |= np.uint8((q & ((1 << bits) - 1)) << (at // 16 % planes * bits))
            product = np.float32(np.float32(q) * scale)
            x[i] = x[i] - product


@njit(**options)
def quant_sum(bits: int, payload: Array, scales: Array, block: int, acc: Array) -> None:
    planes = 8 // bits
    for i in range(len(acc)):
        if bits == 1:
            q = 1 - 2 * np.int64(payload[i // 8] >> np.uint8(i % 8) & 1)
        elif bits == 8:
            q = np.int64(np.int8(payload[i]))
        else:
            q = np.int64(payload[i // (16 * planes) * 16 + i % 16]) >> (i // 16 % planes * bits) & ((1 << bits) - 1)
            if q >> (bits - 1):
                q -= 1 << bits
        product = np.float32(np.float32(q) * scales[i // block])
        acc[i] = acc[i] + product


@njit(**options)
def narrow(e: Array, word: Array, out: Array, shift: int, bias: int, top: int, sign: int) -> None:
    """`word` int32 is the bits of e; codes to `out` uint8 or uint16, the residual to e."""
    least = np.float64(2.0) ** (1 - bias - (23 - shift))
    for i in range(len(e)):
        a = np.int64(word[i]) & 0x7FFFFFFF
        if a > top:
            a = np.int64(top)
        if bias != 127 and a < (128 - bias) << 23:
            q = np.int64(np.rint(np.float64(abs(e[i])) / least))
        else:
            q = (a + (1 << (shift - 1)) - 1 + (a >> shift & 1)) >> shift
            if bias == 127:
                q = np.int64(top >> 16) if q > top >> 16 else q
            else:
                q -= (127 - bias) << (23 - shift)
        out[i] = q | (sign if word[i] < 0 else 0)
        e[i] = e[i] - wide(np.int64(out[i]), shift, bias, sign)


@njit(**options)
def wide(q: int, shift: int, bias: int, sign: int) -> Any:
    """float32 of a code, made of its fields."""
    size = 23 - shift
    exponent, mantissa = (q & (sign - 1)) >> size, q & ((1 << size) - 1)
    if exponent:
        value = np.float64((1 << size) + mantissa) * np.float64(2.0) ** (exponent - bias - size)
    else:
        value = np.float64(mantissa) * np.float64(2.0) ** (1 - bias - size)
    return np.float32(-value if q & sign else value)


@njit(**options)
def widen_sum(codes: Array, acc: Array, shift: int, bias: int, sign: int) -> None:
    for i in range(len(acc)):
        acc[i] = acc[i] + wide(np.int64(codes[i]), shift, bias, sign)


@njit(**options)
def whole(e: Array, inverse: Any, scale: Any, levels: Any, out: Array) -> None:
    for i in range(len(e)):
        y = min(max(np.float32(e[i] * inverse), -levels), levels)
        q = np.rint(y)
        out[i] = np.int64(q)
        product = np.float32(np.float32(q) * scale)
        e[i] = e[i] - product


@njit(**options)
def select(e: Array, start: int, t: Any, index: Array, value: Array, at: int) -> Any:
    for i in range(start, len(e)):
        if len(index) - at < 64:
            return i, at
        if abs(e[i]) >= t:
            index[at], value[at] = i, e[i]
            at += 1
            e[i] = np.float32(0)
    return len(e), at


@njit(**options)
def keep(index: Array, value: Array, count: int, k: int, e: Array) -> Any:
    size = np.sort(np.abs(value[:count]))[::-1]
    edge, ties = size[k - 1], 0
    for i in range(k):
        ties += size[i] == edge
    kept = 0
    for i in range(count):
        a = abs(value[i])
        take = a > edge
        if a == edge and ties:
            ties -= 1
            take = True
        if take:
            index[kept], value[kept] = index[i], value[i]
            kept += 1
        else:
            e[index[i]] = value[i]
    return edge


@njit(**options)
def scatter(index: Array, value: Array, acc: Array) -> None:
    for i in range(len(index)):
        acc[index[i]] = acc[index[i]] + value[i]


@njit(**options)
def draws(n: Any, key: Any, index: Array) -> None:
    k = np.uint64(len(index))
    for i in range(len(index)):
        edge, stop = np.uint64(i) * n // k, np.uint64(i + 1) * n // k
        x = (edge + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ key
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        index[i] = edge + ((x >> np.uint64(32)) * (stop - edge) >> np.uint64(32))


def start(g: Array | None, e: Array) -> int:
    """e = x of the whole array; g float32, float64, or bfloat16 as its bits."""
    if g is None:
        return 0
    if g.dtype == np.uint16:
        g = (g.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if g.shape != e.shape or g.dtype not in (np.float32, np.float64):
        raise ValueError("quant: g and e differ in size, or g is not float32, float64 or uint16")
    return int(take(g, e))


def quant_encode(
    mode: str, g: Array | None, e: Array, block: int, out: Array, scales: Array, key: int = 0, counter: int = 0
) -> int:
    if len(out) != payload_size(mode, len(e)) or len(scales) != -(-len(e) // block):
        raise ValueError("quant: payload or scales have the wrong size")
    bad = start(g, e)
    at = MODES[mode], BITS[mode], mode.endswith("s")
    quant_blocks(*at, e, block, out, scales, np.uint64(key), np.uint64(counter))
    return bad


def quant_decode_add(mode: str, payload: Array, scales: Array, block: int, acc: Array) -> None:
    if len(payload) != payload_size(mode, len(acc)) or len(scales) != -(-len(acc) // block):
        raise ValueError("quant: payload or scales have the wrong size")
    quant_sum(BITS[mode], payload, scales, block, acc)


def cast_encode(mode: str, g: Array | None, e: Array, out: Array) -> int:
    bad = start(g, e)
    narrow(e, e.copy().view(np.int32), codes_of(mode, out), *NARROW[mode], 1 << (7 if mode == "fp8" else 15))
    return bad


def cast_decode_add(mode: str, payload: Array, acc: Array) -> None:
    shift, bias, _ = NARROW[mode]
    codes = codes_of(mode, payload)
    if len(codes) != len(acc):
        raise ValueError("cast: payload has the wrong size")
    widen_sum(codes, acc, shift, bias, 1 << (7 if mode == "fp8" else 15))


def codes_of(mode: str, payload: Array) -> Array:
    return payload if mode == "fp8" else payload.view(np.uint16)


def shared_encode(g: Array | None, e: Array, top: float, levels: int, out: Array, bits: int) -> int:
    bad = start(g, e)
    limit, most = np.float32(levels), np.float32(top)
    inverse, scale = (limit / most, most / limit) if most >= SMALLEST else (np.float32(0), np.float32(0))
    whole(e, inverse, scale, limit, out.view(f"i{bits // 8}"))
    return bad


@njit(**options)
def whole_sum(q: Array, scale: Any, acc: Array) -> None:
    for i in range(len(acc)):
        product = np.float32(np.float32(q[i]) * scale)
        acc[i] = acc[i] + product


def shared_add(codes: Array, scale: float, acc: Array, bits: int) -> None:
    whole_sum(codes.view(f"i{bits // 8}"), np.float32(scale), acc)


def shared_peak(g: Array, e: Array) -> float:
    x = e.copy()
    start(g, x)
    return float(np.abs(x).max(initial=0))


def threshold_encode(
    g: Array | None, e: Array, start_at: int, t: float, index: Array, value: Array, at: int = 0
) -> tuple[int, int, int]:
    """Like the native form it can stop early; it then has added no more of g than it reports."""
    stop, count, bad, step = start_at, at, 0, max(64, len(index) - at - 64)
    while stop < len(e) and len(index) - count >= 64:
        end = min(len(e), stop + min(step, len(index) - count - 63))
        part = e[:end]
        bad += start(None if g is None else g[stop:end], e[stop:end])
        stop, count = select(part, stop, np.float32(t), index, value, count)
    return stop, count, bad


def topk_keep(index: Array, value: Array, count: int, k: int, e: Array) -> float:
    return float(keep(index, value, count, k, e))


def scatter_add(index: Array, value: Array, acc: Array) -> None:
    if len(index) and int(index.max()) >= len(acc):
        raise ValueError("scatter: an index is past the end")
    scatter(index, value, acc)


def strata(n: int, key: int, index: Array) -> None:
    draws(np.uint64(n), np.uint64(key), index)


def add(g: Array, e: Array) -> None:
    e += g
