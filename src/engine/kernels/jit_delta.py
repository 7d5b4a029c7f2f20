"""The loops of the delta and its class coder compiled by Numba for the CPU: a witness of the native bytes, and a way without.

    mode, body = plain.delta.chunk_encode(now, base, loops=LOOPS)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ..types import Array
from .plain.delta import Loops, bits_of
from .plain.entropy import RARE, Code

U1, U32, U33, U64, U127 = (np.uint64(v) for v in (1, 32, 33, 64, 127))


@njit(cache=False)
def order(x: Any, turned: bool, top: Any) -> Any:
    """Bits in the order of the values: all below the sign of a negative float are turned over."""
    return x ^ ((U1 << top) - U1) if turned and x >> top & U1 else x


@njit(cache=False)
def zigzag(now: Array, base: Array, turned: bool, top: Any, mask: Any, out: Array) -> None:
    for i in range(len(now)):
        d = (order(np.uint64(now[i]), turned, top) - order(np.uint64(base[i]), turned, top)) & mask
        out[i] = (d << U1 & mask) ^ (mask if d >> top else np.uint64(0))


@njit(cache=False)
def zagzig(z: Array, base: Array, turned: bool, top: Any, mask: Any, out: Array) -> None:
    for i in range(len(z)):
        v = np.uint64(z[i])
        d = v >> U1 ^ (mask if v & U1 else np.uint64(0))
        out[i] = order((order(np.uint64(base[i]), turned, top) + d) & mask, turned, top)


def shape_of(data: Array) -> tuple[bool, Any, Any]:
    """Whether negative elements are turned, the place of the sign, all bits."""
    size = 8 * data.itemsize
    return data.dtype.kind not in "iub", np.uint64(size - 1), np.uint64((1 << size) - 1)


def diff(now: Array, base: Array) -> Array:
    out = np.empty_like(bits_of(now))
    zigzag(bits_of(now), bits_of(base), *shape_of(now), out)
    return out


def join(z: Array, base: Array) -> Array:
    out = np.empty_like(bits_of(base))
    zagzig(z, bits_of(base), *shape_of(base), out)
    return out.view(base.dtype)


@njit(cache=False)
def push(size: Array, bits: Array, held: Array, left: Array, words: Array) -> int:
    """Fills `words` from its end; where the first of them is."""
    at, count = len(words), len(held)
    for i in range(len(size) - 1, -1, -1):
        lane, more = i % count, np.uint64(size[i])
        if left[lane] + more > U64:
            left[lane] -= U32
            at -= 1
            words[at] = np.uint32(held[lane] >> left[lane])
            held[lane] &= (U1 << left[lane]) - U1
        held[lane] = held[lane] << more | bits[i]
        left[lane] += more
    return at


def emit(size: Array, bits: Array, count: int) -> tuple[Array, Array, Array]:
    held, left, words = np.zeros(count, np.uint64), np.full(count, U33), np.empty(len(size), np.uint32)
    at = push(size, bits, held, left, words)
    return held, left.astype(np.uint8), words[at:]


@njit(cache=False)
def pull(
    base: int, length: Array, find: Array, held: Array, left: Array, word: Array, rare: Array, cond: Array, out: Array
) -> None:
    count, at, odd = len(held), 0, 0
    for i in range(len(out)):
        lane = i % count
        symbol = find[held[lane] & U127]
        size, offset, value = np.uint64(length[symbol]), np.uint64(0), np.uint64(0)
        if symbol == RARE:
            value = np.uint64(rare[odd])
            odd += 1
        elif symbol:
            offset = np.uint64(symbol + base - 2 - (np.int64(cond[i]) if len(cond) else 0))
            value = held[lane] >> size & ((U1 << offset) - U1) | U1 << offset
        held[lane] >>= size + offset
        left[lane] -= size + offset
        if left[lane] <= U32:
            held[lane] |= np.uint64(word[at]) << left[lane]
            left[lane] += U32
            at += 1
        out[i] = np.uint32(value)


def read(code: Code, cond: Array | None, out: Array) -> None:
    under = np.empty(0, np.uint8) if cond is None else cond
    word, rare = (np.ascontiguousarray(part, np.uint32) for part in (code.word, code.rare))
    pull(code.base, code.length, code.find, code.held.copy(), code.left.astype(np.uint64), word, rare, under, out)


LOOPS = Loops(diff, join, emit, read)
