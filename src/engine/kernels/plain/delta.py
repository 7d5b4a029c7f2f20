"""Chunks of a delta in NumPy: what csrc/delta computes, byte for byte (docs/format.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...types import Array
from .entropy import BLOCK, class_decode, class_encode, emit, index_decode, index_encode, read, sample_cost, width_of

ZERO, RAW, SPARSE, DENSE, PACKED = 0, 1, 3, 4, 5
CONDITIONED, PREDICTED, NARROW = 256, 512, 1024
GROUP, PROBE, SPARSE_LIMIT = 512, 8192, 1 << 17
_EXPONENT = {"float16": (10, 31), "bfloat16": (7, 255), "float32": (23, 255)}


def bits_of(data: Array) -> Array:
    return data.view(f"u{data.itemsize}")


def ordered(data: Array) -> Array:
    """Bits as unsigned integers in the order of the values, modulo 2^bits; its own inverse on floats."""
    bits = bits_of(data)
    if data.dtype.kind in "iub":
        return bits
    sign = bits >> bits.dtype.type(8 * bits.itemsize - 1)
    mask = bits.dtype.type((1 << (8 * bits.itemsize - 1)) - 1)
    return np.where(sign != 0, bits ^ mask, bits).astype(bits.dtype)


def predict(base: Array, previous: Array, beta: float) -> Array:
    """base + beta * (base - previous) in float32, each operation rounded; the base where that is not finite."""
    with np.errstate(all="ignore"):
        moved = base + np.float32(beta) * (base - previous)
    return np.where(np.isfinite(moved), moved, base).astype(np.float32)


def diff(now: Array, base: Array) -> Array:
    """Zigzag of the difference in units in the last place, unsigned, as wide as an element."""
    d = ordered(now) - ordered(base)
    one = d.dtype.type(1)
    return np.where(d >> d.dtype.type(8 * d.itemsize - 1) != 0, ~(d << one), d << one).astype(d.dtype)


def join(z: Array, base: Array) -> Array:
    """The new version of the base and what `diff` gave."""
    one = z.dtype.type(1)
    d = np.where(z & one != 0, ~(z >> one), z >> one).astype(z.dtype)
    made = (ordered(base) + d).view(base.dtype)
    return ordered(made).view(base.dtype)


def exponents(base: Array) -> Array | None:
    """uint8 exponents of floats of up to 4 bytes, else None."""
    if base.dtype.name not in _EXPONENT:
        return None
    shift, mask = _EXPONENT[base.dtype.name]
    return (bits_of(base) >> bits_of(base).dtype.type(shift) & bits_of(base).dtype.type(mask)).astype(np.uint8)


def streams(z: Array, narrow: bool) -> list[Array]:
    """uint32 streams of z: itself, or of 8-byte elements the low halves and, unless `narrow`, the high ones."""
    if z.itemsize < 8:
        return [z.astype(np.uint32)]
    low, high = (z & np.uint64(0xFFFFFFFF)).astype(np.uint32), (z >> np.uint64(32)).astype(np.uint32)
    return [low] if narrow else [low, high]


class Loops(NamedTuple):
    """The four loops that a backend has of its own."""

    diff: Callable[..., Any] = diff
    join: Callable[..., Any] = join
    emit: Callable[..., Any] = emit
    read: Callable[..., Any] = read


PLAIN = Loops()


def chunk_encode(
    now: Array,
    base: Array | None,
    previous: Array | None = None,
    beta: float = 0.0,
    fast: bool = False,
    loops: Loops = PLAIN,
) -> tuple[int, bytes]:
    """Mode and bytes of a chunk, exact."""
    raw = RAW, now.tobytes()
    if base is None:
        return raw
    reference, flags = base, 0
    if previous is not None:
        moved = predict(base, previous, beta)
        part = slice(0, PROBE)
        if width_of(diff(now[part], moved[part])).sum() < width_of(diff(now[part], base[part])).sum():
            reference, flags = moved, PREDICTED
    z, cond = loops.diff(now, reference), exponents(base)
    count, n = int(np.count_nonzero(z)), len(z)
    if not fast and z.itemsize == 8 and not (z >> np.uint64(32)).any():
        flags |= NARROW
    if fast and count > n // 64:
        body, flags = packed(z), flags | PACKED
    elif not count:
        narrow = NARROW if z.itemsize == 8 else 0
        return ZERO | flags | narrow, b""
    elif count <= min(SPARSE_LIMIT, (n - 1) // 2 if n <= BLOCK else n // 8):
        flags, body = sparse(z, cond, flags, loops)
    else:
        under = cond is not None and cheaper(streams(z, True)[0][:BLOCK], cond[:BLOCK])
        parts = []
        for i in range(0, n, BLOCK):
            first, *rest = streams(z[i : i + BLOCK], bool(flags & NARROW))
            given = cond[i : i + BLOCK] if under and cond is not None else None
            parts += [class_encode(first, given, push=loops.emit), *(class_encode(one, None, push=loops.emit) for one in rest)]
        flags, body = flags | DENSE | (CONDITIONED if under else 0), b"".join(parts)
    return (flags, body) if len(body) <= now.nbytes else raw


def cheaper(values: Array, cond: Array) -> bool:
    return sample_cost(values, cond) < sample_cost(values, None)


def sparse(z: Array, cond: Array | None, flags: int, loops: Loops) -> tuple[int, bytes]:
    at = np.flatnonzero(z).astype(np.uint32)
    change = z[at] - z.dtype.type(1)
    narrow = z.itemsize == 8 and not (change >> np.uint64(32)).any()
    first, *rest = streams(change, narrow)
    under = None if cond is None else cond[at]
    if under is not None and not cheaper(first[:BLOCK], under[:BLOCK]):
        under = None
    places = index_encode(at, len(z))
    head = np.array([len(at), len(places)], "<u4").tobytes() + places + bytes(-len(places) % 4)
    coded = [class_encode(first, under, push=loops.emit), *(class_encode(one, None, push=loops.emit) for one in rest)]
    body = b"".join([head, *coded])
    return flags & ~NARROW | SPARSE | (NARROW if narrow else 0) | (CONDITIONED if under is not None else 0), body


def packed(z: Array) -> bytes:
    parts = []
    for i in range(0, len(z), BLOCK):
        for stream in streams(z[i : i + BLOCK], False):
            groups = np.zeros((-(-len(stream) // GROUP), GROUP), np.uint32)
            groups.reshape(-1)[: len(stream)] = stream
            widths = width_of(np.bitwise_or.reduce(groups, axis=1)).astype(np.uint8)
            parts.append(widths.tobytes() + bytes(-len(widths) % 4))
            for group, width in zip(groups, widths.tolist(), strict=True):
                rows = group.reshape(32, 16).T  # 16 columns, the values of each from the low end of its words
                bits = (rows[:, :, None] >> np.arange(width, dtype=np.uint32) & 1).reshape(16, -1).astype(np.uint8)
                words = np.ascontiguousarray(np.packbits(bits, axis=1, bitorder="little")).view("<u4")
                parts.append(np.ascontiguousarray(words.T).tobytes())
    return b"".join(parts)


def chunk_decode(
    mode: int, body: bytes, base: Array, previous: Array | None = None, beta: float = 0.0, loops: Loops = PLAIN
) -> Array:
    """The new version of a chunk, as long as `base`; the bytes are trusted."""
    kind, n, reference = mode & 255, len(base), base
    if kind == RAW:
        return np.frombuffer(body, base.dtype).copy()
    if mode & PREDICTED and previous is not None:
        reference = predict(base, previous, beta)
    cond = exponents(base) if mode & CONDITIONED else None
    halves = 2 if base.itemsize == 8 and not mode & NARROW else 1
    z = np.zeros((2, n), np.uint32)
    if kind == SPARSE:
        count, size = (int(v) for v in np.frombuffer(body, "<u4", 2))
        at = index_decode(body[8 : 8 + size], count, n)
        change, start = np.zeros((2, count), np.uint32), 8 + -(-size // 4) * 4
        for half in range(halves):
            change[half], used = class_decode(body[start:], None if half or cond is None else cond[at], count, loops.read)
            start += used
        z[0, at], z[1, at] = change[0] + np.uint32(1), change[1] + (change[0] == 0xFFFFFFFF)
    elif kind == DENSE:
        start = 0
        for i in range(0, n, BLOCK):
            for half in range(halves):
                under = None if half or cond is None else cond[i : i + BLOCK]
                part, used = class_decode(body[start:], under, min(BLOCK, n - i), loops.read)
                z[half, i : i + BLOCK], start = part, start + used
    elif kind == PACKED:
        unpacked(body, z[:halves])
    bits = bits_of(base).dtype
    wide = z[0].astype(np.uint64) | z[1].astype(np.uint64) << np.uint64(32)
    made: Array = loops.join(wide.astype(bits), reference)
    return made


def unpacked(body: bytes, z: Array) -> None:
    at = 0
    for i in range(0, z.shape[1], BLOCK):
        for stream in z[:, i : i + BLOCK]:
            widths = np.frombuffer(body, np.uint8, -(-len(stream) // GROUP), at)
            at += -(-len(widths) // 4) * 4
            groups = np.zeros((len(widths), GROUP), np.uint32)
            for group, width in zip(groups, widths.tolist(), strict=True):
                words = np.frombuffer(body, "<u4", 16 * width, at).reshape(width, 16).T
                bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
                values = bits.reshape(16, 32, width).astype(np.uint64) @ (np.uint64(1) << np.arange(width, dtype=np.uint64))
                group[:] = values.T.reshape(-1)
                at += 64 * width
            stream[:] = groups.reshape(-1)[: len(stream)]
