"""A ring of rows in shared memory: a solver writes, a rank of the same node reads, nobody waits for a lock.

Layout, little-endian: 64 bytes of header - magic `ENGRING1`, uint32 version, uint32 width, uint64 capacity (rows), uint64
written, uint64 read, uint32 ended, uint32 reserved - then `capacity` slots of width + 1 float32: the row, then its label
(NaN: none). One writer, one reader; each counter is an aligned 8-byte word that only its owner changes, written after the
rows it covers. A full ring makes the writer wait; it never drops.
"""
from __future__ import annotations

import os
import time
from multiprocessing import resource_tracker, shared_memory

import numpy as np

from engine.errors import DataError, PeerError
from engine.source.feed import At, Portion, batched
from engine.types import Array

MAGIC, VERSION, HEADER = b"ENGRING1", 1, 64


class Ring:
    """The ring named `name`. `create=True` makes it (the writer's or the launcher's side), else it is attached."""

    def __init__(self, name: str, *, width: int = 0, capacity: int = 1 << 16, create: bool = False) -> None:
        self.name, self.owner = name, create
        size = HEADER + capacity * (width + 1) * 4
        try:
            self._memory = shared_memory.SharedMemory(name, create=create, size=size if create else 0)
        except FileNotFoundError:
            raise DataError("expected a shared-memory ring, found none of this name", where=name,
                            fix="start the writer first, or create the ring") from None
        if not create:
            resource_tracker.unregister(self._memory._name, "shared_memory")  # type: ignore[attr-defined]  # not ours to unlink
        buffer = self._memory.buf
        assert buffer is not None
        if create:
            buffer[:8] = MAGIC
            np.frombuffer(buffer, np.uint32, 2, 8)[:] = VERSION, width
            np.frombuffer(buffer, np.uint64, 1, 16)[0] = capacity
        if bytes(buffer[:8]) != MAGIC:
            raise DataError("expected a ring of rows, found other shared memory", where=name, fix="see engine.source.ring")
        self.width = int(np.frombuffer(buffer, np.uint32, 1, 12)[0])
        self.capacity = int(np.frombuffer(buffer, np.uint64, 1, 16)[0])
        self._counts = np.frombuffer(buffer, np.uint64, 2, 24)
        self._ended = np.frombuffer(buffer, np.uint32, 1, 40)
        self._slots = np.frombuffer(buffer, np.float32, self.capacity * (self.width + 1), HEADER).reshape(self.capacity, -1)

    def push(self, x: Array, y: Array | None = None, *, timeout_s: float = 60.0) -> None:
        """Write rows `x` (n, width) and labels `y` (n,); waits while the ring is full, PeerError after `timeout_s`."""
        x = np.atleast_2d(np.asarray(x, np.float32))
        y = np.full(len(x), np.nan, np.float32) if y is None else np.atleast_1d(np.asarray(y, np.float32))
        done, end = 0, time.monotonic() + timeout_s
        while done < len(x):
            written = int(self._counts[0])
            room = self.capacity - (written - int(self._counts[1]))
            n = min(room, len(x) - done, self.capacity - written % self.capacity)
            if not n:
                if time.monotonic() > end:
                    raise PeerError(f"ring {self.name}: full for {timeout_s:g} s, {len(x) - done} rows not taken",
                                    fix="is the reader running?")
                time.sleep(0.0002)
                continue
            slots = self._slots[written % self.capacity :][:n]
            slots[:, :-1], slots[:, -1] = x[done : done + n], y[done : done + n]
            self._counts[0] = written + n
            done += n

    def end(self) -> None:
        """No more rows will come."""
        self._ended[0] = 1

    def take(self, after: int, limit: int) -> tuple[Array, bool]:
        """Up to `limit` rows from row `after` on as (n, width + 1), copied; whether the writer has ended and all is taken."""
        ended, written = bool(self._ended[0]), int(self._counts[0])
        at = after % self.capacity
        n = min(limit, written - after, self.capacity - at)
        return self._slots[at : at + n].copy(), ended and after + n == written

    @property
    def read(self) -> int:
        """Rows given back to the writer."""
        return int(self._counts[1])

    def free(self, rows: int) -> None:
        """Give the rows before row `rows` of the stream back to the writer."""
        self._counts[1] = max(int(self._counts[1]), rows)

    def close(self) -> None:
        del self._counts, self._slots, self._ended  # views must go before the memory can
        self._memory.close()
        if self.owner:
            try:
                self._memory.unlink()
            except FileNotFoundError:
                resource_tracker.unregister(self._memory._name, "shared_memory")  # type: ignore[attr-defined]


class Ringed:
    """A ring as a feed. `kept`: rows go back to the writer when a checkpoint holds them, else when they are read."""

    def __init__(self, ring: Ring, *, kept: bool = False, limit: int = 1 << 14) -> None:
        self.name, self.ended, self._ring, self._kept, self._limit = f"ring {ring.name}", False, ring, kept, limit
        self._next = ring.read

    def seek(self, at: At) -> None:
        if at[1] < self._ring.read:
            raise DataError(f"expected row {at[1]} in the ring, found it given back up to {self._ring.read}", where=self.name,
                            fix="stream with kept=True, or a spool")
        self._next = at[1]

    def poll(self) -> Portion | None:
        rows, self.ended = self._ring.take(self._next, self._limit)
        if not len(rows):
            return None
        before, self._next = self._next, self._next + len(rows)
        if not self._kept:
            self._ring.free(self._next)
        return Portion(batched((rows[:, :-1], rows[:, -1])), np.arange(before, self._next + 1))

    def committed(self, at: At) -> None:
        self._ring.free(at[1])

    def close(self) -> None:
        self._ring.close()


def unused(name: str) -> str:
    """A ring name that no other process of this node has."""
    return f"{name}.{os.getpid()}.{time.monotonic_ns() & 0xFFFFFF:x}"
