"""Checkpoints beside the running job: a snapshot between two steps, written by a thread, closed by a later step's vote.

The stall is the copy of this rank's share (of its changed rows, where the checkpoint is an incremental one); writing, syncing,
closing, mirroring and the scrub of the one before happen while the job goes on.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from engine import job as jobs
from engine import loop, resume
from engine.cluster.recover import interval_s
from engine.config import Config
from engine.errors import EngineError
from engine.store import checkpoint as store
from engine.store import heal
from engine.store.checkpoint import PartInfo, split
from engine.store.record import Change, Record
from engine.types import Array, Block, Link, Schema, State

LEAST_S, MOST_S = 10.0, 3600.0


class Flush:
    """One writer a rank. `notes`: what the scrub has found and put right."""

    def __init__(self, config: Config, link: Link, schema: Schema) -> None:
        self.config, self.link, self.schema = config, link, schema
        self.notes: list[str] = []
        self._dirty: dict[str, Array | None] = {}  # rows changed since the last checkpoint; None = the whole block
        self._last = -1
        self._since = 0
        self._under = -1  # step of the checkpoint under way
        self._meta: dict[str, Any] = {}
        self._part: PartInfo | EngineError | None = None
        self._threads: list[threading.Thread] = []
        self._closed: EngineError | None = None
        self._began_s = self.stall_s = self.write_s = 0.0
        self.mirror_every, self.small, self.scrub = 1, True, True  # what may be shed, see degrade.py
        self._mirrors = 0

    def mark(self, record: Record) -> None:
        """Rows of this step are no longer what the last checkpoint holds."""
        if self._last < 0:
            return
        for change in record.changes:
            mask = self._dirty.get(change.path)
            if change.rows is None or (mask is not None and len(mask) != change.total):
                self._dirty[change.path] = None
                continue
            if change.path not in self._dirty:
                self._dirty[change.path] = mask = np.zeros(change.total, bool)
            if mask is not None:
                mask[change.rows] = True

    def begin(self, job: loop.Job, shard: State, rows: dict[str, int], meta: dict[str, Any]) -> bool:
        """Takes the snapshot and starts writing; False where the last one is still under way (collective in its effect:
        every rank answers alike, because each has heard the same votes).
        """
        if self._under >= 0:
            return False
        began = time.perf_counter()
        step, base = job.clock.rows, self._last
        self._meta, self._under, self._part = meta, step, None
        rank, size = self.link.rank, self.link.size
        folder = self.config.checkpoint.dir
        work: Callable[[], PartInfo]
        if base >= 0 and self._since < self.config.checkpoint.chain:
            self._since += 1
            record = Record(step, base, tuple(self._changes(shard)), {}, 0, 0, rank, size)
            ranges = {path: (split(rows[path], rank, size)[0] if path in rows else 0, rows.get(path, len(block.data)))
                      for path, block in shard.items()}
            layout = {path: _layout(block) for path, block in resume.views(job).items()}
            work = partial(store.save_delta, folder, record, ranges, layout, small=self.small)
        else:
            self._since, base = 0, -1
            state, parts = _share(resume.views(job), rank, size)
            work = partial(store.save_part, folder, step, rank, size, state, parts)
        self._base = base
        self._dirty = {}
        self._last = step
        self.stall_s = time.perf_counter() - began
        self._began_s = time.monotonic()
        self._start(lambda: self._write(work))
        return True

    _base = -1

    def _changes(self, shard: State) -> list[Change]:
        found = []
        for path, block in shard.items():
            if path not in self._dirty:
                continue
            mask = self._dirty[path]
            if mask is None or len(mask) != len(block.data):
                found.append(Change(path, None, np.array(block.data), len(block.data), block.columns))
            else:
                at = np.flatnonzero(mask).astype(np.uint32)
                found.append(Change(path, at, np.ascontiguousarray(block.data[at]), len(block.data), block.columns))
        return found

    def _write(self, work: Callable[[], PartInfo]) -> None:
        try:
            self._part = work()
        except EngineError as error:
            self._part = error
        self.write_s = time.monotonic() - self._began_s

    def pledge(self) -> float:
        """0 while nothing is to be said; 1 where this rank's part is written; 2 where it could not be."""
        if self._under < 0 or self._part is None:
            return 0.0
        return 2.0 if isinstance(self._part, EngineError) else 1.0

    def heard(self, column: Array, job: loop.Job) -> None:
        """Closes the checkpoint where every rank has written; an error of any is raised on all (collective)."""
        if self._under < 0 or not column.all():
            return
        part = self._part
        error = part if isinstance(part, EngineError) else self._closed
        table = jobs.sync.vote(self.link, [self.write_s + self.stall_s], error, name="parts written")
        parts = self.link.gather(part, name="checkpoint parts")
        step, meta, base = self._under, self._meta, self._base
        self._under = -1
        if parts is not None:
            self._start(lambda: self._close(step, parts, meta, base))
        if self.config.checkpoint.every is None:
            due = float(np.clip(interval_s(float(table[:, 0].max()), self.config.fault.mtbf), LEAST_S, MOST_S))
            job.rules = replace(job.rules, save_s=due)

    def _close(self, step: int, parts: list[PartInfo], meta: dict[str, Any], base: int) -> None:
        checkpoint = self.config.checkpoint
        try:
            store.commit(checkpoint.dir, step, parts, meta, keep=checkpoint.keep, base=None if base < 0 else base)
            self._mirrors = (self._mirrors + 1) % self.mirror_every
            if checkpoint.mirror and not self._mirrors:
                heal.mirror_step(checkpoint.dir, step, checkpoint.mirror)
                self.notes += heal.heal(checkpoint.dir, checkpoint.mirror)
            older = [number for number in store.steps(checkpoint.dir) if number < step]
            if older and self.scrub:  # the scrub: one older checkpoint is read back each time
                found = store.problem_of(store.step_dir(checkpoint.dir, older[-1]), deep=True)
                self.notes += [f"scrub: {store.step_dir(checkpoint.dir, older[-1])}: {found}"] if found else []
        except EngineError as error:
            self._closed = error

    def wait(self) -> None:
        """Until nothing is under way here; an error of the closing is raised."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self._closed is not None:
            raise self._closed

    def _start(self, work: Any) -> None:
        for thread in [t for t in self._threads if not t.is_alive()]:
            self._threads.remove(thread)
        last = self._threads[-1] if self._threads else None

        def run() -> None:
            if last is not None:
                last.join()
            work()

        self._threads.append(threading.Thread(target=run, name="checkpoint"))
        self._threads[-1].start()


def _layout(block: Block) -> dict[str, Any]:
    data = block.data if block.data.ndim else block.data[None]
    return {"dtype": data.dtype.name, "shape": list(data.shape), "columns": [list(c) for c in block.columns],
            "version": block.version}


def _share(whole: State, rank: int, size: int) -> tuple[State, dict[str, tuple[int, int, int]]]:
    """A copy of this rank's rows of every block, and which rows those are."""
    state: State = {}
    ranges: dict[str, tuple[int, int, int]] = {}
    for path, block in whole.items():
        data = block.data if block.data.ndim else block.data[None]
        low, high = (0, len(data)) if path.startswith("meter/") else split(len(data), rank, size)
        state[path] = Block(np.array(data[low:high]), block.columns, block.version)
        ranges[path] = (low, high, len(data))
    return state, ranges
