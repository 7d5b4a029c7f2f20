"""Lays a two-dimensional array out anew: N ranks to M, rows to columns or back, any boxes to any boxes. Collective.

Every rank names the box of the whole it has and the box it wants. In each round a rank sends a slice of its own rows to
whoever wants them; slices are cut so that what is packed, on the way and unpacked stays below `scratch_bytes`. All
places are 64-bit: the array may have more than 2^31 elements.
"""
from __future__ import annotations

import numpy as np

from engine.errors import ShardError
from engine.types import Array, Link

SCRATCH_BYTES = 48 << 20
COPIES = 4  # of a byte at once: packed, joined, received, and the library's own


def by_rows(rows: int, columns: int, ranks: int, size: int) -> Array:
    """int64 `(size, 4)`: boxes row0, row1, column0, column1 of equal runs of rows over the first `ranks` of `size` ranks."""
    cut = np.arange(size + 1).clip(max=ranks) * rows // max(1, ranks)
    return np.stack([cut[:-1], cut[1:], np.zeros(size, np.int64), np.full(size, columns)], 1).astype(np.int64)


def by_columns(rows: int, columns: int, ranks: int, size: int) -> Array:
    """The same of equal runs of columns."""
    return by_rows(columns, rows, ranks, size)[:, [2, 3, 0, 1]]


def resplit(link: Link, data: Array, have: Array, want: Array, *, out: Array | None = None,
            scratch_bytes: int = SCRATCH_BYTES) -> Array:
    """This rank's box of `want`, from every rank's box of `have` (both int64 `(size, 4)`, the same on every rank).

    `data`: C-contiguous, the shape of this rank's box. The boxes of `have` must not overlap where they are wanted.
    """
    have, want = np.asarray(have, np.int64), np.asarray(want, np.int64)
    mine, goal = have[link.rank], want[link.rank]
    shape = (int(mine[1] - mine[0]), int(mine[3] - mine[2]))
    if data.shape != shape:
        raise ShardError(f"resplit: expected this rank's box {mine.tolist()} of shape {shape}, found {data.shape}",
                         where=f"rank {link.rank}")
    covered(have, want)
    size = (int(goal[1] - goal[0]), int(goal[3] - goal[2]))
    out = np.empty(size, data.dtype) if out is None else out
    step = slice_rows(have, data.dtype.itemsize, scratch_bytes)
    for at in range(0, max(1, int((have[:, 1] - have[:, 0]).max())), step):
        parts = []
        for target in range(link.size):
            box = crossed(sliced(mine, at, step), want[target])
            part = data[box[0] - mine[0] : box[1] - mine[0], box[2] - mine[2] : box[3] - mine[2]]
            parts.append(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
        for source, found in enumerate(link.alltoall(parts, name="resplit")):
            box = crossed(sliced(have[source], at, step), goal)
            if box[0] < box[1] and box[2] < box[3]:
                place = out[box[0] - goal[0] : box[1] - goal[0], box[2] - goal[2] : box[3] - goal[2]]
                place[:] = found.view(data.dtype).reshape(place.shape)
    return out


def slice_rows(have: Array, item_bytes: int, scratch_bytes: int) -> int:
    """Rows of its own box that each rank sends in a round: what one rank can receive at most is below the scratch."""
    row = int((have[:, 3] - have[:, 2]).sum()) * item_bytes  # a row of every rank, all to one target
    return max(1, scratch_bytes // COPIES // max(1, row))


def sliced(box: Array, at: int, step: int) -> Array:
    start = min(int(box[0]) + at, int(box[1]))
    return np.array([start, min(start + step, int(box[1])), box[2], box[3]], np.int64)


def crossed(a: Array, b: Array) -> Array:
    """The box that two have in common, of no rows or no columns where there is none."""
    low, high = np.maximum(a[[0, 2]], b[[0, 2]]), np.minimum(a[[1, 3]], b[[1, 3]])
    high = np.maximum(low, high)
    return np.array([low[0], high[0], low[1], high[1]], np.int64)


def covered(have: Array, want: Array) -> None:
    """ShardError where a wanted box is not had by anybody, or by two: before any data moves."""
    for rank, box in enumerate(want):
        area = (int(box[1]) - int(box[0])) * (int(box[3]) - int(box[2]))
        found = sum((int(c[1]) - int(c[0])) * (int(c[3]) - int(c[2])) for c in (crossed(box, other) for other in have))
        if area != found:
            raise ShardError(f"resplit: the box {box.tolist()} that rank {rank} wants has {area} elements, "
                             f"of which {found} are held",
                             fix="the boxes that are had must cover what is wanted, once")
