"""The other end: a program sends rows, keeps them until they are taken, and goes on after any break without loss or repeat."""
from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque

import numpy as np

from engine.errors import PeerError
from engine.source.feed import batched
from engine.source.listen import FRAME, HELLO, MAGIC, endpoint
from engine.source.stream import pack
from engine.types import Array


class Sender:
    """Sends rows to `tcp://HOST:PORT` or `unix://PATH` under a name of its own; one thread.

    >>> with Sender("tcp://127.0.0.1:7777", "sensor-17") as out:
    ...     out.send(x, y)

    `window_bytes` bounds what is sent and not yet taken: `send` waits there, PeerError after `timeout_s` without progress.
    """

    def __init__(self, address: str, name: str, *, window_bytes: int = 8 << 20, timeout_s: float = 60.0) -> None:
        self.address, self.name, self.timeout_s, self._window = address, name, timeout_s, window_bytes
        self._held: deque[tuple[int, int, bytes]] = deque()  # first row, row after, bytes to send
        self._sent = self.taken = self.rows = self._size = 0
        self._socket: socket.socket | None = None
        self._answer = b""

    def send(self, x: Array, y: Array) -> None:
        """Rows `x` (n, d) and labels `y` (n,)."""
        body = pack(batched((x, y))).tobytes()
        self._put(len(np.atleast_1d(y)), FRAME.pack(MAGIC, len(body), self.rows) + body)

    def lines(self, text: bytes) -> None:
        """Whole lines of text, for a listener of csv or libsvm; one call is sent again as a whole or by lines."""
        for line in text.splitlines(keepends=True):
            self._put(1, line)

    def _put(self, rows: int, data: bytes) -> None:
        self._held.append((self.rows, self.rows + rows, data))
        self.rows += rows
        self._size += len(data)
        end, before = time.monotonic() + self.timeout_s, self.taken
        self._push()
        while self._size > self._window:
            self._push(0.05)
            if self.taken > before:
                end, before = time.monotonic() + self.timeout_s, self.taken
            if time.monotonic() > end:
                raise PeerError(f"{self.address}: no rows taken for {self.timeout_s:g} s, {self.rows - self.taken} waiting",
                                fix="is the run alive, is its spool full?")

    def flush(self) -> None:
        """Returns when all rows are taken (and durable, where the listener has a spool)."""
        end, before = time.monotonic() + self.timeout_s, self.taken
        while self.taken < self.rows:
            self._push(0.05)
            if self.taken > before:
                end, before = time.monotonic() + self.timeout_s, self.taken
            if time.monotonic() > end:
                raise PeerError(f"{self.address}: {self.rows - self.taken} rows not taken for {self.timeout_s:g} s",
                                fix="is the run alive, is its spool full?")

    def _push(self, wait_s: float = 0.0) -> None:
        try:
            if self._socket is None:
                self._connect()
            assert self._socket is not None
            for _, after, data in list(self._held):
                if after > self._sent:
                    self._write(data)
                    self._sent = after
            self._listen(wait_s)
        except OSError:
            if self._socket is not None:
                self._socket.close()
            self._socket = None
            time.sleep(max(wait_s, 0.01))

    def _connect(self) -> None:
        family, at = endpoint(self.address)
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.settimeout(5.0)
        self._socket.connect(at)
        self._socket.sendall(HELLO + f"{self.name} {self.taken}\n".encode())
        self._answer = b""
        while b"\n" not in self._answer:
            part = self._socket.recv(4096)
            if not part:
                raise ConnectionResetError
            self._answer += part
        self._told()
        if self.taken > self.rows:
            raise PeerError(f"{self.address}: it has {self.taken} rows of {self.name!r}, of which {self.rows} are known here",
                            fix="give each run of a sender its own name, or go on from that count")
        self._sent = self.taken

    def _write(self, data: bytes) -> None:
        """Sends all of it, taking answers meanwhile so that neither side waits for the other for ever."""
        assert self._socket is not None
        view, end = memoryview(data), time.monotonic() + self.timeout_s
        self._socket.setblocking(False)
        while len(view):
            readable, writable, _ = select.select([self._socket], [self._socket], [], 0.05)
            if readable:
                self._listen(0.0)
            if writable:
                with contextlib.suppress(BlockingIOError):
                    view = view[self._socket.send(view) :]
            if time.monotonic() > end:
                raise PeerError(f"{self.address}: takes nothing for {self.timeout_s:g} s", fix="is its spool full?")

    def _listen(self, wait_s: float) -> None:
        assert self._socket is not None
        if select.select([self._socket], [], [], wait_s)[0]:
            part = self._socket.recv(4096)
            if not part:
                raise ConnectionResetError
            self._answer += part
            self._told()

    def _told(self) -> None:
        whole, _, self._answer = self._answer.rpartition(b"\n")
        if whole:
            self.taken = max(self.taken, int(whole.split(b"\n")[-1]))
        while self._held and self._held[0][1] <= self.taken:
            self._size -= len(self._held.popleft()[2])

    def close(self) -> None:
        """Waits until all rows are taken, then leaves."""
        self.flush()
        if self._socket is not None:
            self._socket.close()

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.close()
