"""Sorted index sets as bytes: the cheapest of class-coded gaps, bit-packed gaps, a bitmap and runs.

    "EI" | width u8 | 0 | segments u32 | universe u64 | count u64 | one native set                 (width 4)
                                  ... | {high u64, count u64, bytes u64} each | native sets    (width 8)
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ..errors import FrameError
from ..kernels import _native
from ..types import Array
from .frame import flat

HEAD = struct.Struct("<2sBxIQQ")  # magic, width of an index, segments, universe, count
SEGMENT = struct.Struct("<QQQ")  # high half, count, bytes
LIMIT = 1 << 32


def index_encode(index: Array, n: int, *, fast: bool = False) -> bytes:
    """Strictly ascending uint32 or uint64 `index` `(k,)`, all below `n`, as bytes; `fast` prefers bit-packing.

    uint64 sets are cut where the upper 32 bits change.  ValueError where the order or a bound is broken.
    """
    if index.dtype not in (np.uint32, np.uint64) or index.ndim != 1:
        raise ValueError(f"index_encode: expected uint32 or uint64 (k,), found {index.dtype} {index.shape}")
    if index.dtype == np.uint32:
        return _encode(np.ascontiguousarray(index), min(n, LIMIT), fast, HEAD.pack(b"EI", 4, 1, n, len(index)))
    if len(index) and (np.any(index[1:] <= index[:-1]) or int(index[-1]) >= n):
        raise ValueError("index_encode: expected strictly ascending indices below n")
    high, start = np.unique(index >> np.uint64(32), return_index=True)
    rows, parts = [], []
    for top, part in zip(high.tolist(), np.split(index, start[1:]), strict=bool(len(index))):
        parts.append(_encode(part.astype(np.uint32), min(LIMIT, n - (top << 32)), fast))
        rows.append(SEGMENT.pack(top, len(part), len(parts[-1])))
    return b"".join([HEAD.pack(b"EI", 8, len(rows), n, len(index)), *rows, *parts])


def index_decode(data: Any) -> Array:
    """The indices, uint32 or uint64 `(k,)`; FrameError unless the bytes are one whole set."""
    data = np.frombuffer(flat(data), np.uint8)
    if len(data) < HEAD.size:
        raise FrameError(f"index: expected {HEAD.size} bytes or more, found {len(data)}")
    magic, width, segments, n, count = HEAD.unpack_from(data)
    if magic != b"EI" or width not in (4, 8) or count > n or (width == 4 and segments != 1):
        raise FrameError(f"index: not an index set: {magic!r}, width {width}, {count} of {n}")
    if width == 4:
        return _decode(data[HEAD.size :], count, min(n, LIMIT))
    start = HEAD.size + segments * SEGMENT.size
    if len(data) < start:
        raise FrameError(f"index: cut in the table of {segments} segments")
    parts, last, total = [], -1, 0
    for top, items, size in SEGMENT.iter_unpack(data[HEAD.size : start].tobytes()):
        total += items
        if top <= last or top << 32 >= n or size > len(data) - start or not items or total > count:
            raise FrameError(f"index: segment {top} of {items} indices does not fit")
        low = _decode(data[start : start + size], items, min(LIMIT, n - (top << 32)))
        parts.append(low.astype(np.uint64) | np.uint64(top << 32))
        last, start = top, start + size
    if total != count or start != len(data):
        raise FrameError(f"index: expected {count} indices in {len(data)} bytes, found {total} in {start}")
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _encode(index: Array, n: int, fast: bool, head: bytes = b"") -> bytes:
    out = np.empty(len(head) + _native.index_bound(len(index), n), np.uint8)
    out[: len(head)] = np.frombuffer(head, np.uint8)
    return out[: len(head) + _native.index_encode(index, n, out[len(head) :], fast)].tobytes()


def _decode(data: Array, count: int, n: int) -> Array:
    if count > n:
        raise FrameError(f"index: {count} indices below {n}")
    index = np.empty(count, np.uint32)
    try:
        used = _native.index_decode(data, n, index)
    except ValueError as error:
        raise FrameError(f"index: {error}") from error
    if used != len(data):
        raise FrameError(f"index: {len(data) - used} bytes are left over")
    return index
