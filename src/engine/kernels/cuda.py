"""The codecs' kernels on a CUDA device by Numba, by the names of the native module and with its bytes.

Arguments are device arrays, or anything with `__cuda_array_interface__` (CuPy, torch); nothing is copied to the host: what
the native form returns is left in a device array `tally` int32. Every product, sum and quotient is rounded apart (`fmul_rn`
and its kin), so that no multiply-add is fused. One thread of 64 is one of the 64 lanes of the definition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int32

from .cuda_sparse import scatter_add, strata, threshold_encode, topk_keep
from .cuda_warp import (
    LANES,
    Device,
    ballot,
    cuda,
    float_of,
    grid,
    less,
    made,
    more,
    mul,
    nearest,
    on_device,
    over,
    plus,
    shuffle,
    take,
    views,
    word_of,
)  # fmt: skip
from .jit import LARGEST, MODES, SIGN, SMALLEST, TERNARY
from .jit import draw as host_draw
from .plain.quant import BITS, payload_size
from .plain.quant import FORMATS as NARROW

__all__ = [
    "add", "cast_decode_add", "cast_encode", "quant_decode_add", "quant_encode", "scatter_add", "shared_encode", "strata",
    "threshold_encode", "topk_keep",
]  # fmt: skip
draw = cuda.jit(device=True)(host_draw.py_func)


@cuda.jit(device=True)
def wide(q: Any, shift: int, bias: int, sign: int) -> Any:
    """float32 of a code; a subnormal is made as 1.m * 2^(1 - bias) less 2^(1 - bias), so that no denormal is computed with."""
    a = (q & (sign - 1)) << shift
    if bias != 127:
        a += (127 - bias) << 23
        if a < (128 - bias) << 23:
            a = word_of(plus(float_of(a + (1 << 23)), -float_of((128 - bias) << 23)))
    return -float_of(a) if q & sign else float_of(a)


@cuda.jit(device=True)
def tree(value: Any) -> Any:
    """Sum over the block's 64 threads, halves added to halves; the same for all."""
    room = cuda.shared.array(LANES, float32)
    lane = cuda.threadIdx.x
    room[lane] = value
    cuda.syncthreads()
    value = plus(room[lane], room[lane + 32]) if lane < 32 else value
    half = 16
    while half:
        value = plus(value, shuffle(value, half))
        half //= 2
    cuda.syncthreads()
    if lane == 0:
        room[0] = value
    cuda.syncthreads()
    value = room[0]
    cuda.syncthreads()
    return value


@cuda.jit(device=True)
def greatest(value: Any) -> Any:
    room = cuda.shared.array(LANES, float32)
    room[cuda.threadIdx.x] = value
    cuda.syncthreads()
    for lane in range(LANES):
        value = more(value, room[lane])
    cuda.syncthreads()
    return value


@cuda.jit(device=True)
def scale_of(mode: int, e: Any, start: int, real: int, total: Any, top: Any, levels: Any, stochastic: Any) -> Any:
    zero = np.float32(0)
    if mode <= TERNARY:
        scale = less(over(tree(total), np.float32(real)), LARGEST)
        if mode == SIGN:
            return scale, zero
        edge, kept, count = mul(scale, np.float32(0.7)), zero, zero
        for i in range(cuda.threadIdx.x, real, LANES):
            a = abs(e[start + i])
            if a > edge:
                kept, count = plus(kept, a), plus(count, np.float32(1))
        kept, count = tree(kept), tree(count)
        return (over(kept, count) if count > zero else zero), edge
    top = greatest(top)
    if top < SMALLEST:
        return zero, zero
    scale, inverse = over(top, levels), over(levels, top)
    if mul(scale, levels) > LARGEST:
        scale = float_of(word_of(scale) - 1)
    if stochastic:
        inverse = mul(float_of(word_of(inverse) - 2), np.float32(65536))
    return scale, inverse


