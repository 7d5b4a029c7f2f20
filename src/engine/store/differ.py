"""Which rows of a block changed, and those rows."""
from __future__ import annotations

import numpy as np

from ..kernels.rows import gather, lay
from ..types import Array


def taken(data: Array, rows: Array) -> Array:
    """`data[rows]`, contiguous; rows of bytes where `data` is some columns of whole rows (ten times as fast)."""
    base = data.base
    whole = (isinstance(base, np.ndarray) and data.ndim == 2 and base.ndim == 2 and base.flags.c_contiguous
             and data.strides == base.strides and base.dtype == data.dtype)
    if not whole or base is None:
        return np.ascontiguousarray(data[rows])
    if not data.size or rows.dtype != np.uint32:
        return np.ascontiguousarray(data[rows])
    start = data.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    out = np.empty((len(rows), data.shape[1]), data.dtype)
    raw = base.reshape(-1).view(np.uint8)[start : start + (len(data) - 1) * data.strides[0] + data.shape[1] * data.itemsize]
    gather(raw, data.strides[0], data.shape[1] * data.itemsize, rows, out.reshape(-1).view(np.uint8))
    return out


def packed(data: Array) -> Array:
    """The rows `(n, ...)` side by side: a copy where they are some columns of wider ones."""
    if data.flags.c_contiguous or data.ndim != 2 or data.strides[1] != data.itemsize or not data.size:
        return np.ascontiguousarray(data)
    out = np.empty(data.shape, data.dtype)
    lay(out.view(np.uint8), data.view(np.uint8))
    return out


def put(room: Array, data: Array) -> None:
    """`data` over `room`, of the same shape and dtype; a row at a time where either is some columns of wider ones."""
    plain = room.ndim != 2 or not data.size or any(a.strides[1] != a.itemsize for a in (room, data))
    if plain or (room.flags.c_contiguous and data.flags.c_contiguous):
        room[...] = data
    else:
        lay(room.view(np.uint8), data.view(np.uint8))


def differing(old: Array, new: Array) -> Array:
    """Rows whose bytes differ, uint32 ascending."""
    if not new.size:
        return np.zeros(0, np.uint32)
    if new.ndim > 1:
        width = new.nbytes // max(1, len(new))
        a, b = (np.ascontiguousarray(x).reshape(len(x), -1).view(np.uint8).reshape(len(x), width) for x in (old, new))
        wide = width % 4 == 0
        return np.flatnonzero((a.view(np.uint32) != b.view(np.uint32)).any(1) if wide else (a != b).any(1)).astype(np.uint32)
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}.get(new.dtype.itemsize)
    same = np.ascontiguousarray(new)
    return np.flatnonzero(old.view(kind) != same.view(kind) if kind else old != same).astype(np.uint32)
