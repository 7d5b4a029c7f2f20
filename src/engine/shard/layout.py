"""How a data set is cut: rows (horizontal), feature columns (vertical), or a grid of both (hybrid); and ranges that learn.

Law: every row has one part, every column one group; the pieces of a batch put together again are the batch. Piece
(part, group) of a grid is `part * groups + group`; the ledger, not the layout, says which rank owns a piece.
"""
from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from engine.errors import ConfigError, DataError, ShardError
from engine.shard.rule import mixed
from engine.types import Array, Batch

CUTS = ("rows", "columns", "grid")


class Bounds:
    """Ranges of an ordered key, cut at learned bounds; each range has an id that lasts through splits and merges of others.

    `bounds` ascending; range i holds bounds[i - 1] <= key < bounds[i]. NaN sorts last.
    """

    def __init__(self, bounds: Array, ids: Array | None = None) -> None:
        self.bounds = np.asarray(bounds)
        self.ids = np.arange(len(self.bounds) + 1, dtype=np.int32) if ids is None else np.asarray(ids, np.int32)
        self._next = int(self.ids.max()) + 1
        if len(self.ids) != len(self.bounds) + 1 or (self.bounds[1:] <= self.bounds[:-1]).any():
            raise ConfigError(f"bounds: expected strictly ascending bounds and one id more, found {len(self.bounds)} bounds, "
                              f"{len(self.ids)} ids")

    @classmethod
    def learn(cls, sample: Array, parts: int, weight: Array | None = None) -> Bounds:
        """Bounds that cut the sample's load (rows, or `weight`) in `parts` as even as its distinct keys allow."""
        if not len(sample):
            return cls(np.empty(0, sample.dtype))
        keys, at = np.unique(sample, return_inverse=True)
        load = np.bincount(at, weight).astype(np.float64)
        before = np.cumsum(load) - load
        wanted = np.arange(1, parts) * (load.sum() / parts)
        cut = np.clip(np.searchsorted(before + load / 2, wanted), 1, max(1, len(keys) - 1))
        return cls(np.unique(keys[np.minimum(cut, len(keys) - 1)]) if len(keys) > 1 else keys[:0])

    def find(self, keys: Array) -> Array:
        """int32 id of the range of each key."""
        return self.ids[np.searchsorted(self.bounds, keys, "right")]

    def split(self, part: int, at: float | int) -> int:
        """Cuts a range at `at`, which its upper half begins with; the upper half gets the new id that is returned."""
        i = self._place(part)
        low = self.bounds[i - 1] if i else None
        high = self.bounds[i] if i < len(self.bounds) else None
        if (low is not None and at <= low) or (high is not None and at >= high):
            raise ShardError(f"split: expected a bound inside range {part} [{low}, {high}), found {at}")
        self.bounds = np.insert(self.bounds, i, at)
        self.ids = np.insert(self.ids, i + 1, self._next)
        self._next += 1
        return self._next - 1

    def merge(self, part: int) -> int:
        """Joins a range with the one after it, whose id goes; returns that id."""
        i = self._place(part)
        if i + 1 == len(self.ids):
            raise ShardError(f"merge: range {part} is the last")
        gone = int(self.ids[i + 1])
        self.bounds, self.ids = np.delete(self.bounds, i), np.delete(self.ids, i + 1)
        return gone

    def adapt(self, sample: Array, low: float = 0.5, high: float = 2.0) -> list[tuple[str, int]]:
        """Splits ranges with more than `high` times the mean load of the sample at their median and merges neighbours
        that together have less than `low`; returns what was done."""
        done: list[tuple[str, int]] = []
        for part in self.ids.tolist():
            mine = np.sort(sample[self.find(sample) == part])
            if len(mine) * len(self.ids) > high * len(sample) and mine[0] < mine[len(mine) // 2]:
                self.split(part, mine[len(mine) // 2])
                done.append(("split", part))
        i = 0
        while i + 1 < len(self.ids):
            load = np.isin(self.find(sample), self.ids[i : i + 2]).sum()
            if load * len(self.ids) < low * len(sample):
                done.append(("merge", int(self.ids[i])))
                self.merge(int(self.ids[i]))
            else:
                i += 1
        return done

    def _place(self, part: int) -> int:
        found = np.flatnonzero(self.ids == part)
        if not len(found):
            raise ShardError(f"no range {part}; there are {len(self.ids)}")
        return int(found[0])


class Columns:
    """Feature columns in `groups`: by hash, in contiguous ranges of equal width (or of equal `weight` a column), or cyclic,
    column c in group c mod `groups`, which needs no table however wide the rows are.

    >>> Columns(6, 2, by="range").group.tolist()
    [0, 0, 0, 1, 1, 1]
    """

    def __init__(self, width: int, groups: int, *, by: str = "range", weight: Array | None = None, seed: int = 0) -> None:
        if not 1 <= groups <= width:
            raise ConfigError(f"columns: expected 1 to {width} groups, found {groups}", fix="fewer ranks, or a rule by rows")
        self.width, self.groups, self.cyclic = width, groups, by == "cyclic"
        if self.cyclic:
            return
        column = np.arange(width, dtype=np.uint64)
        if by == "hash":
            self.group = (mixed(column + np.uint64(seed)) % np.uint64(groups)).astype(np.int32)
        elif by == "range":
            load = np.ones(width) if weight is None else np.asarray(weight, np.float64) + 1e-12
            place = np.cumsum(load) - load / 2
            self.group = np.minimum((place * groups / load.sum()).astype(np.int32), groups - 1)
        else:
            raise ConfigError(f"columns: expected hash, range or cyclic, found {by!r}")
        self.local = np.zeros(width, np.uint32)  # a column's number inside its group
        for g in range(groups):
            self.local[self.group == g] = np.arange(np.count_nonzero(self.group == g))

    def of(self, group: int) -> Array:
        """int64: the columns of a group, ascending."""
        return np.arange(group, self.width, self.groups) if self.cyclic else np.flatnonzero(self.group == group)

    def check(self, batch: Batch) -> None:
        """DataError where the rows do not have these columns."""
        if batch.x is not None:
            if batch.x.ndim != 2 or batch.x.dtype.hasobject or batch.x.shape[1] != self.width:
                raise DataError(f"a rule by columns: expected rows of {self.width} columns, found "
                                f"{'ragged rows' if batch.x.dtype.hasobject or batch.x.ndim != 2 else batch.x.shape[1]}",
                                fix="pad the rows to one width, or cut by rows")
        elif batch.keys is not None and len(batch.keys) and int(batch.keys.max()) >= self.width:
            raise DataError(f"a rule by columns: expected keys below {self.width}, found {int(batch.keys.max())}",
                            fix="hash the keys into the width: data.hash_bits")

    def take(self, batch: Batch, group: int) -> Batch:
        """The rows with the columns of one group alone, renumbered inside it; labels and order stay."""
        self.check(batch)
        if batch.x is not None:
            x = np.ascontiguousarray(batch.x[:, self.of(group)])
            return Batch(batch.y, batch.order, batch.previous, x=x, weight=batch.weight)
        assert batch.indptr is not None and batch.keys is not None
        mine = (batch.keys % np.uint32(self.groups) if self.cyclic else self.group[batch.keys]) == group
        keys = batch.keys[mine]
        indptr = np.concatenate([[0], np.cumsum(mine)])[batch.indptr].astype(np.int64)
        return Batch(batch.y, batch.order, batch.previous, indptr=indptr,
                     keys=keys // np.uint32(self.groups) if self.cyclic else self.local[keys],
                     values=None if batch.values is None else batch.values[mine], weight=batch.weight)


def whole(pieces: Sequence[Batch], columns: Columns) -> Batch:
    """Inverse of `take` over all groups, for dense rows."""
    x = np.empty((len(pieces[0]), columns.width), np.float32)
    for group, piece in enumerate(pieces):
        x[:, columns.of(group)] = piece.x
    return Batch(pieces[0].y, pieces[0].order, pieces[0].previous, x=x, weight=pieces[0].weight)


def estimate(load: Array, ranks: int, *, overhead_s: float, seconds_a_load: float) -> tuple[float, float]:
    """(imbalance, share of time lost to overhead) of pieces with `load` each, dealt heaviest first over the ranks.

    `overhead_s`: cost of a piece a pass (routing entry, request, seek); `seconds_a_load`: cost of a unit of load.
    """
    total = [0.0] * ranks
    for one in np.sort(load)[::-1].tolist():
        heapq.heapreplace(total, total[0] + one)
    mean = sum(total) / ranks
    return max(total) / mean if mean else 1.0, float(len(load) * overhead_s / max(1e-12, load.sum() * seconds_a_load))