@cuda.jit(device=True)
def pack(bits: int, q: Any, out: Any, at: int) -> None:
    """The codes of a group of 64, one a thread, to 8 * bits bytes at `at`."""
    lane = cuda.threadIdx.x
    if bits == 8:
        out[at + lane] = q & 255
    elif bits == 1:
        mask = ballot(q < 0)
        if lane % 32 < 4:
            out[at + lane // 32 * 4 + lane % 32] = mask >> (lane % 32 * 8) & 255
    else:
        codes = cuda.shared.array(LANES, int32)
        codes[lane] = q & ((1 << bits) - 1)
        cuda.syncthreads()
        planes = 8 // bits
        if lane < 8 * bits:
            byte = 0
            for p in range(planes):
                byte |= codes[(lane // 16 * planes + p) * 16 + lane % 16] << (p * bits)
            out[at + lane] = byte
        cuda.syncthreads()


@cuda.jit
def quant_kernel(
    mode: int, bits: int, stochastic: Any, g: Any, form: int, e: Any, block: int, out: Any, scales: Any, key: Any,
    counter: Any, bad: Any,
) -> None:
    """One block of threads a block of codes."""
    lane, start = cuda.threadIdx.x, cuda.blockIdx.x * block
    real = less(block, len(e) - start)
    total = top = np.float32(0)
    wrong = 0
    for i in range(lane, real, LANES):
        wrong += take(g, e, start + i, form)
        a = abs(e[start + i])
        total, top = plus(total, a), more(top, a)
    if wrong:
        cuda.atomic.add(bad, 0, wrong)
    levels = np.float32(127 if bits == 8 else 7 if bits == 4 else 1)
    scale, other = scale_of(mode, e, start, real, total, top, levels, stochastic)
    if lane == 0:
        scales[cuda.blockIdx.x] = scale
    for base in range(0, real, LANES):
        i = base + lane
        x = e[start + i] if i < real else np.float32(0)
        q = 0
        if mode == SIGN:
            q = -1 if word_of(x) < 0 else 1
        elif mode == TERNARY:
            if abs(x) > other:
                q = -1 if x < np.float32(0) else 1
        else:
            q = nearest(mul(x, other))
            if stochastic:
                q = (q + draw(i, key, counter + np.uint64(start))) >> 16
        if i < real:
            e[start + i] = plus(x, -mul(np.float32(q), scale))
        pack(bits, q, out, (start + base) // 8 * bits)


@cuda.jit
def quant_sum_kernel(bits: int, payload: Any, scales: Any, block: int, acc: Any) -> None:
    i = cuda.grid(1)
    if i >= len(acc):
        return
    planes = 8 // bits
    if bits == 1:
        q = 1 - 2 * (np.int64(payload[i // 8]) >> (i % 8) & 1)
    elif bits == 8:
        q = np.int64(payload[i])
    else:
        q = np.int64(payload[i // (16 * planes) * 16 + i % 16]) >> (i // 16 % planes * bits) & ((1 << bits) - 1)
    if bits > 1 and q >> (bits - 1):
        q -= 1 << bits
    acc[i] = plus(acc[i], mul(np.float32(q), scales[i // block]))


@cuda.jit
def cast_kernel(g: Any, form: int, e: Any, out: Any, shift: int, bias: int, top: int, sign: int, bad: Any) -> None:
    i = cuda.grid(1)
    if i >= len(e):
        return
    if take(g, e, i, form):
        cuda.atomic.add(bad, 0, 1)
    word = word_of(e[i])
    a = less(word & 0x7FFFFFFF, top)
    if bias != 127 and a < (128 - bias) << 23:
        step = (127 + 1 - bias + shift) << 23  # 2^23 subnormal steps: adding it rounds to one of them
        q = word_of(plus(float_of(a), float_of(step))) - step
    else:
        q = (a + (1 << (shift - 1)) - 1 + (a >> shift & 1)) >> shift
        q = less(q, top >> 16) if bias == 127 else q - ((127 - bias) << (23 - shift))
    q |= sign if word < 0 else 0
    out[i] = q
    e[i] = plus(e[i], -wide(np.int64(q), shift, bias, sign))


@cuda.jit
def widen_kernel(codes: Any, acc: Any, shift: int, bias: int, sign: int) -> None:
    i = cuda.grid(1)
    if i < len(acc):
        acc[i] = plus(acc[i], wide(np.int64(codes[i]), shift, bias, sign))


@cuda.jit
def shared_kernel(g: Any, form: int, e: Any, inverse: Any, scale: Any, levels: Any, out: Any, bad: Any) -> None:
    i = cuda.grid(1)
    if i >= len(e):
        return
    if take(g, e, i, form):
        cuda.atomic.add(bad, 0, 1)
    q = nearest(less(more(mul(e[i], inverse), -levels), levels))
    out[i] = q
    e[i] = plus(e[i], -mul(np.float32(q), scale))


@cuda.jit
def add_kernel(g: Any, e: Any) -> None:
    i = cuda.grid(1)
    if i < len(e):
        e[i] = plus(g[i], e[i])


def quant_encode(
    mode: str, g: Device | None, e: Device, block: int, out: Device, scales: Device, key: int = 0, counter: int = 0,
    *, tally: Device | None = None,
) -> Any:
    """As the native one; the count of non-finite g + e is tally[0] on the device."""
    g, form, e = views(g, e)
    out, scales, tally = on_device(out), on_device(scales), made(tally)
    if len(out) != payload_size(mode, len(e)) or len(scales) != -(-len(e) // block):
        raise ValueError("quant: payload or scales have the wrong size")
    if len(scales):
        options = MODES[mode], BITS[mode], mode.endswith("s"), g, form, e, block, out, scales
        quant_kernel[len(scales), LANES](*options, np.uint64(key), np.uint64(counter), tally)
    return tally


def quant_decode_add(mode: str, payload: Device, scales: Device, block: int, acc: Device) -> None:
    acc = on_device(acc)
    if len(payload) != payload_size(mode, len(acc)) or len(scales) != -(-len(acc) // block):
        raise ValueError("quant: payload or scales have the wrong size")
    quant_sum_kernel[grid(len(acc))](BITS[mode], on_device(payload), on_device(scales), block, acc)


def cast_encode(mode: str, g: Device | None, e: Device, out: Device, *, tally: Device | None = None) -> Any:
    """`out` uint8 (fp8) or uint16 `(n,)`."""
    g, form, e = views(g, e)
    tally = made(tally)
    cast_kernel[grid(len(e))](g, form, e, on_device(out), *NARROW[mode], 1 << (7 if mode == "fp8" else 15), tally)
    return tally


def cast_decode_add(mode: str, payload: Device, acc: Device) -> None:
    shift, bias, _ = NARROW[mode]
    widen_kernel[grid(len(acc))](on_device(payload), on_device(acc), shift, bias, 1 << (7 if mode == "fp8" else 15))


def shared_encode(g: Device | None, e: Device, top: float, levels: int, out: Device, *, tally: Device | None = None) -> Any:
    """`out` int8, int16 or int32 `(n,)`."""
    g, form, e = views(g, e)
    tally, limit, most = made(tally), np.float32(levels), np.float32(top)
    inverse, scale = (limit / most, most / limit) if most >= SMALLEST else (np.float32(0), np.float32(0))
    shared_kernel[grid(len(e))](g, form, e, inverse, scale, limit, on_device(out), tally)
    return tally


def add(g: Device, e: Device) -> None:
    add_kernel[grid(len(e))](on_device(g), on_device(e))
