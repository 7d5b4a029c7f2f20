"""The 32-lane class coder and sorted index sets in NumPy: what csrc/entropy computes, byte for byte (docs/format.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...types import Array

BLOCK, WIDE, RARE, WIDEST, WINDOW = 65536, 16384, 63, 26, 62
U64 = np.uint64


def width_of(values: Array) -> Array:
    """Bit length of uint32 values, as int64."""
    return np.ceil(np.log2(values.astype(np.float64) + 1)).astype(np.int64)


def lengths(count: Array, limit: int) -> Array:
    """Optimal prefix code lengths <= limit by package-merge; ties by symbol, then leaf before package."""
    length = np.zeros(len(count), np.int64)
    leaves: list[tuple[int, tuple[int, ...]]] = sorted((int(c), (s,)) for s, c in enumerate(count) if c)
    if len(leaves) == 1:
        length[leaves[0][1][0]] = 1
    if len(leaves) < 2:
        return length
    held = leaves
    for _ in range(limit - 1):
        pairs = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(held[::2], held[1::2], strict=False)]
        merged, i, p = [], 0, 0
        while i < len(leaves) or p < len(pairs):
            pack = i == len(leaves) or (p < len(pairs) and pairs[p][0] < leaves[i][0])
            merged.append(pairs[p] if pack else leaves[i])
            i, p = i + (not pack), p + pack
        held = merged
    for _, symbols in held[: 2 * (len(leaves) - 1)]:
        np.add.at(length, list(symbols), 1)
    return length


def canonical(length: Array, limit: int) -> Array:
    """Canonical codes, shorter first, then by symbol; bits reversed."""
    bits, code = np.zeros(len(length), np.int64), 0
    for size in range(1, limit + 1):
        for symbol in np.flatnonzero(length == size):
            bits[symbol] = int(f"{code:0{size}b}"[::-1], 2)
            code += 1
        code <<= 1
    return bits


def sampled(n: int) -> Array:
    """Places of a sample: 16 of every 1024."""
    at = np.arange(n)
    return at[at % 1024 < 16]


def sample_base(values: Array, cond: Array | None) -> int:
    """First class of the window of 62 that holds most of a sample, the lowest among equals; 1 without conditions."""
    if cond is None:
        return 1
    at = sampled(len(values))
    at = at[values[at] != 0]
    count = np.bincount(width_of(values[at]) + cond[at], minlength=320)
    held = np.convolve(count[1:], np.ones(WINDOW, np.int64))[: 320 - 1]
    top = int(np.argmax(held)) + 1 if len(at) else 0
    return max(1, top - WINDOW + 1)


def sample_cost(values: Array, cond: Array | None) -> int:
    """Bits of an optimal code of the classes of a sample's values that are not 0."""
    at = sampled(len(values))
    at = at[values[at] != 0]
    place = width_of(values[at]) + (0 if cond is None else cond[at]) - sample_base(values, cond)
    symbol = np.where((place >= 0) & (place < WINDOW), place + 1, RARE)
    count = np.bincount(symbol, minlength=64)
    return int((count * lengths(count, 7)).sum() + 32 * count[RARE])


