"""Selection on a CUDA device: ordered compaction in two passes, exact k by radix select; see kernels/cuda.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int32

from .cuda_warp import LANES, Device, ballot, cuda, grid, less, made, on_device, ones, plus, take, views, word_of

PART = 1024  # elements of a block


@cuda.jit
def count_kernel(g: Any, form: int, e: Any, t: Any, count: Any, bad: Any) -> None:
    """First pass of a selection: e = g + e, and how many of each PART elements are chosen."""
    lane, start = cuda.threadIdx.x, cuda.blockIdx.x * PART
    wrong = found = 0
    for i in range(start + lane, less(start + PART, len(e)), LANES):
        wrong += take(g, e, i, form)
        found += 1 if abs(e[i]) >= t else 0
    if wrong:
        cuda.atomic.add(bad, 0, wrong)
    if found:
        cuda.atomic.add(count, cuda.blockIdx.x, found)


@cuda.jit
def offset_kernel(count: Any, tally: Any) -> None:
    """Exclusive sums of the counts by one thread; their total to tally[1]."""
    total = 0
    for i in range(len(count)):
        found = count[i]
        count[i] = total
        total += found
    tally[1] = total


@cuda.jit
def gather_kernel(e: Any, t: Any, offset: Any, index: Any, value: Any) -> None:
    """Second pass: the chosen to (index, value) in ascending order, 0 in their place; none past the end of `index`."""
    lane, start, at = cuda.threadIdx.x, cuda.blockIdx.x * PART, offset[cuda.blockIdx.x]
    halves = cuda.shared.array(2, int32)
    for base in range(start, less(start + PART, len(e)), LANES):
        i = base + lane
        x = e[i] if i < len(e) else np.float32(0)
        on = i < len(e) and abs(x) >= t
        mask = ballot(on)
        if lane % 32 == 0:
            halves[lane // 32] = ones(mask)
        cuda.syncthreads()
        place = at + ones(mask & ((1 << lane % 32) - 1)) + (halves[0] if lane >= 32 else 0)
        if on and place < len(index):
            index[place], value[place], e[i] = i, x, np.float32(0)
        at += halves[0] + halves[1]
        cuda.syncthreads()


@cuda.jit
def select_kernel(value: Any, count: int, k: int, found: Any) -> None:
    """found = (bits of the k-th largest magnitude, how many ties of it are kept), by one block: 11 + 10 + 10 bits."""
    bins = cuda.shared.array(2048, int32)
    held = cuda.shared.array(2, int32)
    lane = cuda.threadIdx.x
    if lane == 0:
        held[0], held[1] = 0, k
    mask = 0
    for shift in (20, 10, 0):
        size = 2048 if shift == 20 else 1024
        for i in range(lane, size, LANES):
            bins[i] = 0
        cuda.syncthreads()
        for i in range(lane, count, LANES):
            a = word_of(value[i]) & 0x7FFFFFFF
            if a & mask == held[0]:
                cuda.atomic.add(bins, a >> shift & (size - 1), 1)
        cuda.syncthreads()
        if lane == 0:
            at, left = size - 1, held[1]
            while bins[at] < left:
                left -= bins[at]
                at -= 1
            held[0] |= at << shift
            held[1] = left
        mask |= (size - 1) << shift
        cuda.syncthreads()
    if lane == 0:
        found[0], found[1] = held[0], held[1]


@cuda.jit
def keep_kernel(index: Any, value: Any, count: int, found: Any, e: Any) -> None:
    """The k largest to the front, in order, the lowest place first among equals; the rest back to e. One warp."""
    lane, kept, ties, edge = cuda.threadIdx.x, 0, found[1], found[0]
    for base in range(0, count, 32):
        i = base + lane
        a = word_of(value[i]) & 0x7FFFFFFF if i < count else 0
        equal = ballot(i < count and a == edge)
        below = (1 << lane) - 1
        on = i < count and (a > edge or (a == edge and ones(equal & below) < ties))
        mask = ballot(on)
        at, v = (index[i], value[i]) if i < count else (index[0], np.float32(0))
        cuda.syncthreads()
        if on:
            place = kept + ones(mask & below)
            index[place], value[place] = at, v
        elif i < count:
            e[at] = v
        kept += ones(mask)
        ties -= less(ties, ones(equal))
        cuda.syncthreads()


@cuda.jit
def scatter_kernel(index: Any, value: Any, acc: Any) -> None:
    i = cuda.grid(1)
    if i < len(index) and index[i] < len(acc):
        acc[index[i]] = plus(acc[index[i]], value[i])


@cuda.jit
def strata_kernel(n: Any, key: Any, index: Any) -> None:
    i = cuda.grid(1)
    if i < len(index):
        index[i] = stratum(n, key, np.uint64(i), np.uint64(len(index)))


@cuda.jit(device=True)
def stratum(n: Any, key: Any, i: Any, k: Any) -> Any:
    edge, stop = i * n // k, (i + np.uint64(1)) * n // k
    x = (edge + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ key
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return edge + ((x >> np.uint64(32)) * (stop - edge) >> np.uint64(32))


def threshold_encode(
    g: Device | None, e: Device, t: float, index: Device, value: Device, *, tally: Device | None = None
) -> Any:
    """Every entry |g + e| >= t to (index, value), ascending; tally = (non-finite, entries found).

    Where more are found than `index` holds, the rest stays in e, as it was not sent.
    """
    g, form, e = views(g, e)
    index, tally, parts = on_device(index), made(tally, 2), -(-len(e) // PART)
    if parts:
        count = made(None, parts)
        count_kernel[parts, LANES](g, form, e, np.float32(t), count, tally)
        offset_kernel[1, 1](count, tally)
        gather_kernel[parts, LANES](e, np.float32(t), count, index, on_device(value))
    return tally


def topk_keep(index: Device, value: Device, count: int, k: int, e: Device, *, tally: Device | None = None) -> Any:
    """tally = (bits of the k-th magnitude, ties of it that are kept)."""
    if not 1 <= k <= count <= len(index):
        raise ValueError("topk: expected 1 <= k <= count <= size")
    index, value, tally = on_device(index), on_device(value), made(tally, 2)
    select_kernel[1, LANES](value, count, k, tally)
    keep_kernel[1, 32](index, value, count, tally, on_device(e))
    return tally


def scatter_add(index: Device, value: Device, acc: Device) -> None:
    """acc[index] += value of an ascending index set; an index past the end is skipped."""
    scatter_kernel[grid(len(index))](on_device(index), on_device(value), on_device(acc))


def strata(n: int, key: int, index: Device) -> None:
    strata_kernel[grid(len(index))](np.uint64(n), np.uint64(key), on_device(index))
