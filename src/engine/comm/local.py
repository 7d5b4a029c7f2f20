"""Links without MPI: `Alone` for one rank, `group(n)` for n threads of one process (tests, logical replicas)."""
from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.errors import PeerError
from engine.types import Array, Op

_FOLD = {"sum": np.add, "max": np.maximum, "min": np.minimum}


class Alone:
    """The Link of a run of one rank: every exchange gives back what was put in, as a copy."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.sent = self.received = 0

    def vote(self, values: Array, *, name: str) -> Array:
        return np.array(values)[None]

    def allgather(self, data: Array, *, name: str, counts: Sequence[int] | None = None) -> list[Array]:
        return [data.copy()]

    def alltoall(self, parts: Sequence[Array], *, name: str) -> list[Array]:
        return [parts[0].copy()]

    def allreduce(self, data: Array, *, op: Op = "sum", name: str) -> Array:
        return data.copy()

    def relay(self, data: Array, *, target: int, source: int, name: str) -> Array:
        return data.copy()

    def bcast(self, value: Any, *, root: int = 0, name: str) -> Any:
        return value

    def gather(self, value: Any, *, root: int = 0, name: str) -> list[Any] | None:
        return [value]

    def barrier(self, *, name: str) -> None:
        return

    def close(self) -> None:
        return


class Room:
    """Where the members of one in-process group meet: a slot each, and a barrier that breaks at the deadline."""

    def __init__(self, size: int, timeout_s: float) -> None:
        self.size, self.timeout_s = size, timeout_s
        self.slots: list[Any] = [None] * size
        self.names: list[str | None] = [None] * size
        self.gate = threading.Barrier(size)

    def swap(self, rank: int, name: str, value: Any) -> list[Any]:
        """Leaves `value`, waits for all, returns what each left."""
        self.slots[rank], self.names[rank] = value, name
        self._pass(rank, name)
        if len(set(self.names)) > 1:
            self.gate.abort()
            raise PeerError(f"ranks disagree on the operation: {self.names}", where=f"rank {rank}, {name}")
        found = list(self.slots)
        self._pass(rank, name)
        self.names[rank] = None
        return found

    def _pass(self, rank: int, name: str) -> None:
        try:
            self.gate.wait(self.timeout_s)
        except threading.BrokenBarrierError:
            absent = [r for r, other in enumerate(self.names) if other is None]
            raise PeerError(
                f"rank {rank} waited {self.timeout_s:g} s in {name!r}; absent: {absent or 'a rank that gave up'}"
            ) from None


class Local:
    """One member of an in-process group. Arrays are copied, as they would be by a network."""

    def __init__(self, room: Room, rank: int) -> None:
        self.rank, self.size, self._room = rank, room.size, room
        self.sent = self.received = 0

    def _swap(self, name: str, value: Any) -> list[Any]:
        return self._room.swap(self.rank, name, value)

    def _count(self, out_bytes: int, in_bytes: int) -> None:
        self.sent += out_bytes
        self.received += in_bytes

    def vote(self, values: Array, *, name: str) -> Array:
        return np.stack(self._swap(name, np.array(values)))

    def allgather(self, data: Array, *, name: str, counts: Sequence[int] | None = None) -> list[Array]:
        found = [a.copy() for a in self._swap(name, data.copy())]
        self._count(data.nbytes * (self.size - 1), sum(a.nbytes for a in found) - data.nbytes)
        return found

    def alltoall(self, parts: Sequence[Array], *, name: str) -> list[Array]:
        found = [row[self.rank].copy() for row in self._swap(name, [p.copy() for p in parts])]
        own = parts[self.rank].nbytes
        self._count(sum(p.nbytes for p in parts) - own, sum(a.nbytes for a in found) - own)
        return found

    def allreduce(self, data: Array, *, op: Op = "sum", name: str) -> Array:
        found = self._swap(name, data.copy())
        self._count(data.nbytes, data.nbytes)
        total = found[0].copy()
        for other in found[1:]:
            _FOLD[op](total, other, out=total)
        return total

    def relay(self, data: Array, *, target: int, source: int, name: str) -> Array:
        sent, to = self._swap(name, (data.copy(), target))[source]
        if to != self.rank:
            raise PeerError(f"rank {source} sends to {to}, expected to {self.rank}", where=f"rank {self.rank}, {name}")
        self._count(data.nbytes * (target != self.rank), sent.nbytes * (source != self.rank))
        return sent.copy()

    def bcast(self, value: Any, *, root: int = 0, name: str) -> Any:
        return copy.deepcopy(self._swap(name, value)[root])

    def gather(self, value: Any, *, root: int = 0, name: str) -> list[Any] | None:
        found = self._swap(name, copy.deepcopy(value))
        return found if self.rank == root else None

    def barrier(self, *, name: str) -> None:
        self._swap(name, None)

    def close(self) -> None:
        return


def group(size: int, *, timeout_s: float = 30.0) -> list[Local]:
    """Links of `size` logical ranks; use each from a thread of its own."""
    room = Room(size, timeout_s)
    return [Local(room, rank) for rank in range(size)]
