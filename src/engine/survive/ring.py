"""Heartbeats between hosts: the first rank of each host says over UDP that it is there, and hears who else is.

A host that is silent for `silent_s` is given up by those who still hear more than half of the hosts; the side that does not
stops writing (`cluster/health.quorum`). A cut that heals sooner is not noticed: MPI resends, and nothing was decided.
"""
from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from engine.cluster.health import quorum

BEAT = struct.Struct("<8sQQ")  # run, epoch, host
Address = tuple[str, int]


class Ring:
    """This host's voice and ear. `open()` first gives the address to tell the others; `start` takes everybody's."""

    def __init__(self, run: str, epoch: int, host: int, *, silent_s: float = 5.0) -> None:
        self.run, self.epoch, self.host, self.silent_s = run.encode()[:8].ljust(8, b"."), epoch, host, silent_s
        self.muted: set[int] = set()  # tests: hosts that are not heard
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("", 0))
        self._socket.settimeout(silent_s / 20)
        self._peers: dict[int, Address] = {}
        self._heard: dict[int, float] = {}
        self._ended = threading.Event()

    def address(self) -> Address:
        """Where the other hosts reach this one."""
        try:
            name = socket.gethostbyname(socket.gethostname())
        except OSError:
            name = "127.0.0.1"
        return name, self._socket.getsockname()[1]

    def start(self, addresses: Sequence[Address]) -> None:
        self._peers = {host: tuple(at) for host, at in enumerate(addresses) if host != self.host}  # type: ignore[misc]
        self._heard = {host: time.monotonic() for host in self._peers}
        threading.Thread(target=self._listen, name="ring", daemon=True).start()
        threading.Thread(target=self._speak, name="ring", daemon=True).start()

    def why(self) -> str:
        """What a wait must know: hosts that are silent, and whether this side may go on; "" where all are heard."""
        now = time.monotonic()
        silent = [host for host, heard in self._heard.items() if now - heard > self.silent_s]
        if not silent:
            return ""
        everyone = [self.host, *self._peers]
        # A cut silences its hosts within a beat of each other: whoever missed many beats does not count as heard, so that
        # the first look at a cut already sees which side is the larger.
        here = [self.host, *(host for host, heard in self._heard.items() if now - heard < self.silent_s / 2)]
        more = "" if quorum(everyone, here) else "; this side is the smaller one and stops"
        return f"host {', '.join(map(str, silent))} silent for {self.silent_s:g} s{more}"

    @property
    def minority(self) -> bool:
        return "smaller" in self.why()

    def close(self) -> None:
        self._ended.set()
        self._socket.close()

    def _speak(self) -> None:
        beat = BEAT.pack(self.run, self.epoch, self.host)
        while not self._ended.wait(self.silent_s / 20):
            for address in self._peers.values():
                with suppress(OSError):
                    self._socket.sendto(beat, address)

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                data, _ = self._socket.recvfrom(64)
            except TimeoutError:
                continue
            except OSError:
                return
            if len(data) == BEAT.size:
                run, epoch, host = BEAT.unpack(data)
                if run == self.run and epoch == self.epoch and host in self._heard and host not in self.muted:
                    self._heard[host] = time.monotonic()
