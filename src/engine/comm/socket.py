"""A Link over own sockets: reconnects, keeps frames for a silent peer, uses several rails, has a best-effort class.

Plain MPI ends or hangs with a broken connection; here a break is mended while messages wait in a bounded journal.
"""
from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np

from engine.comm.collect import MOVE, TALK, Collective
from engine.comm.flow import BULK, CLASSES, CONTROL, LOOSE, STATE, Channel, Options
from engine.comm.local import Letter, Mail
from engine.comm.wire import Address, Wires
from engine.errors import PeerError
from engine.types import Array, Link


class Arrival(Letter):
    """A receive whose wait is watched, as those over MPI are."""

    watch: Callable[[str], Any] = nullcontext

    def wait(self) -> None:
        if not self.test():
            with self.watch(self._name):
                super().wait()


class Socketlink(Collective):
    """Rank `rank` of `size` over sockets. `hosts`: this rank's address on each rail, the same number on every rank; `peers`:
    ranks it has connections to (None = all); `watch(name)`: entered around each wait; `token`: a number that only ranks of
    this job know, without which nobody is let in.

    Make it, exchange `addresses()` by whatever there is, then `start(all of them)`; `join(link, hosts)` does it over a Link.
    A send is done when the message is in the journal; it waits while that is full.
    """

    def __init__(self, rank: int, size: int, hosts: Sequence[str] = ("127.0.0.1",), *, timeout_s: float = 300.0,
                 options: Options | None = None, nodes: Sequence[int] | None = None, peers: Container[int] | None = None,
                 watch: Callable[[str], Any] = nullcontext, token: int = 0) -> None:
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self.sent = self.received = 0
        self.nodes: tuple[int, ...] = tuple(nodes or range(size))
        self.kept: dict[str, Any] = {}
        self._mail = Mail(None)
        self.hosts, self._watch = list(hosts), watch
        others = [r for r in range(size) if r != rank and (peers is None or r in peers)]
        self._wires = Wires(rank, others, hosts, options or Options(), self._deliver, self._mail.lock, token)

    def addresses(self) -> list[Address]:
        return self._wires.addresses()

    def start(self, peers: Sequence[Sequence[Address]]) -> None:
        self._wires.start(peers)

    def _deliver(self, peer: int, tag: int, data: Array) -> None:
        self._mail.boxes.setdefault((peer, self.rank, tag), deque()).append((0.0, data))

    def send(self, data: Array, to: int, *, name: str, tag: int = 0) -> Letter:
        return self.post(data, to, name=name, tag=tag, kind=CONTROL if tag == TALK else BULK if tag == MOVE else STATE)

    def post(self, data: Array, to: int, *, name: str, tag: int, kind: int = STATE) -> Letter:
        """As `send`, in a class of `comm.flow`: CONTROL, STATE, BULK, or LOOSE (may be dropped). One tag, one class."""
        body = np.frombuffer(data.tobytes(), np.uint8)
        if to == self.rank:
            with self._mail.lock:
                self._deliver(to, tag, body)
            return Letter()
        channel, end = self._wires.channels[to], time.monotonic() + self.timeout_s
        if kind != LOOSE and not channel.room:
            with self._watch(name):
                self._room(channel, to, name, end)
        with self._mail.lock:
            channel.post(body, kind, tag)
        self.sent += data.nbytes
        self._wires.wake()
        return Letter()

    def _room(self, channel: Channel, to: int, name: str, end: float) -> None:
        """Until the journal for a peer has room."""
        with self._mail.lock:
            while not channel.room:
                self._check()
                if time.monotonic() > end:
                    raise PeerError(f"rank {self.rank} waited {self.timeout_s:g} s in {name!r} for rank {to} to take "
                                    f"{channel.held} bytes", fix="raise the journal, or find out why that rank is silent")
                self._mail.lock.wait(0.1)

    def recv(self, out: Array, source: int, *, name: str, tag: int = 0) -> Letter:
        self.received += out.nbytes
        return self._want(out, source, name, tag)

    def _want(self, out: Array | None, source: int, name: str, tag: int) -> Letter:
        self._check()
        key = (source, self.rank, tag)
        letter = Arrival(self._mail, key, out, name, self.timeout_s)
        letter.watch = self._watch
        with self._mail.lock:
            self._mail.wanted.setdefault(key, deque()).append(letter)
        return letter

    def take(self, source: int, *, name: str, tag: int) -> Array:
        letter = self._want(None, source, name, tag)
        letter.wait()
        self.received += letter.data.nbytes
        return letter.data

    def probe(self, *, tag: int, source: int | None = None) -> tuple[int, int] | None:
        self._check()
        with self._mail.lock:
            for rank in range(self.size) if source is None else [source]:
                box = self._mail.boxes.get((rank, self.rank, tag))
                if box:
                    return rank, box[0][1].nbytes
        return None

    def _check(self) -> None:
        if self._wires.failed is not None:
            raise PeerError(f"rank {self.rank}: the thread of the sockets has failed: {self._wires.failed}")

    def counters(self) -> dict[int, dict[str, Any]]:
        """Traffic by peer: bytes and messages by class, chunks sent again, doubled, dropped, connections, bytes by rail."""
        with self._mail.lock:
            return {peer: {"sent": dict(zip(CLASSES, c.counts.sent, strict=True)),
                           "received": dict(zip(CLASSES, c.counts.received, strict=True)),
                           "messages": dict(zip(CLASSES, c.counts.messages, strict=True)), "resent": c.counts.resent,
                           "doubled": c.counts.doubled, "dropped": c.counts.dropped, "damaged": c.counts.damaged,
                           "connected": c.counts.connected, "rails": dict(c.counts.rails), "held": c.held}
                    for peer, c in self._wires.channels.items()}

    def flush(self, *, name: str = "flush") -> None:
        """Until every peer has everything that was sent to it."""
        end = time.monotonic() + self.timeout_s
        with self._mail.lock:
            while any(c.held for c in self._wires.channels.values()):
                self._check()
                if time.monotonic() > end:
                    slow = [peer for peer, c in self._wires.channels.items() if c.held]
                    raise PeerError(f"rank {self.rank} waited {self.timeout_s:g} s in {name!r} for ranks {slow}")
                self._mail.lock.wait(0.05)

    def close(self) -> None:
        """Sends what is left, then ends the connections; a peer that does not take it is given up after 5 s."""
        self.timeout_s = min(self.timeout_s, 5.0)
        with suppress(PeerError):
            self.flush()
        self._wires.close()


def join(link: Link, hosts: Sequence[str], *, nodes: Sequence[int] | None = None, **options: Any) -> Socketlink:
    """A Socketlink of the same ranks as `link`, which carries the addresses (collective). `nodes`: given, ranks of other
    nodes alone are connected."""
    token = link.bcast(secrets.randbits(63), name="token of sockets")
    peers = None if nodes is None else {r for r, node in enumerate(nodes) if node != nodes[link.rank]}
    made = Socketlink(link.rank, link.size, hosts, nodes=nodes or link.nodes, peers=peers, token=token, **options)
    table = link.gather(made.addresses(), name="addresses of sockets")
    made.start(link.bcast(table, name="addresses of sockets"))
    return made
