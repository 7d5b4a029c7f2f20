"""Rows that a solver hands over while it computes: a bounded queue, and a thread that learns and exchanges.

    with session.stream(capacity=4) as stream:
        for step in solver:
            stream.put(x, y)          # copies, returns at once while the queue has room

Every rank puts equally often. `full="wait"`: each item is learned by all ranks in the same step of the queue, and `put` waits
where the queue is full.  `full="newest"`: `put` never waits; what is overtaken is dropped, and ranks learn together
whatever each has newest (a rank that has nothing new takes part without rows until all have caught up).
"""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from engine.errors import ConfigError, EngineError, PeerError
from engine.types import Array, Batch, Link, Update

Learn = Callable[[Callable[[], Batch]], None]


@dataclass(frozen=True, slots=True)
class Item:
    """What one `put` left: rows, or the error that making them raised; neither at the end. `place` counts from 1."""

    place: int
    rows: Batch | None = None
    error: Exception | None = None

    @property
    def last(self) -> bool:
        return self.rows is None and self.error is None


class Queue:
    """At most `capacity` items, oldest first; where it is full, `put` waits or drops the oldest."""

    def __init__(self, capacity: int, full: str, limit_s: float) -> None:
        self.capacity, self.full, self.limit_s = capacity, full, limit_s
        self.gate = threading.Condition()
        self.items: deque[Item] = deque()
        self.place = self.dropped = 0

    def put(self, rows: Batch | None, error: Exception | None, broken: Callable[[], bool]) -> None:
        """Appends; PeerError where a full queue does not move for `limit_s` seconds."""
        with self.gate:
            until = time.monotonic() + self.limit_s
            while self.full == "wait" and len(self.items) >= self.capacity and not broken():
                if not self.gate.wait(until - time.monotonic()):
                    raise PeerError(f"put waited {self.limit_s:g} s for room in a queue of {self.capacity}",
                                    fix="put equally often on every rank; or full='newest', or a longer loop.stall_timeout")
            while self.full == "newest" and len(self.items) >= self.capacity:
                self.items.popleft()
                self.dropped += 1
            self.place += 1
            self.items.append(Item(self.place, rows, error))
            self.gate.notify_all()

    def take(self, *, wait: bool) -> Item | None:
        """The oldest item, or in `newest` mode the newest, the rest dropped; None where there is none and no wait."""
        with self.gate:
            while not self.items:
                if not wait:
                    return None
                self.gate.wait()
            item = self.items.popleft()
            while self.full == "newest" and self.items and not self.items[0].last:
                self.dropped += 1
                item = self.items.popleft()
            self.gate.notify_all()
            return item


