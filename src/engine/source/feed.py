"""Feeds: virtual partitions of a live source. Each has a name and a cursor (place, mark), and hands out what has arrived.

A feed belongs to one rank at a time, named by itself and never by rank, so cursors restart on any number of ranks. `poll`
never blocks for longer than it is told; `None` means nothing has come. The cursor after row i of a portion is
(`place`, `marks[i]`): a file and a byte offset, a topic's partition and an offset, a sender's row number.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from engine.errors import DataError
from engine.source.schema import Plan
from engine.source.text import BOM, EXAMPLES, FIXES, REASONS, parse
from engine.types import Array, Batch

At = tuple[str, int]
START: At = ("", 0)


@dataclass(slots=True)
class Portion:
    """Rows that arrived together. `marks` int64 `(n + 1,)`: the cursor's mark before each row, and after the last."""

    batch: Batch
    marks: Array
    place: str = ""


class Feed(Protocol):
    """One virtual partition. `committed(at)`: everything before the cursor is in a checkpoint and may be forgotten."""

    name: str
    ended: bool

    def poll(self) -> Portion | None: ...
    def seek(self, at: At) -> None: ...
    def committed(self, at: At) -> None: ...
    def close(self) -> None: ...


def counters() -> dict[str, Any]:
    """What a source counts: rows, rows left out, why, and the first examples."""
    return {"rows": 0, "bad": 0, "reasons": {}, "examples": []}


class Lines:
    """Text of a feed to portions, by the source's plan and its policy for bad rows."""

    def __init__(self, plan: Plan, policy: str, stats: dict[str, Any]) -> None:
        self.plan, self.policy, self.stats = plan, policy, stats
        self.row_bytes = 64.0  # of the rows that came last; a guess before any has

    def rows(self, data: bytes, where: str, base: int, place: str = "") -> Portion | None:
        """Whole lines `data`, the first at byte `base` of `where`; None where they hold no row."""
        batch, at, bad, tally = parse(self.plan, data)
        if tally.any():
            self._refuse(data, where, base, bad, tally)
        if not len(batch):
            return None
        self.stats["rows"] += len(batch)
        self.row_bytes = len(data) / len(batch)
        marks = np.empty(len(batch) + 1, np.int64)
        marks[:-1] = at
        marks[-1] = len(data)
        return Portion(batch, marks + base, place)

    def _refuse(self, data: bytes, where: str, base: int, bad: Array, tally: Array) -> None:
        for at, column, code in bad[:EXAMPLES].tolist():
            line = data[at : at + 200].split(b"\n")[0].decode("utf-8", "replace").rstrip("\r")
            names = self.plan.names
            error = DataError(
                f"{REASONS[code]}: expected a {self.plan.format} row, found {line!r}",
                where=f"{where}, byte {base + at}, column {names[column] if 0 <= column < len(names) else column}",
                fix=FIXES.get(code, "on_bad_rows=skip"))
            if self.policy == "error":
                raise error
            if len(self.stats["examples"]) < EXAMPLES:
                self.stats["examples"].append(str(error))
        self.stats["bad"] += int(tally.sum())
        for code in np.flatnonzero(tally):
            self.stats["reasons"][REASONS[code]] = self.stats["reasons"].get(REASONS[code], 0) + int(tally[code])

    def body(self, data: bytes, where: str) -> int:
        """Bytes of a byte order mark and a header at the start of `data`, which must be the plan's header."""
        start = len(BOM) if data.startswith(BOM) else 0
        if not self.plan.header:
            return start
        line, end, _ = data[start:].partition(b"\n")
        names = [n.strip().strip('"') for n in line.decode("utf-8", "replace").strip().split(self.plan.delimiter)]
        if names != list(self.plan.names):
            raise DataError(f"header: expected {list(self.plan.names)}, found {names}: the columns have changed", where=where,
                            fix="start a new run for the new columns, or header=false")
        return start + len(line) + len(end)


class Given:
    """Rows that a program hands over: an iterator of Batches, of (x, y) arrays, or of single (row, label) pairs.

    Its cursor counts rows; what was handed over cannot be asked for again, so after a restart the program either gives
    the stream from its start (rows before the cursor are passed over) or keeps a spool.
    """

    def __init__(self, rows: Any, name: str = "iterator", *, replayed: bool = True) -> None:
        self.name, self.ended, self._rows, self._replayed = name, False, iter(rows), replayed
        self._done = self._skip = 0

    def seek(self, at: At) -> None:
        self._skip, self._done = (at[1], 0) if self._replayed else (0, at[1])

    def poll(self) -> Portion | None:
        try:
            found = next(self._rows)
        except StopIteration:
            self.ended = True
            return None
        if found is None:
            return None
        batch = batched(found)
        before = self._done
        self._done += len(batch)
        if self._done <= self._skip:
            return None
        if before < self._skip:
            batch, before = batch.slice(self._skip - before, len(batch)), self._skip
        return Portion(batch, np.arange(before, before + len(batch) + 1))

    def committed(self, at: At) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        if hasattr(self._rows, "close"):
            self._rows.close()


def batched(rows: Any) -> Batch:
    """A Batch of a Batch, of `x` (n, d) and `y` (n,), or of one row `x` (d,) and its label."""
    if isinstance(rows, Batch):
        return replace(rows)
    x, y = rows
    x, y = np.atleast_2d(np.ascontiguousarray(x, np.float32)), np.atleast_1d(np.ascontiguousarray(y, np.float32))
    if x.ndim != 2 or len(x) != len(y):
        raise DataError(f"rows: expected x (n, d) and y (n,), found {x.shape} and {y.shape}", where="the iterator")
    return Batch(y, np.arange(len(y), dtype=np.int64), np.full(len(y), np.nan, np.float32), x=x)


Make = Callable[[], Feed]