def emit(size: Array, bits: Array, count: int) -> tuple[Array, Array, Array]:
    """Push `size` low bits of each of `bits`, last first, on lane (place mod count); a lane gives up a word before it would
    hold more than 64. What the lanes hold uint64, how many bits uint8, and the words in the order they are read.
    """
    held, left, words = np.zeros(count, U64), np.full(count, 33), []
    for start in range((len(size) - 1) // count * count, -1, -count):
        part = slice(start, min(start + count, len(size)))
        lane = np.arange(part.stop - start)
        full = lane[left[lane] + size[part] > 64]
        left[full] -= 32
        words.append((held[full] >> left[full].astype(U64)).astype(np.uint32))
        held[full] &= (U64(1) << left[full].astype(U64)) - U64(1)
        held[lane] = held[lane] << size[part].astype(U64) | bits[part]
        left[lane] += size[part]
    return held, left.astype(np.uint8), np.concatenate(words[::-1])


def read(code: Code, cond: Array | None, out: Array) -> None:
    """The values of a block, first to last, to `out`."""
    held, left, word, rare = code.held.copy(), code.left.astype(np.int64), code.word, code.rare
    for i in range(0, len(out), code.lanes):
        lane = np.arange(min(code.lanes, len(out) - i))
        symbol = code.find[(held[lane] & U64(127)).astype(np.int64)]
        plain = (symbol != 0) & (symbol != RARE)
        under = np.int64(0) if cond is None else cond[i : i + code.lanes].astype(np.int64)
        offset = np.where(plain, symbol + (code.base - 2) - under, 0)
        rest = held[lane] >> code.length[symbol].astype(U64)
        z = rest & ((U64(1) << offset.astype(U64)) - U64(1)) | np.where(plain, U64(1) << offset.astype(U64), U64(0))
        z[symbol == RARE], rare = rare[: (symbol == RARE).sum()], rare[(symbol == RARE).sum() :]
        out[i : i + code.lanes] = z
        held[lane] = rest >> offset.astype(U64)
        left[lane] -= code.length[symbol] + offset
        need = lane[left[lane] <= 32]
        held[need] |= word[: len(need)].astype(U64) << left[need].astype(U64)
        left[need] += 32
        word = word[len(need) :]


class Code(NamedTuple):
    """An opened block: first class, lanes, code lengths by symbol (64), symbol by 7 bits (128), and its streams."""

    base: int
    lanes: int
    length: Array
    find: Array
    held: Array
    left: Array
    word: Array
    rare: Array


def class_encode(values: Array, cond: Array | None, lanes: int | None = None, push: Callable[..., Any] = emit) -> bytes:
    """uint32 values under uint8 conditions (or none), block by block; `lanes` 1 or 32 instead of what the length says."""
    parts = [slice(i, i + BLOCK) for i in range(0, len(values), BLOCK)]
    return b"".join(_block(values[part], None if cond is None else cond[part], lanes, push) for part in parts)


def _block(values: Array, cond: Array | None, lanes: int | None, push: Callable[..., Any]) -> bytes:
    count = lanes or (32 if len(values) >= WIDE else 1)
    base, width = sample_base(values, cond), width_of(values)
    symbol = width + (0 if cond is None else cond.astype(np.int64)) - (base - 1)
    symbol = np.where(values == 0, 0, np.where((symbol < 1) | (symbol > WINDOW) | (width > WIDEST), RARE, symbol))
    length = lengths(np.bincount(symbol, minlength=64), 7)
    code = canonical(length, 7)
    rare = values[symbol == RARE].astype("<u4")
    z = np.where(symbol == RARE, 0, values).astype(U64)
    offset = np.maximum(np.where(symbol == RARE, 0, width) - 1, 0)
    bits = code[symbol].astype(U64) | (z & ((U64(1) << offset.astype(U64)) - U64(1))) << length[symbol].astype(U64)
    held, left, words = push(length[symbol] + offset, bits, count)
    symbols = int(np.flatnonzero(length)[-1]) + 1
    nibbles = np.zeros(-(-symbols // 8) * 8, np.uint8)
    nibbles[:symbols] = length[:symbols]
    head = np.array([len(words), len(rare), base | symbols << 16 | count << 24], "<u4").tobytes()
    lefts = left.tobytes().ljust(-(-count // 4) * 4, b"\0")
    low, high = held.astype("<u4").tobytes(), (held >> U64(32)).astype("<u4").tobytes()
    table = (nibbles[::2] | nibbles[1::2] << 4).tobytes()
    return b"".join([head, table, lefts, low, high, words.astype("<u4").tobytes(), rare.tobytes()])


def class_decode(data: bytes, cond: Array | None, n: int, pull: Callable[..., Any] = read) -> tuple[Array, int]:
    """n values and bytes used; the bytes are trusted."""
    out, at = np.empty(n, np.uint32), 0
    for i in range(0, n, BLOCK):
        code, used = block_open(data[at:])
        pull(code, None if cond is None else cond[i : i + BLOCK], out[i : i + BLOCK])
        at += used
    return out, at


def block_open(data: bytes) -> tuple[Code, int]:
    """The block at the start of `data`, and its bytes."""
    words, rares, mixed = (int(v) for v in np.frombuffer(data, "<u4", 3))
    symbols, count = mixed >> 16 & 255, mixed >> 24
    table = np.frombuffer(data, np.uint8, -(-symbols // 8) * 4, 12)
    length, start = np.zeros(64, np.int64), 12 + len(table)
    length[:symbols] = np.stack([table & 15, table >> 4], 1).reshape(-1)[:symbols]
    bits, find = canonical(length, 7), np.zeros(128, np.int64)
    for at in np.flatnonzero(length):
        find[bits[at] :: 1 << length[at]] = at
    if np.count_nonzero(length) == 1:
        find[:] = np.flatnonzero(length)[0]
    left = np.frombuffer(data, np.uint8, count, start)
    start += -(-count // 4) * 4
    low, high = (np.frombuffer(data, "<u4", count, start + 4 * count * h).astype(U64) for h in (0, 1))
    start += 8 * count
    word = np.frombuffer(data, "<u4", words, start)
    rare = np.frombuffer(data, "<u4", rares, start + 4 * words)
    return Code(mixed & 0xFFFF, count, length, find, low | high << U64(32), left, word, rare), start + 4 * (words + rares)


def index_decode(data: bytes, n: int, universe: int) -> Array:
    """The n indices of a set by gaps, bitmap or runs; the bytes are trusted."""
    method, body = data[0], data[1:]
    if method == 2:
        return np.flatnonzero(np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")[:universe]).astype(np.uint32)
    if method == 0:
        gaps = class_decode(body, None, n)[0].astype(np.int64)
        return (np.cumsum(gaps + 1) - 1).astype(np.uint32)
    count = int.from_bytes(body[:4], "little")
    start, used = class_decode(body[4:], None, count)
    length = class_decode(body[4 + used :], None, count)[0].astype(np.int64) + 1
    first = np.cumsum(start.astype(np.int64) + (np.arange(count) > 0)) + np.cumsum(length) - length
    return (np.repeat(first - np.cumsum(length) + length, length) + np.arange(n)).astype(np.uint32)


def index_encode(index: Array, universe: int) -> bytes:
    """The cheapest form of ascending uint32 indices: class-coded gaps (0), a bitmap (2), runs (3)."""
    n, forms = len(index), []
    gaps = (np.diff(index.astype(np.int64), prepend=-1) - 1).astype(np.uint32)
    first = np.flatnonzero(np.append(True, gaps[1:] != 0))[: n or 0]
    if len(first) > n // 16:
        forms.append((0, class_encode(gaps, None)))
    if len(first) <= n // 2:
        length = np.diff(np.append(first, n)) - 1
        start = np.where(first > 0, gaps[first].astype(np.int64) - 1, gaps[first]).astype(np.uint32)
        coded = class_encode(start, None) + class_encode(length.astype(np.uint32), None)
        forms.append((3, np.uint32(len(first)).tobytes() + coded))
    method, body = min(forms, key=lambda form: len(form[1])) if n else (0, b"")
    if n and (universe + 7) // 8 < len(body):
        bits = np.zeros(universe, np.uint8)
        bits[index] = 1
        method, body = 2, np.packbits(bits, bitorder="little").tobytes()
    return bytes([method]) + body
