"""Requests to the owners of shards: the client that sends them, and the native server that answers.

    served    by a thread of its own (`thread`), which sleeps between looks and so leaves the target its cores,
              or by the rank itself whenever it waits or calls `poll` (`inline`)

The thread needs MPI_THREAD_MULTIPLE; below it, and where all ranks share a node, the server is inline. Only native code
runs in the thread: MPI is called by address, with handles taken from mpi4py, so nothing here is built for one MPI.
"""
from __future__ import annotations

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.codec.call import HEAD_BYTES, Reply, decode_reply
from engine.comm import probe
from engine.errors import ConfigError, PeerError
from engine.kernels import _native
from engine.types import Array

REQUEST_TAG, REPLY_TAG = 21, 22
FRAME_BYTES = 1 << 20
IN_FLIGHT = 8  # frames to one owner
IDLE_US = 500


def sleep_us() -> int:
    """How long the thread sleeps between looks: not at all where a core is idle for it, else 50 µs."""
    cores = len(os.sched_getaffinity(0))
    return 0 if cores - os.getloadavg()[0] >= 2 and cores > 2 else 50


def addresses(names: Sequence[str]) -> list[int]:
    """Where the loaded MPI library has these functions."""
    library = ctypes.CDLL(probe.libmpi())
    return [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names]


class Service:
    """The server of this rank and its client side, over a duplicate of `comm`. Collective to make and close.

    `mode`: thread, inline, or auto (a thread where MPI allows it and the ranks are on several nodes).
    `ask` sends frames to owners and returns their replies; every wait has a limit.
    """

    def __init__(self, comm: Any, server: _native.Server, *, mode: str = "auto", single_node: bool = True,
                 sleep: int | None = None, timeout_s: float = 60.0) -> None:
        from mpi4py import MPI

        if mode not in ("auto", "thread", "inline"):
            raise ConfigError(f"service: expected auto, thread or inline, found {mode!r}")
        self._mpi, self._comm, self.server, self.timeout_s = MPI, comm.Dup(), server, timeout_s
        multiple = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        if mode == "thread" and not multiple:
            raise ConfigError("service: a thread needs MPI_THREAD_MULTIPLE, which this MPI was not started with",
                              fix="use shard.service=inline, or initialise MPI with MPI_THREAD_MULTIPLE")
        self.mode = mode if mode != "auto" else "thread" if multiple and not single_node else "inline"
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.sent = self.received = 0
        wide = MPI._sizeof(MPI.Comm) == 8
        self._open(wide)
        if self.mode == "thread":
            server.start(sleep_us() if sleep is None else sleep, IDLE_US)
        self._comm.Barrier()

    def _open(self, wide: bool) -> None:
        mpi = self._mpi

        def value(handle: Any) -> int:
            at = mpi._addressof(handle)
            return int((ctypes.c_uint64 if wide else ctypes.c_uint32).from_address(at).value)

        calls = addresses(("MPI_Improbe", "MPI_Imrecv", "MPI_Isend", "MPI_Test"))
        self.server.open(calls, value(self._comm), value(mpi.BYTE), wide, mpi.ANY_SOURCE, REQUEST_TAG, REPLY_TAG, FRAME_BYTES)

    def poll(self) -> bool:
        """Inline: answers what has come; true if something had."""
        return self.server.step()

    def ask(self, frames: Sequence[tuple[int, Array]], rooms: Sequence[int], *, name: str) -> list[Reply]:
        """The reply to each `(rank, frame)`, in order; `rooms`: most bytes of each reply's body. PeerError when late."""
        return self.post(frames, rooms, name=name).replies()

    def post(self, frames: Sequence[tuple[int, Array]], rooms: Sequence[int], *, name: str) -> _Posted:
        """Begins to send; `.replies()` waits for the answers. Posts to one owner are answered in the order they were made."""
        return _Posted(self, frames, rooms, name)

    def _send(self, rank: int, frame: Array, room: int) -> tuple[Any, Any, Array]:
        if len(frame) > FRAME_BYTES:
            raise PeerError(f"a request of {len(frame)} bytes, more than {FRAME_BYTES}")
        buffer = np.empty(HEAD_BYTES + room, np.uint8)
        came = self._comm.Irecv([buffer, self._mpi.BYTE], rank, REPLY_TAG)
        sent = self._comm.Isend([frame, self._mpi.BYTE], rank, REQUEST_TAG)
        self.sent += len(frame)
        return sent, came, buffer

    def barrier(self, name: str = "service") -> None:
        """All ranks have come; answers the others meanwhile."""
        request, pause = self._comm.Ibarrier(), _Pause(self.timeout_s)
        while not request.Test():
            if self.poll():
                pause.reset()
            elif pause.over():
                raise PeerError(f"rank {self.rank} waited {self.timeout_s:g} s in {name!r}")

    def close(self) -> None:
        """Collective. After it nobody is answered."""
        if self._comm == self._mpi.COMM_NULL:
            return
        self.barrier("close of the service")
        self.server.stop()
        self._comm.Barrier()
        self._comm.Free()


