"""The loops of the delta and its class coder on a CUDA device by Numba: one warp a block of the code, one thread a lane.

Arguments of the kernels are device arrays (or anything with `__cuda_array_interface__`); nothing is copied to the host.
`LOOPS` has the same loops for arrays of the host, as the tests call them: it copies there and back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int32

from ..types import Array
from .cuda_warp import SIMULATED, ballot, cuda, ones
from .jit_delta import shape_of
from .plain.delta import Loops, bits_of
from .plain.entropy import RARE, Code

WARP = 32


@cuda.jit(device=True)
def order(x: Any, turned: bool, top: Any) -> Any:
    if turned and (x >> top) & np.uint64(1):
        return x ^ ((np.uint64(1) << top) - np.uint64(1))
    return x


@cuda.jit
def zigzag(now: Any, base: Any, turned: bool, top: Any, mask: Any, out: Any) -> None:
    for i in range(cuda.grid(1), len(now), cuda.gridsize(1)):
        d = (order(np.uint64(now[i]), turned, top) - order(np.uint64(base[i]), turned, top)) & mask
        z = (d << np.uint64(1)) & mask
        out[i] = z ^ mask if d >> top else z


@cuda.jit
def zagzig(z: Any, base: Any, turned: bool, top: Any, mask: Any, out: Any) -> None:
    for i in range(cuda.grid(1), len(z), cuda.gridsize(1)):
        v = np.uint64(z[i])
        d = v >> np.uint64(1)
        if v & np.uint64(1):
            d = d ^ mask
        out[i] = order((order(np.uint64(base[i]), turned, top) + d) & mask, turned, top)


@cuda.jit
def push(size: Any, bits: Any, held: Any, left: Any, words: Any, first: Any) -> None:
    """Lanes of one block of the code, last value first; `words` fills from its end, `first[0]` says where it begins.

    held uint64, left int32 `(lanes,)` with lanes 1 or 32; launched with one block of 32 threads.
    """
    lane, count = cuda.threadIdx.x, len(held)
    have, bits_left, at = np.uint64(0), int32(33), len(words)
    for start in range((len(size) - 1) // count * count, -1, -count):
        i = start + lane
        on = lane < count and i < len(size)
        more = int32(size[i]) if on else int32(0)
        full = on and bits_left + more > 64
        seen = ballot(full)
        at -= ones(seen)
        if full:
            bits_left -= int32(32)
            words[at + ones(seen & ((1 << lane) - 1))] = np.uint32(have >> np.uint64(bits_left))
            have &= (np.uint64(1) << np.uint64(bits_left)) - np.uint64(1)
        if on:
            have = (have << np.uint64(more)) | bits[i]
            bits_left += more
    if lane < count:
        held[lane] = have
        left[lane] = bits_left
    if lane == 0:
        first[0] = at


@cuda.jit
def pull(base: int, length: Any, find: Any, held: Any, left: Any, word: Any, rare: Any, cond: Any, out: Any) -> None:
    """The values of one block of the code; `cond` may have length 0. Launched with one block of 32 threads."""
    lane, count = cuda.threadIdx.x, len(held)
    have, bits_left = np.uint64(0), int32(64)
    if lane < count:
        have, bits_left = held[lane], int32(left[lane])
    at, odd = 0, 0
    for start in range(0, len(out), count):
        i = start + lane
        on = lane < count and i < len(out)
        symbol = find[int32(have & np.uint64(127))] if on else 0
        seen = ballot(on and symbol == RARE)
        size, offset, value = int32(0), int32(0), np.uint64(0)
        if on:
            size = int32(length[symbol])
            if symbol == RARE:
                value = np.uint64(rare[odd + ones(seen & ((1 << lane) - 1))])
            elif symbol != 0:
                offset = int32(symbol + base - 2)
                if len(cond):
                    offset -= int32(cond[i])
                top = np.uint64(1) << np.uint64(offset)
                value = ((have >> np.uint64(size)) & (top - np.uint64(1))) | top
            have >>= np.uint64(size + offset)
            bits_left -= size + offset
            out[i] = np.uint32(value)
        odd += ones(seen)
        need = ballot(on and bits_left <= 32)
        if on and bits_left <= 32:
            have |= np.uint64(word[at + ones(need & ((1 << lane) - 1))]) << np.uint64(bits_left)
            bits_left += int32(32)
        at += ones(need)


def grid(n: int) -> tuple[int, int]:
    """Blocks and threads for n elements; few in the simulator, where each is a thread of the host."""
    return (1, WARP) if SIMULATED else (max(1, min(1024, -(-n // 256))), 256)


def diff(now: Array, base: Array) -> Array:
    out = cuda.device_array(len(now), bits_of(now).dtype)
    zigzag[grid(len(now))](cuda.to_device(bits_of(now)), cuda.to_device(bits_of(base)), *shape_of(now), out)
    made: Array = out.copy_to_host()
    return made


def join(z: Array, base: Array) -> Array:
    out = cuda.device_array(len(z), z.dtype)
    zagzig[grid(len(z))](cuda.to_device(z), cuda.to_device(bits_of(base)), *shape_of(base), out)
    made: Array = out.copy_to_host().view(base.dtype)
    return made


def emit(size: Array, bits: Array, count: int) -> tuple[Array, Array, Array]:
    held, left = cuda.device_array(count, np.uint64), cuda.device_array(count, np.int32)
    words, first = cuda.device_array(len(size), np.uint32), cuda.device_array(1, np.int64)
    push[1, WARP](cuda.to_device(size), cuda.to_device(bits), held, left, words, first)
    return held.copy_to_host(), left.copy_to_host().astype(np.uint8), words.copy_to_host()[int(first.copy_to_host()[0]) :]


def read(code: Code, cond: Array | None, out: Array) -> None:
    given = np.empty(0, np.uint8) if cond is None else np.ascontiguousarray(cond)
    parts = [np.array(part) for part in (code.length, code.find, code.held, code.left, code.word, code.rare)]
    target = cuda.device_array(len(out), np.uint32)
    pull[1, WARP](code.base, *map(cuda.to_device, parts), cuda.to_device(given), target)
    out[:] = target.copy_to_host()


LOOPS = Loops(diff, join, emit, read)
