"""Quantisers with fused error feedback in NumPy: what csrc/quant computes, bit for bit.

x = g + e; payload = Q(x) with one float32 scale a block; e becomes x - decode(payload), product and difference rounded
apart (no fused multiply-add). Where g + e is not finite, x = e and the element is counted: g adds nothing, the residual
stays finite. Payloads are whole groups of 64 elements. Sources: 1-bit SGD with an L1 scale (Karimireddy et al. 2019,
alg. 1), ternary weights' 0.7 mean threshold (Li et al. 2016, eq. 6), QSGD (Alistarh et al. 2017) with absmax blocks.
"""

from __future__ import annotations

import numpy as np

from ...types import Array

GROUP = 64
BITS = {"sign": 1, "ternary": 2, "int2": 2, "int4": 4, "int8": 8, "int2s": 2, "int4s": 4, "int8s": 8}
LARGEST = np.float32(3.40282347e38)
SMALLEST = np.float32(1e-30)
MASK = 0xFFFFFFFFFFFFFFFF
FORMATS = {"bf16": (16, 127, 0x7F7F0000), "fp16": (13, 15, 0x477FE000), "fp8": (20, 7, 0x43E00000)}


def payload_size(mode: str, n: int) -> int:
    """Bytes of the codes of n elements."""
    return -(-n // GROUP) * 8 * BITS[mode]


def key_of(seed: int, step: int, stream: int = 0) -> int:
    """64-bit key of the counter generator; `stream` is the rank or the block, so that no two share dithers."""
    x = 0
    for word in (seed, step, stream):
        x = (x ^ word) + 0x9E3779B97F4A7C15 & MASK
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
        x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
        x ^= x >> 31
    return x


def take(g: Array | None, e: Array) -> tuple[Array, int]:
    """x = g + e, e where that is not finite, and how many those are."""
    if g is None:
        return e.copy(), 0
    with np.errstate(all="ignore"):
        x = g + e
    bad = ~np.isfinite(x)
    return np.where(bad, e, x), int(bad.sum())


def dither(count: int, key: int, counter: int) -> Array:
    """int32 in 0..65535, two to a hash: element i of a group of 64 shares one with i + 32.

    `counter`: the first element of the block; the hash is of (slot, key), the slot's carry past 32 bits in the key.
    """
    at = np.arange(count, dtype=np.uint64)
    slot = (at // 64 * 32 + at % 32 + np.uint64((counter // 2 + (key & 0xFFFFFFFF)) & 0xFFFFFFFF)).astype(np.uint32)
    x = slot ^ slot >> 16
    x *= np.uint32(0x7FEB352D)
    x += np.uint32(((key >> 32) + (counter >> 33)) & 0xFFFFFFFF)
    x ^= x >> 15
    x *= np.uint32(0x846CA68B)
    return np.where(at % 64 < 32, (x ^ x >> 16) & 0xFFFF, x >> 16).astype(np.int32)


def tree(rows: Array) -> np.float32:
    """Sum of (m, 64): 64 running lanes, then halves added to halves."""
    lane = np.add.accumulate(rows, axis=0)[-1]
    while len(lane) > 1:
        lane = lane[: len(lane) // 2] + lane[len(lane) // 2 :]
    return np.float32(lane[0])


def block_scale(mode: str, x: Array, real: int) -> tuple[np.float32, np.float32, np.float32]:
    """Scale, its inverse (or ternary edge), levels of one padded block."""
    levels = np.float32({8: 127, 4: 7}.get(BITS[mode], 1))
    a = np.abs(x)
    if mode in ("sign", "ternary"):
        scale = np.minimum(tree(a.reshape(-1, GROUP)) / np.float32(real), LARGEST)
        if mode == "sign":
            return scale, np.float32(0), levels
        edge = scale * np.float32(0.7)
        on = a > edge
        kept = np.float32(on.sum())
        total = tree(np.where(on, a, np.float32(0)).reshape(-1, GROUP))
        return (total / kept if kept else np.float32(0)), edge, levels
    top = a.max()
    if top < SMALLEST:
        return np.float32(0), np.float32(0), levels
    scale = top / levels
    if scale * levels > LARGEST:
        scale = np.nextafter(scale, np.float32(0))
    inverse = levels / top
    if mode.endswith("s"):  # |y| <= levels, so no dither rounds past it
        inverse = np.nextafter(np.nextafter(inverse, np.float32(0)), np.float32(0))
    return scale, inverse, levels


def pack(codes: Array, bits: int) -> Array:
    """int32 codes, whole groups of 64, to bytes: code i of 16 in byte i % 16, planes a shift of `bits` apart."""
    if bits == 1:
        return np.packbits(codes < 0, bitorder="little")
    if bits == 8:
        return codes.astype(np.int8).view(np.uint8)
    planes = 8 // bits
    q = (codes & ((1 << bits) - 1)).astype(np.uint8).reshape(-1, planes, 16)
    shift = (np.arange(planes, dtype=np.uint8) * bits)[:, None]
    return np.bitwise_or.reduce(q << shift, axis=1).ravel().astype(np.uint8)


def unpack(payload: Array, bits: int) -> Array:
    """The codes as int32; one bit gives 1 and -1."""
    if bits == 1:
        return 1 - 2 * np.unpackbits(payload, bitorder="little").astype(np.int32)
    if bits == 8:
        return payload.view(np.int8).astype(np.int32)
    planes = 8 // bits
    shift = (np.arange(planes) * bits)[:, None]
    q = payload.reshape(-1, 1, 16).astype(np.int32) >> shift & ((1 << bits) - 1)
    return (q - ((q >> (bits - 1)) << bits)).ravel()


def quant_encode(
    mode: str, g: Array | None, e: Array, block: int, out: Array, scales: Array, key: int = 0, counter: int = 0
) -> int:
    """Fill `out` uint8 and `scales` float32, leave the residual in `e`; returns the count of non-finite g + e."""
    full, bad = take(g, e)
    at = 0
    for number, start in enumerate(range(0, len(e), block)):
        real = min(block, len(e) - start)
        x = np.zeros(-(-real // GROUP) * GROUP, np.float32)
        x[:real] = full[start : start + real]
        with np.errstate(over="ignore"):
            scale, other, _ = block_scale(mode, x, real)
            if mode == "sign":
                codes = np.where(np.signbit(x), np.int32(-1), np.int32(1))
            elif mode == "ternary":
                codes = np.where(np.abs(x) > other, np.where(x < 0, -1, 1), 0).astype(np.int32)
            else:
                stochastic = mode.endswith("s")  # in 65536ths, so that a dither of 16 bits is added as an integer
                codes = np.rint(x * (other * np.float32(65536)) if stochastic else x * other).astype(np.int32)
                if stochastic:
                    codes = codes + dither(len(x), key, counter + start) >> 16
        e[start : start + real] = (x - codes.astype(np.float32) * scale)[:real]
        size = payload_size(mode, real)
        out[at : at + size] = pack(codes, BITS[mode])
        at += size
        scales[number] = scale
    return bad


def quant_decode_add(mode: str, payload: Array, scales: Array, block: int, acc: Array) -> None:
    """acc += decode(payload)."""
    codes = unpack(payload, BITS[mode])[: len(acc)].astype(np.float32)
    with np.errstate(over="ignore"):
        acc += codes * np.repeat(scales, block)[: len(acc)]


def narrow(mode: str, x: Array) -> Array:
    """Codes (int64) of float32 x: nearest even, saturating, subnormals kept. fp8 is e4m3 without infinities."""
    shift, bias, top = FORMATS[mode]
    bits = x.view(np.uint32).astype(np.int64)
    a = np.minimum(bits & 0x7FFFFFFF, top)
    r = (a + (1 << shift - 1) - 1 + (a >> shift & 1)) >> shift
    if bias == 127:
        r = np.minimum(r, top >> 16)
    else:
        r -= (127 - bias) << 23 - shift
        step = np.ldexp(np.float64(1), 1 - bias - (23 - shift))
        low = np.rint(a.astype(np.uint32).view(np.float32).astype(np.float64) / step).astype(np.int64)
        r = np.where(a < 128 - bias << 23, low, r)
    return r | (bits >> 31) << (7 if mode == "fp8" else 15)


def widen(mode: str, codes: Array) -> Array:
    """float32 of the codes."""
    shift, bias, _ = FORMATS[mode]
    top = 7 if mode == "fp8" else 15
    q = codes.astype(np.int64)
    a = ((q & (1 << top) - 1) << shift).astype(np.uint32).view(np.float32)
    value = a if bias == 127 else a * np.float32(2.0 ** (127 - bias))
    return np.where(q >> top, -value, value)


def cast_encode(mode: str, g: Array | None, e: Array, out: Array) -> int:
    """Fill `out` (uint8, 1 or 2 bytes an element) with x narrowed, leave the residual in `e`."""
    x, bad = take(g, e)
    codes = narrow(mode, x)
    out[:] = codes.astype(np.uint8 if mode == "fp8" else "<u2").view(np.uint8)
    e[:] = x - widen(mode, codes)
    return bad


def cast_decode_add(mode: str, payload: Array, acc: Array) -> None:
    acc += widen(mode, payload.view(np.uint8 if mode == "fp8" else "<u2"))


def shared_encode(g: Array | None, e: Array, top: float, levels: int, out: Array, bits: int) -> int:
    """Integers of one scale for all ranks: round(x * levels / top) within +-levels, to be summed by a native sum."""
    x, bad = take(g, e)
    limit, most = np.float32(levels), np.float32(top)
    tiny = not most >= SMALLEST
    inverse, scale = (np.float32(0), np.float32(0)) if tiny else (limit / most, most / limit)
    with np.errstate(over="ignore"):
        q = np.rint(np.clip(x * inverse, -limit, limit))
    out[:] = q.astype(f"<i{bits // 8}").view(np.uint8)
    e[:] = x - q * scale
    return bad


def shared_add(codes: Array, scale: float, acc: Array, bits: int) -> None:
    """acc += q * scale, of one rank's integers or of their sum."""
    acc += codes.view(f"<i{bits // 8}").astype(np.float32) * np.float32(scale)


def shared_peak(g: Array, e: Array) -> float:
    """Greatest finite |g + e|, |e| where that is not finite."""
    return float(np.abs(take(g, e)[0]).max(initial=0))


def quantise(x: Array, inverse: float, zero: float, out: Array) -> None:
    """out = round(x * inverse + zero) within 0..255, nearest even, NaN = 0; no error feedback."""
    with np.errstate(over="ignore", invalid="ignore"):
        y = x * np.float32(inverse) + np.float32(zero)
    out[:] = np.rint(np.clip(np.where(y > 0, y, np.float32(0)), 0, 255)).astype(np.uint8)