class _Posted:
    """Requests on their way and the replies that have come; at most IN_FLIGHT to one owner, the rest follow."""

    def __init__(self, service: Service, frames: Sequence[tuple[int, Array]], rooms: Sequence[int], name: str) -> None:
        self.service, self.frames, self.rooms, self.name = service, frames, rooms, name
        self.found: list[Reply | None] = [None] * len(frames)
        self.waiting: dict[int, deque[tuple[int, Any, Any, Array]]] = {}
        self.queue = deque(range(len(frames)))
        self.step()

    def step(self) -> bool:
        """Sends what may be sent, takes what has come; true if a reply had."""
        while self.queue and len(self.waiting.get(self.frames[self.queue[0]][0], ())) < IN_FLIGHT:
            at = self.queue.popleft()
            rank, frame = self.frames[at]
            self.waiting.setdefault(rank, deque()).append((at, *self.service._send(rank, frame, self.rooms[at])))
        came = False
        for rank in list(self.waiting):
            at, sent, reply, room = self.waiting[rank][0]
            if reply.Test() and sent.Test():
                self.found[at] = made = decode_reply(room)
                self.service.received += HEAD_BYTES + len(made.body)
                self.waiting[rank].popleft()
                if not self.waiting[rank]:
                    del self.waiting[rank]
                came = True
        return came

    def replies(self) -> list[Reply]:
        pause = _Pause(self.service.timeout_s)
        while self.queue or self.waiting:
            if self.step() | self.service.poll():
                pause.reset()
            elif pause.over():
                late = ", ".join(map(str, sorted(self.waiting)))
                raise PeerError(f"rank {self.service.rank} waited {self.service.timeout_s:g} s in {self.name!r} for the reply "
                                f"of rank {late}",
                                fix="is that rank alive, and does it call poll or run the service thread?")
        return self.found  # type: ignore[return-value]


class Answered:
    """Replies that are there already."""

    def __init__(self, found: list[Reply]) -> None:
        self.found = found

    def replies(self) -> list[Reply]:
        return self.found


class Direct:
    """The same for servers of one process (tests, logical replicas): a request is a call, under the server's lock."""

    mode = "direct"

    def __init__(self, rank: int, servers: Sequence[_native.Server], locks: Sequence[threading.Lock]) -> None:
        self.rank, self.size, self._servers, self._locks = rank, len(servers), servers, locks
        self.server = servers[rank]
        self.sent = self.received = 0

    def poll(self) -> bool:
        return False

    def ask(self, frames: Sequence[tuple[int, Array]], rooms: Sequence[int], *, name: str) -> list[Reply]:
        replies = []
        for (rank, frame), room in zip(frames, rooms, strict=True):
            with self._locks[rank]:
                found = self._servers[rank].handle(frame, HEAD_BYTES + room)
            if not found:
                raise PeerError(f"rank {rank} refused a frame in {name!r}")
            replies.append(decode_reply(np.frombuffer(found, np.uint8)))
            self.sent += len(frame)
            self.received += len(found)
        return replies

    def post(self, frames: Sequence[tuple[int, Array]], rooms: Sequence[int], *, name: str) -> Answered:
        return Answered(self.ask(frames, rooms, name=name))

    def close(self) -> None:
        return


class _Pause:
    """MPI moves a message only while it is looked at: yields for 2 ms after the last that came, then sleeps between."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.reset()

    def reset(self) -> None:
        self._began = time.monotonic()

    def over(self) -> bool:
        waited = time.monotonic() - self._began
        if waited < 2e-3:
            os.sched_yield()
            return False
        time.sleep(5e-5 if waited < 0.2 else 5e-4)
        return waited > self.timeout_s
