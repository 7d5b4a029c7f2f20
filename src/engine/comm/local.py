"""Links without MPI: `Alone` for one rank, `group(n)` for n threads of one process (tests, logical replicas)."""
from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.errors import PeerError
from engine.types import Array, Op

_FOLD = {"sum": np.add, "max": np.maximum, "min": np.minimum}


class Alone:
    """The Link of a run of one rank: every exchange gives back what was put in, as a copy."""

    rank, size = 0, 1
    nodes: tuple[int, ...] = (0,)

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.kept: dict[str, Any] = {}

    def vote(self, values: Array, *, name: str) -> Array:
        return np.array(values)[None]

    def allgather(self, data: Array, *, name: str, counts: Sequence[int] | None = None) -> list[Array]:
        return [data.copy()]

    def alltoall(self, parts: Sequence[Array], *, name: str) -> list[Array]:
        return [parts[0].copy()]

    def allreduce(self, data: Array, *, op: Op = "sum", name: str, out: Array | None = None) -> Array:
        if out is None:
            return data.copy()
        out[...] = data
        return out

    def relay(self, data: Array, *, target: int, source: int, name: str) -> Array:
        return data.copy()

    def bcast(self, value: Any, *, root: int = 0, name: str) -> Any:
        return value

    def gather(self, value: Any, *, root: int = 0, name: str) -> list[Any] | None:
        return [value]

    def barrier(self, *, name: str) -> None:
        return

    def send(self, data: Array, to: int, *, name: str, tag: int = 0) -> Letter:
        raise PeerError(f"send {name!r}: one rank has no peer {to}")

    def recv(self, out: Array, source: int, *, name: str, tag: int = 0) -> Letter:
        raise PeerError(f"recv {name!r}: one rank has no peer {source}")

    def probe(self, *, tag: int, source: int | None = None) -> tuple[int, int] | None:
        return None

    def take(self, source: int, *, name: str, tag: int) -> Array:
        raise PeerError(f"take {name!r}: one rank has no peer {source}")

    def close(self) -> None:
        return


Fault = Callable[[int, int, int, int], float | None]


class Mail:
    """Messages between the members of one group, by (from, to, tag). `fault(source, to, tag, nth)` = seconds a message
    takes, or None where it is lost; without it, none takes any."""

    def __init__(self, fault: Fault | None) -> None:
        self.fault = fault
        self.lock = threading.Condition()
        self.boxes: dict[tuple[int, int, int], deque[tuple[float, Array]]] = {}
        self.wanted: dict[tuple[int, int, int], deque[Letter]] = {}
        self.posted: dict[tuple[int, int, int], int] = {}

    def post(self, key: tuple[int, int, int], data: Array) -> None:
        with self.lock:
            nth = self.posted[key] = self.posted.get(key, -1) + 1
            delay_s = self.fault(*key, nth) if self.fault else 0.0
            if delay_s is not None:
                self.boxes.setdefault(key, deque()).append((time.monotonic() + delay_s, data))
                self.lock.notify_all()

    def match(self, key: tuple[int, int, int]) -> None:
        """Hands messages that have arrived to the receives that were posted, in order; the lock is held."""
        box, wanted = self.boxes.get(key), self.wanted.get(key)
        while box and wanted and box[0][0] <= time.monotonic():
            wanted.popleft().take(box.popleft()[1])


