"""Rows a strategy may ask for again: in memory, or on disk, where they survive the process and need no room in it.

On disk every step of a rank is one record of a spool (engine.store.spool) that names the row of the job the step began at.
A run that goes on drops the records behind its checkpoint, since it learns those rows again; with another number of ranks
each takes the folders dealt to it.  A record goes when none of the checkpoints that are kept would need it.
"""
from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.store.spool import Spool, pack, unpack
from engine.types import Batch, Block, State, join

OWN = "tactic/own/"


class Memory:
    """This rank's rows of each step since the oldest that is needed: (row of the job the step began at, rows)."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, Batch]] = deque()
        self.lost = False

    def settle(self, start: int) -> None:
        """A step begins at row `start` of the job."""

    def add(self, start: int, rows: Batch) -> None:
        """What this rank learns in the step."""
        self._steps.append((start, rows))

    def since(self, first: int = 0) -> Iterator[tuple[int, Batch]]:
        """Steps that may have rows from `first` on."""
        yield from self._steps

    def trim(self, first: int) -> None:
        """Rows before `first` of the job will not be asked for."""
        while self._steps and self._steps[0][0] < first and self._steps[0][1].order[-1] < first:
            self._steps.popleft()

    def state(self) -> State:
        """What a checkpoint keeps of it: nothing."""
        return {}

    def load(self, state: Mapping[str, Block]) -> None:
        """The run goes on from a checkpoint: rows before it are gone."""
        self.lost = True


class Disk:
    """As `Memory`, in folders `held-RANK` under `folder`; `keep`: checkpoints that may be gone back to."""

    def __init__(self, folder: str | Path, rank: int, size: int, keep: int) -> None:
        self._folder, self._rank, self._size, self._keep = Path(folder), rank, size, keep
        self._spools = {rank: Spool(self._path(rank), limit_bytes=1 << 62, keep=False)}
        self._steps: dict[int, deque[tuple[int, int, int]]] = {}  # of a folder: start, row of the spool, rows
        self._marks: deque[dict[int, int]] = deque()
        self._expected: dict[int, tuple[int, int]] | None = None
        self._settled = self.lost = self._resumed = False

    def _path(self, rank: int) -> Path:
        return self._folder / f"held-{rank:06d}"

    def load(self, state: Mapping[str, Block]) -> None:
        """The run goes on: this rank's folders, and what they have to hold (unknown where the state does not say)."""
        self._resumed = True
        found = {int(path.split("/")[2]): block.data for path, block in state.items()
                 if path.startswith(OWN) and path.endswith("/held")}
        self._expected = {rank: (int(at[0]), int(at[1])) for rank, at in found.items() if rank % self._size == self._rank}
        for rank in self._expected:
            if rank != self._rank:
                self._spools[rank] = Spool(self._path(rank), limit_bytes=1 << 62, keep=False)

    def settle(self, start: int) -> None:
        """A step begins at row `start`. Once: what is held of the rows before; what lies behind is of a run that ended."""
        if self._settled:
            return
        self._settled = True
        for rank, spool in self._spools.items():
            found = list(spool.records())
            kept = next((i for i, (_, _, given) in enumerate(found) if given >= start or not self._resumed), len(found))
            if kept < len(found):
                spool.cut(found[kept][0])
            steps = deque((given, row, count) for row, count, given in found[:kept])
            first, rows = (self._expected or {}).get(rank, (0, 0))
            self.lost |= sum(count for given, _, count in steps if given >= first) < rows
            self._steps[rank] = steps

    def add(self, start: int, rows: Batch) -> None:
        self.settle(start)
        spool = self._spools[self._rank]
        self._steps[self._rank].append((start, spool.next, len(rows)))
        spool.append(rows, count=start)

    def since(self, first: int = 0) -> Iterator[tuple[int, Batch]]:
        """Steps that may have rows from `first` on, in the order of the job, read as they are asked for."""
        for start, _, rows in heapq.merge(*(self._read(rank, first) for rank in sorted(self._steps)), key=lambda at: at[:2]):
            yield start, rows

    def _read(self, rank: int, first: int) -> Iterator[tuple[int, int, Batch]]:
        wanted = [step for step in self._steps[rank] if step[0] + step[2] * self._size > first]
        if wanted:
            for (start, _, count), (_, rows) in zip(wanted, self._spools[rank].read(wanted[0][1]), strict=False):
                yield start, rank, replace(rows, order=start + np.arange(count))

    def trim(self, first: int) -> None:
        for steps in self._steps.values():
            while len(steps) > 1 and steps[1][0] <= first:
                steps.popleft()

    def state(self) -> State:
        """Of each folder the first row of the job that is kept and how many rows; what is written is durable from here on."""
        found, mark = {}, {}
        for rank, spool in self._spools.items():
            spool.sync()
            steps = self._steps.get(rank) or ()
            mark[rank] = steps[0][1] if steps else 0
            kept = np.array([steps[0][0] if steps else 0, sum(n for _, _, n in steps)], np.int64)
            found[f"{OWN}{rank:06d}/held"] = Block(kept)
        self._marks.append(mark)
        if len(self._marks) > self._keep:
            self._marks.popleft()
            for rank, row in self._marks[0].items():
                self._spools[rank].trim(row)
        return found


def packed(rank: int, waiting: list[Batch]) -> State:
    """Rows that wait for their labels, for a checkpoint."""
    if not waiting:
        return {}
    rows = join(waiting)
    body = np.frombuffer(pack(rows, plain=True), np.uint8)
    return {f"{OWN}{rank:06d}/waiting": Block(body), f"{OWN}{rank:06d}/order": Block(rows.order.astype(np.int64))}


def unpacked(state: Mapping[str, Block], rank: int, size: int) -> list[Batch]:
    """This rank's share of them, saved by any number of ranks."""
    found = []
    for path, block in sorted(state.items()):
        if path.startswith(OWN) and path.endswith("/waiting") and int(path.split("/")[2]) % size == rank:
            rows = unpack(memoryview(block.data.tobytes()))
            found.append(replace(rows, order=state[path.removesuffix("waiting") + "order"].data.copy()))
    if not found:
        return []
    whole = join(found)
    return [whole.take(np.argsort(whole.order, kind="stable"))]
