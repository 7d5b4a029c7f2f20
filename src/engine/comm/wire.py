"""Sockets of one rank: a thread that carries chunks between the channels and the peers, and mends what breaks.

TCP for what is reliable and for acknowledgements, one connection a rail and peer; UDP for best-effort messages that fit a
datagram. The higher rank connects, and connects again after a break; the channel then sends what was not acknowledged.
"""
from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from engine.comm.flow import ACK, DATA, HEAD, HELLO, LOOSE, MAGIC, Channel, Chunk, Options, parse
from engine.errors import PeerError
from engine.types import Array

Address = tuple[str, int]
DATAGRAM = 1400
TICK_S, ALIVE_S, RETRY_S, MOST_RETRY_S = 0.05, 0.5, 0.02, 0.5


class Wire:
    """One connection: what is being read, what is being written."""

    def __init__(self, sock: socket.socket, rail: int, peer: int = -1) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self.rail, self.peer = sock, rail, peer
        self.head, self.got = bytearray(HEAD.size), 0
        self.body, self.at = memoryview(b""), 0
        self.frame: tuple[int, Chunk, int, int] | None = None
        self.out: list[Any] = []
        self.greeted = self.ack = False
        self.heard_s = self.told_s = time.monotonic()


class Wires:
    """All connections of one rank to its `peers`. `hosts`: the local address of each rail; `token` is told in each greeting.
    `deliver(peer, tag, data)` is called by the thread of this object for each message that came, under `lock`, which is
    notified whenever something moved."""

    def __init__(self, rank: int, peers: Sequence[int], hosts: Sequence[str], options: Options,
                 deliver: Callable[[int, int, Array], None], lock: threading.Condition, token: int = 0) -> None:
        self.rank, self.token, self.options, self.deliver, self.lock = rank, token, options, deliver, lock
        self.channels = {r: Channel(r, options) for r in peers}
        self.hosts = list(hosts)
        self._listeners = [socket.create_server((host, 0), backlog=len(peers) + 1) for host in hosts]
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind((hosts[0], 0))
        self._wake, self._woken = socket.socketpair()
        self._select = selectors.DefaultSelector()
        for sock in (*self._listeners, self._datagrams, self._woken):
            sock.setblocking(False)
            self._select.register(sock, selectors.EVENT_READ)
        self.wires: dict[tuple[int, int], Wire] = {}
        self._strangers: set[Wire] = set()
        self._dialled: dict[tuple[int, int], Wire] = {}
        self._retry: dict[tuple[int, int], tuple[float, float]] = {}
        self._peers: list[list[Address]] = []
        self.failed: Exception | None = None
        self._closing, self._asleep = False, False
        self._thread = threading.Thread(target=self._run, name="wires", daemon=True)

    def addresses(self) -> list[Address]:
        """Where this rank listens: each rail's, then that for datagrams."""
        return [s.getsockname()[:2] for s in (*self._listeners, self._datagrams)]

    def start(self, peers: Sequence[Sequence[Address]]) -> None:
        """`peers[r]`: what `addresses` gave on rank r."""
        self._peers = [[(host, port) for host, port in one] for one in peers]
        self._thread.start()

    def wake(self) -> None:
        """Something was posted."""
        if self._asleep:
            self._asleep = False
            self._wake.send(b"\0")

    def close(self) -> None:
        self._closing = True
        self._wake.send(b"\0")
        if self._thread.is_alive():
            self._thread.join(5)
        for sock in (*self._listeners, self._datagrams, self._wake, self._woken, *(w.sock for w in self.wires.values()),
                     *(w.sock for w in self._strangers)):
            sock.close()
        self._select.close()

    def cut(self, peer: int, rail: int) -> None:
        """Breaks a connection, as a fault would (for tests)."""
        wire = self.wires.get((peer, rail))
        if wire is not None:
            with suppress(OSError):  # the other side may have cut it first
                wire.sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except Exception as error:
            with self.lock:
                self.failed = error
                self.lock.notify_all()

    def _turn(self) -> None:
        self._asleep = True
        events = self._select.select(TICK_S if not self._urgent() else 0)
        self._asleep = False
        for key, _ in events:
            sock: Any = key.fileobj
            wire: Any = key.data
            if sock in self._listeners:
                self._accept(sock)
            elif sock is self._datagrams:
                self._datagram()
            elif sock is self._woken:
                self._woken.recv(4096)
            elif wire in self._dialled.values():
                self._dialled_up(wire)
            else:
                self._read(wire)
        self._mend()
        for one in list(self.wires.values()):
            self._write(one)
        self._send_loose()

    def _urgent(self) -> bool:
        return any(c.loose for c in self.channels.values())

    def _accept(self, listener: socket.socket) -> None:
        sock, _ = listener.accept()
        wire = Wire(sock, self._listeners.index(listener))
        self._strangers.add(wire)
        self._select.register(sock, selectors.EVENT_READ, wire)

    def _mend(self) -> None:
        """Connects where a connection is missing; breaks those that have fallen silent."""
        now = time.monotonic()
        for wire in list(self.wires.values()):
            if now - wire.heard_s > self.options.silent_s:
                self._broken(wire)
        for peer in (p for p in self.channels if p < self.rank):
            for rail in range(len(self._listeners)):
                due, pause = self._retry.get((peer, rail), (0.0, RETRY_S))
                if (peer, rail) in self.wires or (peer, rail) in self._dialled or now < due:
                    continue
                self._retry[peer, rail] = now + pause, min(2 * pause, MOST_RETRY_S)
                self._dial(peer, rail)
        for wire in [w for w in self._strangers if now - w.heard_s > self.options.silent_s]:
            self._broken(wire)

    def _dial(self, peer: int, rail: int) -> None:
        """Begins to connect; a rail that does not answer holds up nothing else."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.bind((self.hosts[rail], 0))
            wire = Wire(sock, rail, peer)
            sock.connect_ex(self._peers[peer][rail])
        except OSError:
            sock.close()
            return
        self._strangers.add(wire)
        self._dialled[peer, rail] = wire
        self._select.register(sock, selectors.EVENT_WRITE, wire)

    def _dialled_up(self, wire: Wire) -> None:
        """A connection that this rank began is made, or has failed."""
        del self._dialled[wire.peer, wire.rail]
        self._strangers.discard(wire)
        if wire.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._select.unregister(wire.sock)
            wire.sock.close()
            return
        self._select.modify(wire.sock, selectors.EVENT_READ, wire)
        self._greet(wire)
        self._enter(wire)

    def _greet(self, wire: Wire) -> None:
        came = self.channels[wire.peer].came
        window, token = self.options.window, self.token
        wire.out.append(memoryview(HEAD.pack(MAGIC, HELLO, 0, self.rank, came, window, wire.rail, token, 0, 0)))

    def _enter(self, wire: Wire) -> None:
        old = self.wires.get((wire.peer, wire.rail))
        if old is not None:
            self._broken(old)
        self.wires[wire.peer, wire.rail] = wire
        self.channels[wire.peer].counts.connected += 1

    def _broken(self, wire: Wire) -> None:
        self._select.unregister(wire.sock)
        wire.sock.close()
        self._strangers.discard(wire)
        if self._dialled.get((wire.peer, wire.rail)) is wire:
            del self._dialled[wire.peer, wire.rail]
        if self.wires.get((wire.peer, wire.rail)) is wire:
            del self.wires[wire.peer, wire.rail]
            with self.lock:
                self.channels[wire.peer].lost(wire.rail)

    def _read(self, wire: Wire) -> None:
        for _ in range(64):
            try:
                if wire.frame is None:
                    got = wire.sock.recv_into(memoryview(wire.head)[wire.got :])
                    wire.got += got
                else:
                    got = wire.sock.recv_into(wire.body[wire.at :])
                    wire.at += got
            except BlockingIOError:
                return
            except OSError:
                got = 0
            if not got:
                self._broken(wire)
                return
            wire.heard_s = time.monotonic()
            if wire.frame is None and wire.got == HEAD.size:
                wire.frame, wire.got = parse(bytes(wire.head)), 0
                wire.body, wire.at = memoryview(bytearray(wire.frame[2])), 0
            if wire.frame is not None and wire.at == len(wire.body):
                frame, wire.frame = wire.frame, None
                if not self._frame(wire, *frame):
                    return

    def _frame(self, wire: Wire, what: int, chunk: Chunk, size: int, crc: int) -> bool:
        """Acts on a whole frame; False where the connection is gone."""
        if what == HELLO:
            if chunk.total != self.token or chunk.tag not in self.channels:
                self._broken(wire)
                return False
            if wire.peer < 0:
                wire.peer, wire.rail = chunk.tag, chunk.offset
                self._strangers.discard(wire)
                self._greet(wire)
                self._enter(wire)
            wire.greeted = True
            self._retry.pop((wire.peer, wire.rail), None)
        if wire.peer < 0:
            self._broken(wire)
            return False
        channel = self.channels[wire.peer]
        with self.lock:
            if what == DATA:
                wire.ack = True
                place = channel.place(chunk, size)
                if place is not None and size:
                    place[:] = np.frombuffer(wire.body, np.uint8)
                try:
                    for tag, data in channel.arrived(chunk, place, crc):
                        self.deliver(wire.peer, tag, data)
                except PeerError:
                    damaged = True
                else:
                    damaged = False
            else:
                beyond = np.frombuffer(wire.body, np.uint64).tolist() if what == ACK and size else []
                channel.acknowledged(chunk.seq, beyond, chunk.message)
                damaged = False
            self.lock.notify_all()
        if damaged:
            self._broken(wire)
        return not damaged

    def _write(self, wire: Wire) -> None:
        """Fills the connection: acknowledgement, then chunks, while it takes them."""
        now, channel = time.monotonic(), self.channels[wire.peer]
        while True:
            if not wire.out:
                with self.lock:
                    if wire.ack or now - wire.told_s > ALIVE_S:
                        wire.out.append(memoryview(channel.ack()))
                        wire.ack, wire.told_s = False, now
                    chunk = channel.next(wire.rail) if wire.greeted else None
                if chunk is not None:
                    wire.out += [memoryview(chunk.head()), memoryview(chunk.data)]  # type: ignore[arg-type]
            if not wire.out:
                self._watch(wire, False)
                return
            try:
                gone = wire.sock.sendmsg(wire.out)
            except BlockingIOError:
                self._watch(wire, True)
                return
            except OSError:
                self._broken(wire)
                return
            while wire.out and gone >= len(wire.out[0]):
                gone -= len(wire.out.pop(0))
            if gone:
                wire.out[0] = wire.out[0][gone:]

    def _watch(self, wire: Wire, writing: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        if self._select.get_key(wire.sock).events != events:
            self._select.modify(wire.sock, events, wire)

    def _send_loose(self) -> None:
        """Best effort: one datagram a message; what does not fit one goes over a connection that has nothing to do."""
        mine = self.token.to_bytes(8, "little") + self.rank.to_bytes(4, "little")
        for peer, channel in self.channels.items():
            while True:
                with self.lock:
                    chunk = channel.next_loose()
                if chunk is None:
                    break
                frame = chunk.head() + chunk.data.tobytes()
                if len(frame) <= DATAGRAM:
                    try:
                        self._datagrams.sendto(mine + frame, self._peers[peer][-1])
                    except OSError:
                        channel.counts.dropped += 1
                    continue
                wire = next((w for (p, _), w in self.wires.items() if p == peer and w.greeted and not w.out), None)
                if wire is None:
                    channel.counts.dropped += 1
                else:
                    wire.out.append(memoryview(frame))
                    self._write(wire)

    def _datagram(self) -> None:
        for _ in range(64):
            try:
                frame = self._datagrams.recv(65536)
            except OSError:
                return
            peer = int.from_bytes(frame[8:12], "little")
            if len(frame) < 12 + HEAD.size or int.from_bytes(frame[:8], "little") != self.token or peer not in self.channels:
                continue
            try:
                what, chunk, size, crc = parse(frame[12 : 12 + HEAD.size])
                data = np.frombuffer(frame[12 + HEAD.size :], np.uint8)
                if what != DATA or chunk.kind != LOOSE or len(data) != size:
                    continue
                with self.lock:
                    for tag, body in self.channels[peer].arrived(chunk, data, crc):
                        self.deliver(peer, tag, body)
                    self.lock.notify_all()
            except PeerError:
                continue  # a datagram that is damaged is as good as lost
