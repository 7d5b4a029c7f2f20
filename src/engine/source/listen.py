"""Sockets: rows that programs send over TCP or a unix socket, as lines of text or as length-prefixed frames of arrays.

A sender may first name itself, `#engine NAME\\n`, and is then told how many of its lines (or rows, for frames) are taken:
`COUNT\\n`, at once and after each batch, once they are in the spool where there is one. It goes on from there after a
break, so each line is taken once. A sender without a name (nc, a shell) is read as it comes and told nothing.
A frame is `EROW` | bytes of the body u32 | number of its first row u64 | body (`engine.source.stream.pack`).
"""
from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from engine.errors import DataError, StoreError
from engine.source.feed import At, Lines, Portion
from engine.source.stream import unpack
from engine.types import Batch, Schema, join

HELLO = b"#engine "
FRAME = struct.Struct("<4sIQ")
MAGIC = b"EROW"
READ_BYTES = 1 << 20
FRAME_BYTES_MAX = 1 << 28
HELD_BYTES = 4 << 20  # handed out, not being written yet
GROUP_BYTES, GROUP_MOST_S, GROUP_PART = 1 << 20, 0.02, 2  # rows wait for others, to share their record and sync, until so
# many have come, or for twice as long as the last writing took
WRITE_S = 60.0


class Keep(Protocol):
    """What a spool has to offer (engine.store.spool.Spool)."""

    next: int
    senders: dict[str, int]

    @property
    def full(self) -> bool: ...
    def extend(self, batches: Sequence[Batch], *, sender: str = "", count: int = 0) -> None: ...
    def sync(self) -> None: ...
    def read(self, row: int) -> Iterator[tuple[int, Batch]]: ...
    def trim(self, row: int) -> None: ...
    def close(self) -> None: ...


class Talk:
    """One connection: what it has sent that is not taken yet, who it is, how far it is."""

    def __init__(self, end: socket.socket, peer: str) -> None:
        self.end, self.peer, self.data, self.name, self.count, self.begun = end, peer, bytearray(), "", 0, False
        self.read_bytes, self.closed, self.owed = 0, False, False


def endpoint(address: str) -> tuple[socket.AddressFamily, Any]:
    """Family and address of `tcp://HOST:PORT` or `unix://PATH`."""
    kind, _, rest = address.partition("://")
    if kind == "unix" and rest:
        return socket.AF_UNIX, rest
    host, _, port = rest.rpartition(":")
    if kind != "tcp" or not port.isdigit():
        raise DataError("expected tcp://HOST:PORT or unix://PATH, found another address", where=address, fix="tcp://0.0.0.0:7777")
    return socket.AF_INET6 if host.startswith("[") else socket.AF_INET, (host.strip("[]") or "0.0.0.0", int(port))


