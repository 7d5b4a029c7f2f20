"""A Link over two others: messages between ranks of a node go over the one, those between nodes over own sockets."""
from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from engine.comm.collect import Collective
from engine.comm.socket import Socketlink
from engine.types import Array, Link, Transfer

RELAY = 3


class Bridge(Collective):
    """The ranks of `near` (over MPI, or in process), whose `nodes` say which pairs talk over `far`, of the same ranks.

    Collective calls are made of messages between two ranks, so a broken connection between nodes is mended inside them.
    """

    def __init__(self, near: Link, far: Socketlink) -> None:
        self.near, self.far = near, far
        self.rank, self.size, self.nodes = near.rank, near.size, far.nodes
        self.kept: dict[str, Any] = {}

    def _way(self, peer: int) -> Any:
        return self.near if self.nodes[peer] == self.nodes[self.rank] else self.far

    @property
    def sent(self) -> int:
        return self.near.sent + self.far.sent

    @property
    def received(self) -> int:
        return self.near.received + self.far.received

    @property
    def timeout_s(self) -> float:
        return self.far.timeout_s

    @timeout_s.setter
    def timeout_s(self, seconds: float) -> None:
        near: Any = self.near
        self.far.timeout_s = near.timeout_s = seconds

    def send(self, data: Array, to: int, *, name: str, tag: int = 0) -> Transfer:
        return self._way(to).send(data, to, name=name, tag=tag)

    def recv(self, out: Array, source: int, *, name: str, tag: int = 0) -> Transfer:
        return self._way(source).recv(out, source, name=name, tag=tag)

    def take(self, source: int, *, name: str, tag: int) -> Array:
        return self._way(source).take(source, name=name, tag=tag)

    def probe(self, *, tag: int, source: int | None = None) -> tuple[int, int] | None:
        if source is not None:
            return self._way(source).probe(tag=tag, source=source)
        return self.near.probe(tag=tag) or self.far.probe(tag=tag)

    def relay(self, data: Array, *, target: int, source: int, name: str) -> Array:
        going = self.send(np.ascontiguousarray(data), target, name=name, tag=RELAY)
        found = self.take(source, name=name, tag=RELAY).view(data.dtype)
        going.wait()
        return found

    def told(self) -> list[str]:
        """A line about what the sockets of this rank had to mend; none where nothing broke."""
        found = self.far.counters().values()
        again = sum(max(0, one["connected"] - len(self.far.hosts)) for one in found)
        resent, damaged = sum(one["resent"] for one in found), sum(one["damaged"] for one in found)
        if not again and not resent:
            return []
        return [f"sockets of rank {self.rank}: connections made again {again}, chunks sent again {resent}, damaged {damaged}"]

    def close(self) -> None:
        self.far.close()
        with suppress(AttributeError):
            self.near.close()

