"""Sparse allreduce with O(k) volume a rank: to balanced owners, summed there in rank order, the largest sums to all.

After Ok-Topk (Li and Hoefler, PPoPP 2022): 2 k (P - 1) / P words to the owners and at most 4 k (P - 1) / P back, where
k is a rank's number of entries. What the owners leave out goes to their residual, so nothing is lost.
"""
from __future__ import annotations

from itertools import pairwise

import numpy as np

from engine.codec.sparse import topk_encode
from engine.comm.dense import allreduce
from engine.types import Array, Link

SAMPLES, MOST_SAMPLES = 32, 1024
KEEP = 1.9  # times k: entries that come back, a little under 2 to leave room for uneven owners
NONE = 0xFFFFFFFF
Entries = tuple[Array, Array]


class Sparse:
    """Allreduce of float32 `(n,)` by the `density * n` largest |g + residual| of each rank; call it on all ranks.

    Returns the sum's entries, the same on every rank: index uint32 ascending, value float32. A density from 1/3 on is
    summed densely, because 6 k words would be more than the 2 n of a dense sum.
    """

    def __init__(self, link: Link, n: int, density: float, *, name: str = "sparse") -> None:
        if not 0 < density <= 1:
            raise ValueError(f"sparse: density {density}, expected more than 0 and at most 1")
        self.link, self.n, self.name = link, n, name
        self.k = max(1, round(density * n)) if n else 0
        self.residual = np.zeros(n, np.float32)
        self._edge = -1.0

    def __call__(self, g: Array) -> Entries:
        if 3 * self.k >= self.n and self.n:
            whole = allreduce(self.link, g + self.residual, name=self.name, checked=True)
            self.residual[:] = 0
            return np.arange(self.n, dtype=np.uint32), whole
        index, value, edge, _ = topk_encode(g, self.residual, self.k, self._edge)
        self._edge = 0.95 * edge if edge > 0 else -1.0
        most = int(KEEP * self.k) if self.link.size > 2 else None  # two ranks have 2 k entries at the most
        index, value, (left, rest) = total(self.link, index, value, self.n, most=most, name=self.name)
        np.add.at(self.residual, left, rest)
        return index, value


def total(link: Link, index: Array, value: Array, n: int, *, most: int | None = None,
          name: str = "sparse") -> tuple[Array, Array, Entries]:
    """Sum over ranks of entries (index uint32 ascending below n, value float32), any number on each rank.

    Returns index, value, equal on every rank, and the sums this owner left out. `most`: about how many entries may come
    back (None = all: the exact sum; an owner whose range is more than half full then sends it dense).
    """
    cuts = np.searchsorted(index, bounds(link, index, name))
    edges = [0, *cuts.tolist(), len(index)]
    parts = [np.concatenate([index[a:b], value[a:b].view(np.uint32)]) for a, b in pairwise(edges)]
    found = [(p[: len(p) // 2], p[len(p) // 2 :].view(np.float32)) for p in link.alltoall(parts, name=f"{name}: to owners")]
    index, value = merge(found)
    left = (index[:0], value[:0])
    if most is not None:
        index, value, left = largest(link, index, value, most, name)
    whole = [_open(p) for p in link.allgather(_close(index, value), name=f"{name}: sums")]
    return np.concatenate([i for i, _ in whole]), np.concatenate([v for _, v in whole]), left


def bounds(link: Link, index: Array, name: str) -> Array:
    """Ranges of equal numbers of entries: quantiles of samples of every rank's entries; uint32 `(size - 1,)`."""
    count = min(MOST_SAMPLES, SAMPLES * link.size)
    at = (2 * np.arange(count) + 1) * len(index) // (2 * count)
    sample = index[at] if len(index) else np.full(count, NONE, np.uint32)
    table = link.vote(np.append(sample, np.uint32(len(index))), name=f"{name}: samples")
    weight = np.repeat(table[:, -1].astype(np.float64), count)
    flat = table[:, :-1].ravel()
    order = np.argsort(flat, kind="stable")
    share = np.cumsum(weight[order])
    if not share[-1]:
        return np.zeros(link.size - 1, np.uint32)
    goal = share[-1] * np.arange(1, link.size) / link.size
    return flat[order][np.searchsorted(share, goal)]


def merge(parts: list[Entries]) -> Entries:
    """Entries of all parts by index, equal ones summed in the order of the parts."""
    index = np.concatenate([i for i, _ in parts])
    if not len(index):
        return index, np.empty(0, np.float32)
    order = np.argsort(index, kind="stable")
    index, value = index[order], np.concatenate([v for _, v in parts])[order]
    starts = np.flatnonzero(np.concatenate([[True], index[1:] != index[:-1]]))
    return index[starts], np.add.reduceat(value, starts)


def largest(link: Link, index: Array, value: Array, most: int, name: str) -> tuple[Array, Array, Entries]:
    """The entries of all owners that are among about the `most` largest, and those left out.

    One vote of counts; where they exceed `most`, one sum of histograms of magnitudes, 8 bins an octave, gives an edge that
    at most `most` entries reach (all of one bin go or stay).
    """
    counts = link.vote(np.array([len(index)], np.int64), name=f"{name}: counts")
    if counts.sum() <= most:
        return index, value, (index[:0], value[:0])
    bins = (np.abs(value).view(np.uint32) >> 20).astype(np.int64)
    histogram = link.allreduce(np.bincount(bins, minlength=2048).astype(np.int32), name=f"{name}: magnitudes")
    above = np.cumsum(histogram[::-1].astype(np.int64))[::-1]
    edge = int(np.argmax(above <= most)) if (above <= most).any() else 2047
    keep = bins >= edge
    return index[keep], value[keep], (index[~keep], value[~keep])


def _close(index: Array, value: Array) -> Array:
    """uint32: entries as [count, index, value bits], or a range more than half full as [2^32 - 1, first, float bits]."""
    span = int(index[-1]) - int(index[0]) + 1 if len(index) else 0
    if 2 * len(index) <= span or not span:
        return np.concatenate([np.array([len(index)], np.uint32), index, value.view(np.uint32)])
    dense = np.zeros(span, np.float32)
    dense[index - index[0]] = value
    return np.concatenate([np.array([NONE, index[0]], np.uint32), dense.view(np.uint32)])


def _open(data: Array) -> Entries:
    if data[0] != NONE:
        return data[1 : 1 + data[0]], data[1 + data[0] :].view(np.float32)
    value = data[2:].view(np.float32)
    at = np.flatnonzero(value)
    return (at + data[1]).astype(np.uint32), value[at]


__all__ = ["Sparse", "bounds", "largest", "merge", "total"]
