"""Adds to owners on other nodes, summed by key for all ranks of the node and sent as one request.

    rank a ─ add ─┐
    rank b ─ add ─┼─► rows of the node's queue, summed ─► one rank drains and sends ─► owner
    rank c ─ add ─┘

The queue is a slab of the same kind as the table's, in memory the node shares: room for a bounded number of rows. It is
drained when every rank of the node has come to the clock, when it is full (who finds it full waits until it is not), or
when something has lain in it for `limit_s` and its rank calls the table. One rank drains at a time, under a lock; what it
sends goes as its own requests, so an owner carries each out once, by (client, sequence).

`op` merge: the same of pushes to a learner's rows (table/worker.py), whose columns add up; the owner merges each sum as one
push of so many ranks. The queue has the width of what is sent.

What a reader may see: an add to another node is at its owner when others see the clock that followed it, and not earlier;
the rank's own `get` does not see it before either. Sums are added in another order: equal to rounding. The version of
such a row counts requests, not adds, and `inc` gives 0 for it. Other operations and commits send what is queued first.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.codec import call
from engine.codec.call import FULL, OK, WAITING
from engine.errors import ConfigError, PeerError
from engine.kernels import _native
from engine.store.table import Table, _Pause
from engine.types import Array

LIMIT_S = 2e-3
ADDS = {call.OPS["add"]: lambda rate: 1.0, call.OPS["sgd"]: lambda rate: -rate}  # the factor that makes an add of it
NOBODY = 1 << 30  # a writer that is none
NONE = np.empty(0, np.int64)


class Combined(Table):
    """A table whose far adds are combined. `queue`: the node's slab, made by its first rank with room for `rows` rows;
    `marks`: a small slab of each rank of the node, whose clock says where it is; `mates`: the table's slabs of them; `op`:
    add, with which sgd goes too, or merge."""

    def __init__(self, *args: Any, queue: Array, rows: int, marks: dict[int, Array], mates: dict[int, Array],
                 limit_s: float = LIMIT_S, op: str = "add", **more: Any) -> None:
        super().__init__(*args, **more)
        self.op, self._factors = op, ADDS if op == "add" else {call.OPS[op]: lambda rate: 1.0}
        if rows < 1 or limit_s < 0:
            raise ConfigError(f"combine: expected at least 1 row and a limit of at least 0 s, found {rows} and {limit_s:g}")
        self.queue, self.queue_rows, self.limit_s = _native.Slab(queue), rows, limit_s
        self.marks = {r: _native.Slab(one) for r, one in marks.items()}
        self.mates = {r: _native.Slab(one) for r, one in mates.items()}
        self._blank = np.zeros(call.sent(op, self.width), np.float32)
        head, owner, epoch, stamp, state, backup, forks = self.ledger.arrays()
        self._into = _native.Node(head, owner, epoch, stamp, state, backup, forks, self.ledger.bits, [queue],
                                  np.zeros(self.ranks, np.int16), self._blank)
        self._since: tuple[float, int] | None = None  # when the oldest add of this rank was queued, after which drain
        self._flushing = False
        self.added = self.sent_rows = self.flushes = 0  # adds queued by this rank; rows and times it sent

    # Into the queue

    def _far_inc(self, keys: Array, todo: Array, items: Array, versions: Array,
                 rule: tuple[int, float, float]) -> tuple[Array, bool]:
        if self._flushing:
            return super()._far_inc(keys, todo, items, versions, rule)
        if rule[0] not in self._factors or 2 * len(todo) > self.queue_rows:
            if rule[0] not in self._factors:
                self.flush()  # what came before it is applied before it
            return super()._far_inc(keys, todo, items, versions, rule)
        self._queue(keys[todo], items[todo] * np.float32(self._factors[rule[0]](rule[1])))
        return NONE, True

    def _queue(self, keys: Array, items: Array) -> None:
        """Adds to the rows of the queue; waits, or sends them, where it is full."""
        seen, away = np.empty(len(keys), np.uint32), np.empty(len(keys), np.uint32)
        at, pause = 0, _Pause(self, "room in the queue of combined adds")
        while at < len(keys):
            before = at
            at, _, status = self._into.apply(self.writer, call.OPS["add"], 0.0, 0.0, keys, items, seen, away, at, 0)
            if status == FULL or self._full_queue():
                self._flush_if(self._full_queue)
            if at > before:
                pause.reset()
            elif status != OK:
                pause()
        self.added += len(keys)
        drain = self.queue.bump(0)
        if self._since is None or self._since[1] != drain:
            self._since = (time.monotonic(), drain)
        self._due()

    def _full_queue(self) -> bool:
        return bool(self.queue.stats()["used"] >= self.queue_rows)

    def _due(self) -> None:
        """Sends what has lain longer than the limit, and tells a clock that has waited longer."""
        if self._since is None or self._flushing or time.monotonic() - self._since[0] < self.limit_s:
            return
        drain = self._since[1]
        if self._untold() or self.queue.bump(0) == drain:
            self._flush_if(lambda: self._untold() or self.queue.bump(0) == drain)
        self._since = None

    # Out of it

    def flush(self) -> None:
        """All that the node has queued is at its owners when it returns, and the clocks that waited for it are told."""
        self._flush_if(lambda: True)

    def _flush_if(self, wanted: Callable[[], bool]) -> None:
        """Under the node's lock, if it is still wanted then: drain, send, tell the clocks of all ranks of the node."""
        if self._flushing:
            return
        self._flushing, ticket = True, -1
        try:
            ticket = self._lock()
            if not wanted():
                return
            reached = {r: int(mark.stats()["clock"]) for r, mark in self.marks.items()}  # before the drain: it has their adds
            keys, sums = self._drained()
            self._since = None
            if len(keys):
                self.inc(keys, sums, op=self.op)
                self.sent_rows += len(keys)
                self.flushes += 1
            for rank, clock in reached.items():
                if clock > self.mates[rank].stats()["clock"]:
                    self.mates[rank].clock(clock)
        finally:
            self._flushing = False
            if ticket >= 0:
                self.queue.release(0, ticket)

    def _lock(self) -> int:
        pause, lease_ns = _Pause(self, "the lock of combined adds"), int(2e9 * self.timeout_s)
        ticket = int(self.queue.ticket(0))
        while (turn := self.queue.turn(0, ticket, 0, time.monotonic_ns(), lease_ns)) != OK:
            if turn != WAITING:  # passed over
                ticket = int(self.queue.ticket(0))
            pause("; the rank of this node that holds it may be dead")
        return ticket

    def _drained(self) -> tuple[Array, Array]:
        """Keys and sums of all rows, which are then gone; writers wait meanwhile."""
        slab = self.queue
        if not slab.stats()["used"]:
            return np.empty(0, np.uint64), np.empty((0, len(self._blank)), np.float32)
        slab.gate(True)
        try:
            pause = _Pause(self, "writers to leave the queue of combined adds", poll=False)
            while (who := slab.inside(NOBODY)) >= 0:
                pause(f"; writer {who} of this node is inside: its process may be dead")
            room = slab.stats()["used"]
            keys, values = np.empty(room, np.uint64), np.empty((room, len(self._blank)), np.float32)
            count, status, _ = slab.take(-1, None, None, 0, keys, np.empty(room, np.uint32), np.empty(room, np.uint32), values)
            if status != OK or count != room:
                raise PeerError(f"{count} of {room} combined rows could be read: a process died inside one")
            slab.drop(None, None, 0xFFFFFFFF)
            slab.rebuild(np.empty(0, np.uint8))
            slab.bump(2)
        finally:
            slab.gate(False)
        order = np.argsort(keys)
        return keys[order], values[order]

    # Clocks

    def clock(self) -> int:
        """One more clock of this rank; others see it once what was added before it is at its owners."""
        self.now += 1
        self._seen[self.rank] = self.now
        if self.log is not None:
            self.log()
        self.marks[self.rank].clock(self.now)
        if all(mark.stats()["clock"] >= self.now for mark in self.marks.values()):
            self._flush_if(self._untold)
        elif self._since is None:
            self._since = (time.monotonic(), self.queue.bump(0))
        return self.now

    def _untold(self) -> bool:
        return bool(self.slab.stats()["clock"] < self.now)

    def wait(self, bound: int) -> int:
        pause, began = _Pause(self, "the clock of combined adds"), time.monotonic()
        while self._untold():
            if time.monotonic() - began >= self.limit_s:  # a rank of the node is late: without it
                self._flush_if(self._untold)
            else:
                pause()
        return super().wait(bound)

    def commit(self, keys: Array, expected: Array, values: Array) -> Array | None:
        if not self._flushing:
            self.flush()
        return super().commit(keys, expected, values)

    def poll(self) -> bool:
        self._due()
        return super().poll()


__all__ = ["LIMIT_S", "Combined"]
