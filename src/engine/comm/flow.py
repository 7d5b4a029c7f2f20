"""What goes to one peer and in which order: chunks, credits, priorities, a bounded journal, two rails. No sockets here.

A message is cut into chunks. Reliable chunks carry a sequence number and stay in the journal until the peer has told that
they came; after a broken connection the rest is sent again, and what came twice is dropped. The peer's credit bounds what
is under way. The next chunk is always of the most urgent class, so control overtakes bulk between two chunks. A rail asks
for a chunk when it can take one, so a faster rail carries more; a lost rail's chunks go over another.
"""
from __future__ import annotations

import struct
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.errors import PeerError
from engine.kernels import _native
from engine.types import Array

CONTROL, STATE, BULK, LOOSE = range(4)  # urgency: control before state before bulk; loose = best effort
CLASSES = ("control", "state", "bulk", "loose")
DATA, ACK, HELLO = 1, 2, 3
HEAD = struct.Struct("<IBBHQQQQII")  # magic, type, class, tag, seq, message, offset, total, length, crc of the payload
MAGIC = 0x454E4731
EXTRA = 64  # sequence numbers beyond the gap that one acknowledgement lists


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes in bytes. `chunk`: unit of priority; `window`: credit given to a peer; `rail`: under way on one rail;
    `journal`: queued and unacknowledged together, beyond which a sender waits; `loose`: best-effort bytes kept, the oldest
    are dropped. `silent_s`: a connection without a sign of life for so long is broken and made anew."""

    chunk: int = 1 << 18
    window: int = 1 << 26
    rail: int = 1 << 22
    journal: int = 1 << 28
    loose: int = 1 << 20
    silent_s: float = 2.0


@dataclass(slots=True)
class Chunk:
    """A part of a message: `total` bytes from `offset` on are `data`."""

    kind: int
    tag: int
    message: int
    offset: int
    total: int
    data: Array
    seq: int = 0
    rail: int = -1

    @property
    def weight(self) -> int:
        """What it counts in the journal: with its header, so that a message without bytes is not nothing."""
        return len(self.data) + HEAD.size

    def head(self) -> bytes:
        crc = _native.crc32c(self.data) if len(self.data) else 0
        return HEAD.pack(MAGIC, DATA, self.kind, self.tag, self.seq, self.message, self.offset, self.total, len(self.data), crc)


@dataclass(slots=True)
class Counts:
    """Traffic with one peer, by class: payload bytes and messages; and what went wrong."""

    sent: list[int] = field(default_factory=lambda: [0] * 4)
    received: list[int] = field(default_factory=lambda: [0] * 4)
    messages: list[int] = field(default_factory=lambda: [0] * 4)
    resent: int = 0
    doubled: int = 0
    dropped: int = 0
    damaged: int = 0
    connected: int = 0
    rails: dict[int, int] = field(default_factory=dict)


class Channel:
    """Both directions with one peer. Not for two threads at once."""

    def __init__(self, peer: int, options: Options) -> None:
        self.peer, self.options, self.counts = peer, options, Counts()
        self.queues: list[deque[Chunk]] = [deque() for _ in range(3)]
        self.again: deque[Chunk] = deque()
        self.journal: OrderedDict[int, Chunk] = OrderedDict()
        self.loose: deque[Chunk] = deque()
        self.held = self.flying = self.loose_bytes = 0
        self.credit = options.window
        self.on_rail: dict[int, int] = {}
        self._seq, self._number = 0, [0] * 4
        self.came, self._beyond = 0, set[int]()  # all below `came` have arrived, and these
        self._parts: dict[tuple[int, int], list[Any]] = {}
        self._next, self._whole = [0] * 3, [dict[int, tuple[int, Array]]() for _ in range(3)]

    # --- out

    @property
    def room(self) -> bool:
        """Whether another message may be posted."""
        return self.held < self.options.journal

    def post(self, data: Array, kind: int, tag: int) -> None:
        """Takes a message, uint8 `(n,)`, which must not change until it is acknowledged (`held` falls)."""
        number, total = self._number[kind], len(data)
        self._number[kind] += 1
        if kind == LOOSE:
            self.loose.append(Chunk(kind, tag, number, 0, total, data))
            self.loose_bytes += total
            while self.loose_bytes > self.options.loose and len(self.loose) > 1:
                self.loose_bytes -= len(self.loose.popleft().data)
                self.counts.dropped += 1
            return
        step = self.options.chunk
        for at in range(0, max(1, total), step):
            chunk = Chunk(kind, tag, number, at, total, data[at : at + step])
            self.queues[kind].append(chunk)
            self.held += chunk.weight
        self.counts.messages[kind] += 1

    def next(self, rail: int) -> Chunk | None:
        """The chunk to send next on this rail, or None while its window or the peer's credit is used up."""
        if self.on_rail.get(rail, 0) >= self.options.rail:
            return None
        chunk = None
        if self.again:
            chunk = self.again.popleft()
            self.counts.resent += 1
        elif self.flying < self.credit or not self.journal:
            queue = next((q for q in self.queues if q), None)
            if queue is not None:
                chunk = queue.popleft()
                chunk.seq, self._seq = self._seq, self._seq + 1
                self.counts.sent[chunk.kind] += len(chunk.data)
        if chunk is None:
            return None
        chunk.rail = rail
        self.journal[chunk.seq] = chunk
        self.flying += len(chunk.data)
        self.on_rail[rail] = self.on_rail.get(rail, 0) + len(chunk.data)
        self.counts.rails[rail] = self.counts.rails.get(rail, 0) + len(chunk.data)
        return chunk

    def next_loose(self) -> Chunk | None:
        """The oldest best-effort message that has not been dropped."""
        if not self.loose:
            return None
        chunk = self.loose.popleft()
        self.loose_bytes -= len(chunk.data)
        self.counts.sent[LOOSE] += len(chunk.data)
        self.counts.messages[LOOSE] += 1
        return chunk

    def acknowledged(self, came: int, beyond: Iterable[int], credit: int) -> None:
        """The peer has all below `came`, and these; it gives so much credit."""
        self.credit = credit
        done = [seq for seq in self.journal if seq < came]  # the journal is nearly in order: rails apart
        for seq in [*done, *(s for s in beyond if s in self.journal)]:
            chunk = self.journal.pop(seq, None)
            if chunk is not None:
                self._landed(chunk)
        if self.again:
            seen = set(beyond)
            kept = [c for c in self.again if c.seq >= came and c.seq not in seen]
            self.held -= sum(c.weight for c in self.again) - sum(c.weight for c in kept)
            self.again = deque(kept)

    def _landed(self, chunk: Chunk) -> None:
        size = len(chunk.data)
        self.held -= chunk.weight
        self.flying -= size
        self.on_rail[chunk.rail] -= size

    def lost(self, rail: int) -> None:
        """A rail is gone: what it carried and nobody acknowledged goes again, before anything new."""
        gone = [chunk for chunk in self.journal.values() if chunk.rail == rail]
        for chunk in gone:
            del self.journal[chunk.seq]
            self.flying -= len(chunk.data)
            self.on_rail[rail] -= len(chunk.data)
        self.again.extendleft(reversed(gone))

    # --- in

    def place(self, chunk: Chunk, size: int) -> Array | None:
        """Where the payload of an arriving chunk goes, uint8 `(size,)`; None where it has come before."""
        if chunk.kind == LOOSE:
            return np.empty(size, np.uint8)
        if chunk.seq < self.came or chunk.seq in self._beyond:
            return None
        if chunk.offset + size > chunk.total:
            raise PeerError(f"rank {self.peer} sent a chunk past the end of its message")
        parts = self._parts.setdefault((chunk.kind, chunk.message), [np.empty(chunk.total, np.uint8), 0])
        whole: Array = parts[0]
        return whole[chunk.offset : chunk.offset + size]

    def arrived(self, chunk: Chunk, data: Array | None, crc: int) -> list[tuple[int, Array]]:
        """Enters a chunk whose payload is in place; the messages it made deliverable, (tag, bytes), in the order posted."""
        if data is None or (chunk.kind != LOOSE and (chunk.seq < self.came or chunk.seq in self._beyond)):
            self.counts.doubled += 1
            return []
        if len(data) and _native.crc32c(data) != crc:
            self.counts.damaged += 1
            raise PeerError(f"rank {self.peer} sent a chunk whose checksum is wrong")
        self.counts.received[chunk.kind] += len(data)
        if chunk.kind == LOOSE:
            return [(chunk.tag, data)]
        self._beyond.add(chunk.seq)
        while self.came in self._beyond:
            self._beyond.remove(self.came)
            self.came += 1
        parts = self._parts[chunk.kind, chunk.message]
        parts[1] += len(data)
        if parts[1] < chunk.total:
            return []
        del self._parts[chunk.kind, chunk.message]
        whole = self._whole[chunk.kind]
        whole[chunk.message] = (chunk.tag, parts[0])
        ready = []
        while self._next[chunk.kind] in whole:
            ready.append(whole.pop(self._next[chunk.kind]))
            self._next[chunk.kind] += 1
        return ready

    def ack(self) -> bytes:
        """What has come, as a frame."""
        beyond = np.array(sorted(self._beyond)[:EXTRA], np.uint64).tobytes()
        return HEAD.pack(MAGIC, ACK, 0, 0, self.came, self.options.window, 0, 0, len(beyond), 0) + beyond


def parse(head: bytes) -> tuple[int, Chunk, int, int]:
    """(type, chunk without data, payload bytes, crc) of a header; PeerError where it is none."""
    magic, what, kind, tag, seq, message, offset, total, length, crc = HEAD.unpack(head)
    if magic != MAGIC or what not in (DATA, ACK, HELLO) or kind > LOOSE:
        raise PeerError(f"expected a frame of the engine's transport, found {head[:8].hex()}")
    return what, Chunk(kind, tag, message, offset, total, np.empty(0, np.uint8), seq), length, crc