class Stream:
    """The queue of a session and its thread. Use from one thread; the session's own calls wait for it first.

    `learn(make)` is the session's collective step over the batch that `make` returns or the error it raises.
    """

    def __init__(self, link: Link, learn: Learn, make: Callable[..., Batch], empty: Batch, *, capacity: int = 4,
                 full: str = "wait", limit_s: float = 300.0) -> None:
        if capacity < 1 or full not in ("wait", "newest"):
            raise ConfigError(f"stream: expected capacity >= 1 and full 'wait' or 'newest', found {capacity} and {full!r}")
        self.link, self._learn, self._make, self._empty = link, learn, make, empty
        self.queue = Queue(capacity, full, limit_s)
        self.learned = 0  # place of the last item that this rank has learned
        self._settled = True  # no rank is behind: the thread waits for rows, not for ranks
        self._error: BaseException | None = None
        self._raised: BaseException | None = None
        self._broken = self._closed = self._behind = False
        self._thread = threading.Thread(target=self._run, name="engine learns", daemon=True)
        self._thread.start()

    def put(self, x: Any, y: Any, *, weight: Any = None) -> None:
        """Copies this rank's rows (perhaps none) into the queue. Wrong rows are an error here and on every rank."""
        self.take(x, y, weight, (x, y, weight))

    def take(self, x: Any, y: Any, weight: Any, theirs: tuple[Any, ...]) -> None:
        """`put` of arrays of which only `theirs`, and views of them, may be overwritten by the caller."""
        self.check()
        if self._closed:
            raise ConfigError("put: the stream is closed", fix="make another with session.stream()")
        try:
            rows = owned(self._make(x, y, weight), *theirs)
        except Exception as error:
            self.refuse(error)
            raise
        self.queue.put(rows, None, lambda: self._broken)
        self.check()

    def refuse(self, error: Exception) -> None:
        """Takes the place of a `put` whose rows are wrong: the other ranks are told `error`; this one knows it."""
        self._raised = error
        self.queue.put(None, error, lambda: self._broken)

    def test(self) -> bool:
        """Whether all that was put here has been learned or dropped; raises the error of the thread."""
        self.check()
        with self.queue.gate:
            return self.idle

    def wait(self) -> None:
        """Returns when all that was put here has been learned or dropped; raises the error of the thread."""
        with self.queue.gate:
            while not self.idle and not self._broken:
                self.queue.gate.wait()
        self.check()

    def check(self) -> None:
        """Raises what went wrong in the thread, once; a stream that cannot go on raises it every time."""
        error = self._error
        if error is not None:
            if not self._broken:
                self._error = None
            raise error

    def close(self) -> None:
        """Learns what is left and ends the thread (collective). An error of the thread is raised here."""
        if not self._closed:
            self._closed = True
            with suppress(PeerError):
                self.queue.put(None, None, lambda: self._broken)
            self._thread.join()
        self.check()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()

    @property
    def idle(self) -> bool:
        """Whether the thread has nothing to learn and no rank to wait for."""
        return self.learned >= self.queue.place and self._settled

    def _run(self) -> None:
        try:
            with np.errstate(all="ignore"):  # nobody reads what a thread of a library would print
                (self._every if self.queue.full == "wait" else self._newest)()
        except BaseException as error:
            self._error, self._broken = error, True
        with self.queue.gate:
            self._settled = True
            self.queue.gate.notify_all()

    def _every(self) -> None:
        """One collective step an item, in order."""
        while True:
            item = self.queue.take(wait=True)
            assert item is not None
            if item.last:
                return self._mark(item.place, True)
            self._step(item)
            self._mark(item.place, True)

    def _newest(self) -> None:
        """Rounds: ranks say which item each has reached, then learn what each brought.

        Where all have reached the same item nobody goes on before its next one, which every rank will have. Else all go
        on at once: those behind with their next item, which is there or on its way, those ahead with what they have.
        """
        place = 0
        last = False
        while True:
            item = self.queue.take(wait=self._settled or self._behind)
            last = last or (item is not None and item.last)
            place = place if item is None else item.place
            table = self.link.vote(np.array([place, last], np.int64), name="stream")
            self._step(Item(place, self._empty) if item is None or item.last else item)
            top = int(table[:, 0].max())
            self._behind = place < top
            self._mark(place, bool((table[:, 0] == top).all()))
            if table[:, 1].all():
                return

    def _step(self, item: Item) -> None:
        """Learns an item on all ranks. An error that all ranks share is kept for the caller, and the stream goes on."""
        def rows() -> Batch:
            if item.error is not None:
                raise item.error
            return self._empty if item.rows is None else item.rows

        try:
            self._learn(rows)
        except PeerError:
            raise
        except EngineError as error:
            if str(error) != str(self._raised) and self._error is None:  # put has raised its own
                self._error = error

    def _mark(self, place: int, settled: bool) -> None:
        with self.queue.gate:
            self.learned, self._settled = place, settled
            self.queue.gate.notify_all()


def owned(batch: Batch, *sources: Any) -> Batch:
    """The batch, with copies of those arrays that share memory with what the caller may overwrite."""
    arrays = [source for source in sources if source is not None]

    def own(value: Array | None) -> Array | None:
        if value is None or (value.flags.owndata and not any(value is array for array in arrays)):
            return value
        return value.copy()

    y = own(batch.y)
    assert y is not None
    return Batch(y, batch.order, batch.previous, x=own(batch.x), indptr=own(batch.indptr), keys=own(batch.keys),
                 values=own(batch.values), weight=own(batch.weight))


SMALL = 1 << 18  # bytes of a model that is copied before a lot is learned
LONG = 4096  # rows of a lot that is worth it


class Guarded:
    """A team whose model may be read by another thread: the lock is held while it learns and merges, not while ranks wait.

    A small model is read as it was before the long lot that is being learned; a larger one when its lot is done.
    """

    def __init__(self, team: Any) -> None:
        self.team, self.lock = team, threading.Lock()
        self._reading, self._fresh = threading.Lock(), False
        self._before: Any = None
        if sum(block.data.nbytes for block in team.state().values()) <= SMALL:
            self._before = team.models[0].fork()

    def predict(self, batch: Batch) -> Array:
        found: Array
        if self.lock.acquire(blocking=not self._fresh):
            try:
                found = self.team.models[0].predict(batch)
            finally:
                self.lock.release()
        else:
            with self._reading:
                found = self._before.predict(batch)
        return found

    def learn(self, batch: Batch, k: int) -> tuple[Batch, Array]:
        with self.lock:
            self._fresh = self._before is not None and len(batch) >= LONG
            if self._fresh:
                with self._reading:
                    self._before.load(self.team.state())
            found: tuple[Batch, Array] = self.team.learn(batch, k)
            return found

    def update(self) -> Update:
        with self.lock:
            found: Update = self.team.update()
            return found

    def merge(self, total: Update, workers: int) -> None:
        with self.lock:
            self.team.merge(total, workers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.team, name)