class Letter:
    """A receive that was posted, or (without a mail) a send, which is done at once."""

    def __init__(self, mail: Mail | None = None, key: tuple[int, int, int] = (0, 0, 0), out: Array | None = None,
                 name: str = "", timeout_s: float = 0.0) -> None:
        self._mail, self._key, self._out, self._name, self._timeout_s = mail, key, out, name, timeout_s
        self._error: PeerError | None = None
        self.data = np.empty(0, np.uint8)

    def take(self, data: Array) -> None:
        out, self._mail, self.data = self._out, None, data
        if out is None:
            return
        if data.nbytes != out.nbytes:
            self._error = PeerError(f"{self._name}: expected {out.nbytes} bytes from rank {self._key[0]}, found {data.nbytes}",
                                    where=f"rank {self._key[1]}")
        elif out.size:
            out.reshape(-1).view(np.uint8)[:] = data

    def test(self) -> bool:
        mail = self._mail
        if mail is not None:
            with mail.lock:
                mail.match(self._key)
        if self._error:
            raise self._error
        return self._mail is None

    def wait(self) -> None:
        mail, end = self._mail, time.monotonic() + self._timeout_s
        while not self.test():
            left = end - time.monotonic()
            if left < 0:
                raise PeerError(f"rank {self._key[1]} waited {self._timeout_s:g} s in {self._name!r} for rank {self._key[0]}")
            assert mail is not None
            with mail.lock:
                box = mail.boxes.get(self._key)
                mail.lock.wait(min(left, max(1e-4, box[0][0] - time.monotonic()) if box else left) + 1e-4)


class Room:
    """Where the members of one in-process group meet: a slot each, and a barrier that breaks at the deadline."""

    def __init__(self, size: int, timeout_s: float, fault: Fault | None = None) -> None:
        self.size, self.timeout_s = size, timeout_s
        self.mail = Mail(fault)
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

    def __init__(self, room: Room, rank: int, nodes: tuple[int, ...]) -> None:
        self.rank, self.size, self._room, self.nodes = rank, room.size, room, nodes
        self.sent = self.received = 0
        self.kept: dict[str, Any] = {}

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

    def allreduce(self, data: Array, *, op: Op = "sum", name: str, out: Array | None = None) -> Array:
        found = self._swap(name, data.copy())
        self._count(data.nbytes, data.nbytes)
        total = found[0].copy() if out is None else out
        total[...] = found[0]
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

    def send(self, data: Array, to: int, *, name: str, tag: int = 0) -> Letter:
        self.sent += data.nbytes
        self._room.mail.post((self.rank, to, tag), np.frombuffer(data.tobytes(), np.uint8))
        return Letter()

    def recv(self, out: Array, source: int, *, name: str, tag: int = 0) -> Letter:
        self.received += out.nbytes
        mail, key = self._room.mail, (source, self.rank, tag)
        letter = Letter(mail, key, out, name, self._room.timeout_s)
        with mail.lock:
            mail.wanted.setdefault(key, deque()).append(letter)
        return letter

    def probe(self, *, tag: int, source: int | None = None) -> tuple[int, int] | None:
        mail, now = self._room.mail, time.monotonic()
        with mail.lock:
            for rank in range(self.size) if source is None else [source]:
                box = mail.boxes.get((rank, self.rank, tag))
                if box and box[0][0] <= now:
                    return rank, box[0][1].nbytes
        return None

    def take(self, source: int, *, name: str, tag: int) -> Array:
        letter = Letter(self._room.mail, (source, self.rank, tag), None, name, self._room.timeout_s)
        with self._room.mail.lock:
            self._room.mail.wanted.setdefault((source, self.rank, tag), deque()).append(letter)
        letter.wait()
        self.received += letter.data.nbytes
        return letter.data

    @property
    def timeout_s(self) -> float:
        return self._room.timeout_s

    def share(self, name: str, value: Any) -> list[Any]:
        """What each member left, itself and no copy."""
        return self._swap(name, value)

    def close(self) -> None:
        return


def group(size: int, *, timeout_s: float = 30.0, nodes: Sequence[int] | None = None, fault: Fault | None = None) -> list[Local]:
    """Links of `size` logical ranks; use each from a thread of its own. `nodes`: the node of each (default: one node)."""
    room = Room(size, timeout_s, fault)
    return [Local(room, rank, tuple(nodes or [0] * size)) for rank in range(size)]
