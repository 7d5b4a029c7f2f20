"""A crew: workers of one node over one model, each the owner of a share of the keys (`exchange.split = "keys"`).

Every worker sees all rows but only its keys; the scores of a lot of `exchange.every` rows are summed over the workers
in shared memory (csrc/learn/split.h). Nothing is merged and there is no replica, so a wide sparse model scales with
the cores of a node; it is stale by one lot. The result is that of one worker, whatever their number, but for rounding.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from engine.comm.slab import slab
from engine.errors import ConfigError, PeerError
from engine.kernels import _native
from engine.models.linear import Linear, zeros
from engine.types import Array, Batch, Block, Link, State, Update

PIECE = 1 << 22  # numbers exchanged, or rows looked at, at once


class Crew:
    """The workers of this rank, `threads` of `link.size * threads`; what `loop.Team` is to replicas."""

    def __init__(self, link: Link, make: Callable[..., Any], threads: int, *, lot: int, limit_s: float,
                 apart: bool = False) -> None:
        """`make(memory)` builds the model, its block from `memory(rows)` (collective).

        `apart`: each rank keeps its own keys' rows in memory of its own, which may lie in huge pages (shared memory seldom
        may, and a table of millions of keys is a third slower without); only `state` and `load` then know the whole.
        """
        self._link, self._threads, self._size = link, threads, link.size * threads
        self._apart = apart and link.size > 1
        self._block: Array | None = None
        self.models = [make(self._room) for _ in range(threads)]
        desk = slab(link, _native.desk_bytes(self._size, lot, self.models[0].options["classes"]), name="exchange.split")
        for thread, model in enumerate(self.models):
            model.sit(desk, link.rank * threads + thread, self._size, lot, limit_s)
        self._pool = ThreadPoolExecutor(threads - 1, "learn") if threads > 1 else None

    def _room(self, rows: int) -> Array:
        if self._block is None:
            shared = self._link.size > 1 and not self._apart
            self._block = (slab(self._link, rows * 16, name="exchange.split").view(np.float32).reshape(rows, 4) if shared
                           else zeros(rows))
        return self._block

    def learn(self, batch: Batch, k: int) -> tuple[Batch, Array]:
        """Every worker learns its keys of all rows; this rank's share of the rows, to be counted, and their scores."""
        later = [self._pool.submit(self._one, model, batch) for model in self.models[1:]] if self._pool else []
        scores = self._one(self.models[0], batch)
        for job in later:
            job.result()
        low, high = (len(batch) * (self._link.rank + side) // self._link.size for side in (0, 1))
        return batch.slice(low, high), scores[low:high]

    def state(self) -> State:
        """The whole model's state, the same on every rank (collective)."""
        state = self.models[0].state()
        if self._apart:  # rows of others are zeros here, so bits add up
            flat = state["model/linear"].data.reshape(-1).view(np.uint32)
            for low in range(0, len(flat), PIECE):
                part = flat[low : low + PIECE]
                part[:] = self._link.allreduce(part, name="rows of all members")
        return state

    def load(self, state: Mapping[str, Block]) -> None:
        """Takes what `state` gave; where ranks keep apart, each keeps the rows of its own keys alone."""
        for model in self.models:
            model.load(state)
        if not self._apart or self._block is None:
            return
        rows = self._block.reshape(-1, self.models[0].options["classes"], 4)
        first = self._link.rank * self._threads
        for low in range(0, len(rows), PIECE):
            part = rows[low : low + PIECE]
            owner = member_of(np.arange(low, low + len(part), dtype=np.uint32), self._size)
            part[(owner < first) | (owner >= first + self._threads)] = 0

    def _one(self, model: Linear, batch: Batch) -> Array:
        try:
            found = model.learn_split(batch, whole=self._threads > 1 or self._link.size == 1)
        except BaseException:
            model.leave()
            raise
        if isinstance(found, int):
            model.leave()
            raise PeerError(f"a lot of rows was not scored by worker {found}: rank {found // self._threads}, thread "
                            f"{found % self._threads}", where=f"rank {self._link.rank}",
                            fix="resume from the last checkpoint; raise loop.stall_timeout if this wait is expected")
        return found

    def update(self) -> Update | None:
        """Nothing: there is one model."""
        return None

    def merge(self, total: Update, workers: int) -> None:
        """Never called: where there is no update nothing is merged."""
        raise AssertionError("a crew has one model")

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown()


def member_of(keys: Array, members: int) -> Array:
    """The owner of each key uint32 `(n,)`, as csrc/learn/split.h has it."""
    mixed = (keys >> np.uint32(2)) * np.uint32(0x9E3779B1)
    return ((mixed ^ mixed >> np.uint32(15)).astype(np.uint64) * np.uint64(members)) >> np.uint64(32)


def keys_of(batch: Batch, first: int, last: int, members: int) -> Batch:
    """The same rows with the keys that members [first, last) of a crew own."""
    assert batch.indptr is not None and batch.keys is not None
    indptr, keys = np.empty_like(batch.indptr), np.empty(len(batch.keys) + 16, np.uint32)
    values = None if batch.values is None else np.empty(len(batch.keys) + 16, np.float32)
    count = _native.rows_select(batch.indptr, batch.keys, batch.values, first, last, members, indptr, keys, values)
    return Batch(batch.y, batch.order, batch.previous, weight=batch.weight, indptr=indptr, keys=keys[:count],
                 values=None if values is None else values[:count])


def check(sparse: bool, kind: str, stages: tuple[str, ...]) -> None:
    """ConfigError where a crew cannot learn this."""
    if kind != "linear" or not sparse or stages:
        found = f"model.kind={kind}" if kind != "linear" else "dense rows" if not sparse else f"stages {', '.join(stages)}"
        raise ConfigError(f"exchange.split=keys: expected sparse rows, a linear model and no stages, found {found}",
                          fix="use exchange.split=rows")
