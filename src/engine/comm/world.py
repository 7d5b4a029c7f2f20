"""The Link over MPI. Every wait is a non-blocking operation, tested until its deadline, with a name.

The caller's communicator is duplicated; MPI is initialised here only where nobody has done so before.
"""
from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

from engine.errors import PeerError, PeerLost
from engine.types import Array, Op

WHO_TAG = 7
RELAY_TAG = 8
SPIN_S = 0.002
SLOW_BYTES_S = 2.5e8  # a transfer slower than this is waiting for somebody
ABANDONED: list[Any] = []
PIECE_BYTES = 1 << 30  # a longer message goes in pieces: counts of MPI 3 end at 2^31


def start(*, own: bool = True) -> Any:
    """The `MPI` module of mpi4py, initialised with MPI_THREAD_MULTIPLE where nobody has done it before."""
    import mpi4py

    if own:
        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False
    from mpi4py import MPI

    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI


class World:
    """Collective exchange over a duplicate of `comm` (mpi4py `Comm`; None = COMM_WORLD).

    `timeout_s` bounds every wait; None = wait for ever, which no caller of the engine does.  `watch(name)` is a
    context manager entered around each wait; `absent(ranks)` may add what is known of the ranks that did not come.
    """

    def __init__(
        self,
        comm: Any = None,
        *,
        timeout_s: float = 300.0,
        watch: Callable[[str], Any] | None = None,
        absent: Callable[[list[int]], str] | None = None,
    ) -> None:
        self._mpi = start(own=comm is None)
        self._comm = (self._mpi.COMM_WORLD if comm is None else comm).Dup()
        self._side = self._comm.Dup()
        self._pairs = self._comm.Dup()
        for ours in (self._comm, self._side, self._pairs):  # a host's own handler may end the program
            ours.Set_errhandler(self._mpi.ERRORS_RETURN)
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.timeout_s, self._watch, self._absent = timeout_s, watch or nullcontext, absent
        self.alarm: Callable[[], str] = str  # says why every wait must be called off, or ""
        self.sent = self.received = 0
        self.kept: dict[str, Any] = {}
        node = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        self.node_rank, self.node_size = node.Get_rank(), node.Get_size()
        self.node = node.bcast(self.rank)  # the first rank of the node names it
        first = np.array([self._comm.Get_rank()], np.int64)
        node.Bcast([first, self._mpi.BYTE], 0)
        node.Free()
        heads = self._comm.allgather(int(first[0]))
        order = {head: at for at, head in enumerate(dict.fromkeys(heads))}
        self.nodes: tuple[int, ...] = tuple(order[head] for head in heads)
        self.serve: Callable[[], bool] = bool  # called while this rank waits, for others that ask it meanwhile
        self.relaxed = False  # waits sleep from the start: a thread waits, beside a program that needs the cores
        self._crowded = self.node_size > len(os.sched_getaffinity(0))
        self._bytes = self._mpi.BYTE
        self._step = 0

    @property
    def comm(self) -> Any:
        """The duplicate this Link works on, for `comm/repair.py`."""
        return self._comm

    def part(self, colour: int) -> World:
        """The ranks that give the same colour (collective)."""
        comm = self._comm.Split(colour, self.rank)
        made = World(comm, timeout_s=self.timeout_s, watch=self._watch, absent=self._absent)
        comm.Free()
        made.alarm = lambda: self.alarm()
        return made

    def vote(self, values: Array, *, name: str) -> Array:
        mine = np.ascontiguousarray(values)
        table = np.empty((self.size, *mine.shape), mine.dtype)
        self._wait(self._comm.Iallgather([mine, self._bytes], [table, self._bytes]), name)
        return table

    def allgather(self, data: Array, *, name: str, counts: Sequence[int] | None = None) -> list[Array]:
        mine = np.ascontiguousarray(data)
        if counts is None:
            counts = self._lengths(mine, name)
        row = mine.dtype.itemsize * int(np.prod(mine.shape[1:], dtype=np.int64))
        whole = np.empty((sum(counts), *mine.shape[1:]), mine.dtype)
        sizes = [n * row for n in counts]
        starts = [0, *np.cumsum(sizes[:-1]).tolist()]
        self._wait(self._comm.Iallgatherv([mine, self._bytes], [whole, sizes, starts, self._bytes]), name, whole.nbytes)
        self.sent += mine.nbytes * (self.size - 1)
        self.received += whole.nbytes - mine.nbytes
        return np.split(whole, np.cumsum(counts)[:-1])

    def _lengths(self, mine: Array, name: str) -> list[int]:
        """Rows of each rank; an error on every rank where dtypes or row shapes differ, or the call itself does."""
        kind = hash_name(f"{name}|{mine.dtype.str}|{mine.shape[1:]}")
        table = self.vote(np.array([len(mine), kind], np.int64), name=name)
        if len(set(table[:, 1].tolist())) > 1:
            said = self._side.allgather(f"{name}: {mine.dtype} {mine.shape[1:]}")
            found = "; ".join(f"rank {r} in {text}" for r, text in enumerate(said))
            raise PeerError(f"ranks disagree on what is exchanged: {found}", where=f"rank {self.rank}")
        return [int(n) for n in table[:, 0]]

    def alltoall(self, parts: Sequence[Array], *, name: str) -> list[Array]:
        dtype = parts[0].dtype
        sizes = np.array([p.nbytes for p in parts], np.int64)
        theirs = np.empty_like(sizes)
        self._wait(self._comm.Ialltoall([sizes, self._bytes], [theirs, self._bytes]), name)
        out = np.concatenate([np.ascontiguousarray(p) for p in parts])
        found = np.empty(int(theirs.sum()) // dtype.itemsize, dtype)
        starts, ends = np.cumsum(sizes) - sizes, np.cumsum(theirs)
        self._wait(
            self._comm.Ialltoallv(
                [out, sizes.tolist(), starts.tolist(), self._bytes],
                [found, theirs.tolist(), (ends - theirs).tolist(), self._bytes],
            ),
            name,
            out.nbytes + found.nbytes,
        )
        self.sent += int(sizes.sum() - sizes[self.rank])
        self.received += int(theirs.sum() - theirs[self.rank])
        return np.split(found, (ends // dtype.itemsize)[:-1])

    def allreduce(self, data: Array, *, op: Op = "sum", name: str, out: Array | None = None) -> Array:
        mine = np.ascontiguousarray(data)
        total = np.empty_like(mine) if out is None else out
        fold = {"sum": self._mpi.SUM, "max": self._mpi.MAX, "min": self._mpi.MIN}[op]
        self._wait(self._comm.Iallreduce(mine, total, fold), name, mine.nbytes)
        self.sent += mine.nbytes
        self.received += mine.nbytes
        return total

    def relay(self, data: Array, *, target: int, source: int, name: str) -> Array:
        mine = np.ascontiguousarray(data)
        size, theirs = np.array([mine.nbytes], np.int64), np.empty(1, np.int64)
        sends = [self._comm.Isend([part, self._bytes], target, RELAY_TAG) for part in (size, mine)]
        self._wait(self._comm.Irecv([theirs, self._bytes], source, RELAY_TAG), name)
        found = np.empty(int(theirs[0]) // mine.dtype.itemsize, mine.dtype)
        self._wait(self._comm.Irecv([found, self._bytes], source, RELAY_TAG), name, found.nbytes)
        for request in sends:
            self._wait(request, name, mine.nbytes)
        self.sent += mine.nbytes * (target != self.rank)
        self.received += found.nbytes * (source != self.rank)
        return found

    def bcast(self, value: Any, *, root: int = 0, name: str) -> Any:
        data = np.frombuffer(pickle.dumps(value), np.uint8) if self.rank == root else np.empty(0, np.uint8)
        size = np.array([len(data)], np.int64)
        self._wait(self._comm.Ibcast([size, self._bytes], root), name)
        whole = data.copy() if self.rank == root else np.empty(int(size[0]), np.uint8)
        self._wait(self._comm.Ibcast([whole, self._bytes], root), name, whole.nbytes)
        return pickle.loads(whole.tobytes())

    def gather(self, value: Any, *, root: int = 0, name: str) -> list[Any] | None:
        data = np.frombuffer(pickle.dumps(value), np.uint8)
        parts = [np.empty(0, np.uint8)] * self.size
        parts[root] = data
        found = self.alltoall(parts, name=name)
        return [pickle.loads(part.tobytes()) for part in found] if self.rank == root else None

    def barrier(self, *, name: str) -> None:
        self._wait(self._comm.Ibarrier(), name)

    def send(self, data: Array, to: int, *, name: str, tag: int = 0) -> Moving:
        flat = data.reshape(-1).view(np.uint8) if data.size else np.empty(0, np.uint8)
        if not np.shares_memory(flat, data) and data.size:
            raise ValueError(f"send {name!r}: expected a C-contiguous array")
        self.sent += data.nbytes
        parts = [flat[at : at + PIECE_BYTES] for at in range(0, max(1, len(flat)), PIECE_BYTES)]
        return Moving(self, [self._pairs.Isend([p, self._bytes], to, tag) for p in parts], name, to, data.nbytes, parts)

    def recv(self, out: Array, source: int, *, name: str, tag: int = 0) -> Moving:
        flat = out.reshape(-1).view(np.uint8) if out.size else np.empty(0, np.uint8)
        if not np.shares_memory(flat, out) and out.size:
            raise ValueError(f"recv {name!r}: expected a C-contiguous array")
        self.received += out.nbytes
        parts = [flat[at : at + PIECE_BYTES] for at in range(0, max(1, len(flat)), PIECE_BYTES)]
        requests = [self._pairs.Irecv([p, self._bytes], source, tag) for p in parts]
        return Moving(self, requests, name, source, out.nbytes, parts)

    def probe(self, *, tag: int, source: int | None = None) -> tuple[int, int] | None:
        status = self._mpi.Status()
        if not self._pairs.Iprobe(self._mpi.ANY_SOURCE if source is None else source, tag, status):
            return None
        return status.Get_source(), status.Get_count(self._bytes)

    def take(self, source: int, *, name: str, tag: int) -> Array:
        found: list[tuple[int, int]] = []

        def arrived() -> bool:
            found.extend([one] if (one := self.probe(tag=tag, source=source)) else [])
            return bool(found)

        self._until(arrived, name, 1, partial(self._silent, source))
        out = np.empty(found[0][1], np.uint8)
        self.recv(out, source, name=name, tag=tag).wait()
        return out

    def _silent(self, peer: int, name: str, waited_s: float) -> PeerError:
        known = self._absent([peer]) if self._absent else ""
        return PeerError(
            f"rank {self.rank} waited {waited_s:.1f} s in {name!r} for rank {peer}" + (f": {known}" if known else ""),
            fix="resume from the last checkpoint; raise loop.stall_timeout if this wait is expected",
        )

    def close(self) -> None:
        """Frees the duplicates (collective). The caller's communicator and MPI itself are left as they were."""
        if self._comm != self._mpi.COMM_NULL:
            self._pairs.Free()
            self._side.Free()
            self._comm.Free()

    def waiting(self, name: str) -> Any:
        """Around a wait for others that has a limit of its own: the watchdog does not take it for a rank that stalls."""
        return self._watch(name)

    def _wait(self, request: Any, name: str, size_bytes: int = 0) -> None:
        """Tests until done. MPI moves a large message only while it is tested, so its wait sleeps late and briefly."""
        self._step += 1
        self._until(request.Test, name, size_bytes, self._stalled)

    def _until(self, done: Callable[[], bool], name: str, size_bytes: int, late: Callable[[str, float], PeerError]) -> None:
        if done():
            return
        with self._watch(name):
            began = time.monotonic()
            pause, longest = 2e-5, 5e-5 if size_bytes else 1e-3
            spin_s = 0.0 if self.relaxed else SPIN_S + size_bytes / SLOW_BYTES_S
            while not done():
                waited = time.monotonic() - began
                if waited > self.timeout_s:
                    raise late(name, waited)
                self.serve()
                if why := self.alarm():
                    ABANDONED.append(done)  # MPI may still write into its buffers
                    raise PeerLost(f"rank {self.rank} called off {name!r}: {why}",
                                   fix="resume from node memory or the last checkpoint")
                if waited > spin_s:
                    time.sleep(pause)
                    pause = min(pause * 1.1, longest)
                elif self._crowded:
                    os.sched_yield()

    def _stalled(self, name: str, waited_s: float) -> PeerError:
        """Tells everybody that this rank is waiting here, and names those who do not say the same within 2 s."""
        here = np.array([self._step], np.int64)
        others = [r for r in range(self.size) if r != self.rank]
        sends = [self._side.Isend([here, self._bytes], r, WHO_TAG) for r in others]
        heard = {r: np.full(1, -1, np.int64) for r in others}
        receives = {r: self._side.Irecv([heard[r], self._bytes], r, WHO_TAG) for r in others}
        until = time.monotonic() + 2.0
        missing = set(others)
        while missing and time.monotonic() < until:
            missing -= {r for r in missing if receives[r].Test()}
            time.sleep(0.005)
        for request in [*sends, *(receives[r] for r in missing)]:
            if not request.Test():
                request.Cancel()
        absent = sorted(missing) or [r for r in others if heard[r][0] < self._step]
        known = self._absent(absent) if self._absent else ""
        return PeerError(
            f"rank {self.rank} waited {waited_s:.1f} s in {name!r} (operation {self._step}) "
            f"for {'rank' if len(absent) == 1 else 'ranks'} {', '.join(map(str, absent)) or 'unknown'}"
            + (f": {known}" if known else ""),
            fix="resume from the last checkpoint; raise loop.stall_timeout if this wait is expected",
        )


class Moving:
    """A message between two ranks, in pieces of at most PIECE_BYTES."""

    def __init__(self, world: World, requests: list[Any], name: str, peer: int, size_bytes: int, parts: list[Array]) -> None:
        self._world, self._requests, self._name, self._peer = world, requests, name, peer
        self._bytes, self._parts = size_bytes, parts  # the parts live as long as MPI may touch them

    def test(self) -> bool:
        while self._requests and self._requests[-1].Test():
            self._requests.pop()
        return not self._requests

    def wait(self) -> None:
        self._world._until(self.test, self._name, self._bytes, self._late)

    def _late(self, name: str, waited_s: float) -> PeerError:
        for request in self._requests:
            request.Cancel()
        return self._world._silent(self._peer, name, waited_s)


def hash_name(text: str) -> int:
    """A stable 62-bit number for a name, the same on every rank and run."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 2


def abort(code: int) -> None:
    """Ends every rank of the job; returns where there is nobody else, or MPI is not running."""
    from mpi4py import MPI

    if MPI.Is_initialized() and not MPI.Is_finalized() and MPI.COMM_WORLD.Get_size() > 1:
        MPI.COMM_WORLD.Abort(code)


def finish() -> None:
    """Finalises MPI where this program initialised it."""
    from mpi4py import MPI

    if MPI.Is_initialized() and not MPI.Is_finalized():
        MPI.Finalize()