class Listener:
    """Everything that is sent to one address. `lines` None: frames. Rows are numbered as they are taken."""

    def __init__(self, address: str, lines: Lines | None, stats: dict[str, Any], *, name: str = "",
                 spool: Keep | None = None, schema: Schema | None = None) -> None:
        self.address, self.name, self.ended = address, name or address, False
        self.spool, self._lines, self._stats, self._schema = spool, lines, stats, schema
        self._senders: dict[str, int] = {} if spool is None else spool.senders
        self._rows = 0 if spool is None else spool.next
        self._replay: Iterator[tuple[int, Batch]] | None = None
        self._held: list[tuple[Batch | None, Talk, int]] = []  # taken, not in the spool yet
        self._held_bytes, self._held_s, self._wrote_s = 0, 0.0, 0.0  # since when; how long the last writing took
        self._writer = None if spool is None else ThreadPoolExecutor(1, "spool")
        self._writing: Future[list[tuple[Talk, int]]] | None = None
        self._talks: dict[int, Talk] = {}
        self._ready: deque[Talk] = deque()
        self._bind()

    def _bind(self) -> None:
        family, at = endpoint(self.address)
        self._door = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_UNIX:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(at)
        else:
            self._door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._door.bind(at)
        except OSError as error:
            raise DataError(f"cannot listen: {error.strerror}", where=self.address,
                            fix="choose another port" if error.errno == errno.EADDRINUSE else "check the address") from error
        self._door.listen(64)
        self._door.setblocking(False)
        self._select = selectors.DefaultSelector()
        self._select.register(self._door, selectors.EVENT_READ)

    @property
    def port(self) -> int:
        return int(self._door.getsockname()[1])

    def seek(self, at: At) -> None:
        """Rows from `at` on that the spool holds come first; without a spool they are with nobody any more."""
        if self.spool is not None and at[1] < self.spool.next:
            self._replay = self.spool.read(at[1])
        elif self.spool is None:
            self._rows = at[1]

    def poll(self) -> Portion | None:
        if self._replay is not None:
            found = next(self._replay, None)
            if found is not None:
                return Portion(found[1], np.arange(found[0], found[0] + len(found[1]) + 1))
            self._replay = None
        if self.spool is not None:
            self._settle()
            if self.spool.full or self._held_bytes >= HELD_BYTES:
                return None  # the sender's own buffers fill, and it waits
        for key, _ in self._select.select(0):
            if key.fileobj is self._door:
                self._accept()
            else:
                self._receive(self._talks[key.fd])
        return self._taken()

    def _accept(self) -> None:
        try:
            end, peer = self._door.accept()
        except OSError:
            return
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
        self._talks[end.fileno()] = Talk(end, f"{peer}" if peer else "unix socket")
        self._select.register(end, selectors.EVENT_READ)

    def _receive(self, talk: Talk) -> None:
        if len(talk.data) >= READ_BYTES and talk in self._ready:
            return  # not taken yet: let the sender wait
        try:
            part = talk.end.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        talk.data += part
        if not part:
            talk.closed = True
            self._select.unregister(talk.end)
        if talk not in self._ready:
            self._ready.append(talk)

    def _taken(self) -> Portion | None:
        """The rows of one connection that has any."""
        for _ in range(len(self._ready)):
            talk = self._ready.popleft()
            found = self._rows_of(talk)
            if talk.closed:
                if found is not None:
                    self._ready.append(talk)
                else:
                    self._hang_up(talk)
            if found is not None:
                if not talk.closed and talk.data:
                    self._ready.append(talk)
                return found
        return None

    def _hang_up(self, talk: Talk) -> None:
        self._talks = {fd: other for fd, other in self._talks.items() if other is not talk}
        talk.end.close()

    def _rows_of(self, talk: Talk) -> Portion | None:
        if not talk.begun and not self._greet(talk):
            return None
        batch, count = self._frames(talk) if self._lines is None else self._text(talk)
        if batch is None and not count:
            return None
        talk.count += count
        if talk.name:
            self._senders[talk.name] = talk.count
        if self.spool is not None:
            self._held_s = self._held_s if self._held else time.monotonic()
            self._held.append((batch, talk, talk.count))
            self._held_bytes += 0 if batch is None else sum(
                data.nbytes for data in (batch.x, batch.keys, batch.values, batch.y) if data is not None)
            self._settle()
        elif talk.name:
            self._tell(talk, talk.count)
        if batch is None:
            return None
        before, self._rows = self._rows, self._rows + len(batch)
        return Portion(batch, np.arange(before, self._rows + 1))

    def _greet(self, talk: Talk) -> bool:
        """Whether the connection's first bytes, perhaps its name, are understood."""
        head = bytes(talk.data[: len(HELLO)])
        if head == HELLO[: len(head)] and not talk.closed:
            line, end, _ = bytes(talk.data[:256]).partition(b"\n")
            if not end:
                return False
            del talk.data[: len(line) + 1]
            name, _, given = line[len(HELLO) :].decode("utf-8", "replace").strip().partition(" ")
            talk.name = name
            talk.count = self._senders.get(name, 0 if self.spool is not None or not given.isdigit() else int(given))
            self._tell(talk, talk.count)
        talk.begun = True
        return True

    def _tell(self, talk: Talk, count: int) -> None:
        with contextlib.suppress(OSError):  # where it has gone, it asks when it comes back
            talk.end.send(f"{count}\n".encode())

    def _settle(self, *, now: bool = False) -> None:
        """Starts writing what is held when the last writing is done, and tells senders what that made durable.

        So the faster rows come, the more of them share a record and a sync; a few wait a little, except `now`.
        """
        if self._writing is not None and self._writing.done():
            for talk, count in self._writing.result():
                self._tell(talk, count)
            self._writing = None
        ripe = now or self._held_bytes >= GROUP_BYTES or (
            time.monotonic() - self._held_s >= min(GROUP_MOST_S, GROUP_PART * self._wrote_s))
        if self._writing is None and self._held and ripe and self._writer is not None:
            held, self._held, self._held_bytes = self._held, [], 0
            self._writing = self._writer.submit(self._write, held)

    def _write(self, held: list[tuple[Batch | None, Talk, int]]) -> list[tuple[Talk, int]]:
        """In the writing thread: one record for consecutive rows of a sender, one sync for all."""
        assert self.spool is not None
        began = time.monotonic()
        told: dict[int, tuple[Talk, int]] = {}
        for _, group in groupby(held, key=lambda one: id(one[1])):
            part = list(group)
            talk, count = part[-1][1], part[-1][2]
            batches = [batch for batch, _, _ in part if batch is not None]
            if batches:
                self.spool.extend(batches, sender=talk.name, count=count)
            if talk.name:
                told[id(talk)] = (talk, count)
        self.spool.sync()
        self._wrote_s = time.monotonic() - began
        return list(told.values())

    def settle(self) -> None:
        """Returns when all rows that were handed out are durable: a cursor may then name them."""
        while self._held or self._writing is not None:
            if self._writing is not None:
                wait([self._writing], timeout=WRITE_S)
                if not self._writing.done():
                    raise StoreError(f"writing rows to the spool takes more than {WRITE_S:g} s", where=self.name,
                                     fix="check the disk")
            self._settle(now=True)

    def _text(self, talk: Talk) -> tuple[Batch | None, int]:
        assert self._lines is not None
        cut = len(talk.data) if talk.closed and not talk.name else talk.data.rfind(b"\n") + 1
        if not cut:
            return None, 0
        data = bytes(memoryview(talk.data)[:cut])
        del talk.data[:cut]
        where, base = f"{self.name} from {talk.name or talk.peer}", talk.read_bytes
        talk.read_bytes += cut
        count, skip = data.count(b"\n"), 0
        if base == 0 and self._lines.plan.header and talk.count == 0:
            skip = self._lines.body(data, where)
        found = self._lines.rows(data[skip:], where, base + skip)
        return (None if found is None else found.batch), count

    def _frames(self, talk: Talk) -> tuple[Batch | None, int]:
        """The rows of all whole frames that have come, as one batch."""
        parts, at, given = [], 0, talk.count
        with memoryview(talk.data) as data:
            while len(data) - at >= FRAME.size:
                magic, size, first = FRAME.unpack_from(data, at)
                if magic != MAGIC or size > FRAME_BYTES_MAX:
                    raise DataError(f"expected a frame `EROW`, found {bytes(data[at : at + 16])!r}",
                                    where=f"{self.name} from {talk.name or talk.peer}",
                                    fix="send with engine.source.send.Sender, or say data.format=csv")
                if len(data) - at < FRAME.size + size:
                    break
                batch = unpack(np.frombuffer(data[at + FRAME.size : at + FRAME.size + size], np.uint8).copy())
                self._fits(batch, talk)
                at += FRAME.size + size
                if talk.name and first > given:
                    raise DataError(f"expected row {given} of the sender, found row {first}: rows between are lost",
                                    where=f"{self.name} from {talk.name}", fix="send from the count that is told")
                if talk.name:
                    batch = batch.slice(min(len(batch), given - first), len(batch))
                if len(batch):
                    parts.append(batch)
                    given += len(batch)
        del talk.data[:at]
        self._stats["rows"] += given - talk.count
        return (join(parts) if parts else None), given - talk.count

    def _fits(self, batch: Batch, talk: Talk) -> None:
        schema = self._schema
        width = 0 if batch.x is None else batch.x.shape[1]
        if schema is not None and (batch.sparse != schema.sparse or (not schema.sparse and width != schema.width)):
            expected, found = (f"{w} columns" if w else "sparse rows" for w in (0 if schema.sparse else schema.width, width))
            raise DataError(f"expected rows of {expected}, found {found}: the sender's columns have changed",
                            where=f"{self.name} from {talk.name or talk.peer}",
                            fix="start a new run for the new columns; rows not acknowledged are still with the sender")

    def committed(self, at: At) -> None:
        if self.spool is not None:
            self.spool.trim(at[1])

    def close(self) -> None:
        self.settle()
        for talk in self._talks.values():
            talk.end.close()
        self._select.close()
        self._door.close()
        if self.spool is not None and self._writer is not None:
            self._writer.shutdown()
            self.spool.close()
