"""Gossip: push-sum averaging (Kempe et al. 2003) over a changing graph, that loses no mass when messages are lost.

Each rank holds (x, w) with estimate x / w. A round keeps half and gives half to one neighbour. What is sent is the sum of
all that was ever given to that neighbour (Hadjicostis et al. 2016), so a later message makes up for a lost or skipped
one, a silent neighbour is not waited for, and sum x, sum w over ranks and messages under way never change.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.comm.dense import allreduce
from engine.types import Array, Link, Transfer

TAG = 160
Graph = Callable[[int, int, int, int], int]


def ring(rank: int, size: int, step: int, seed: int) -> int:
    """Always the next rank: spreads in O(P^2) rounds, two neighbours a rank."""
    return (rank + 1) % size


def exponential(rank: int, size: int, step: int, seed: int) -> int:
    """2^t ahead in round t (Assran et al. 2019): in lock-step exact after log2 P rounds of a power of two of ranks."""
    return (rank + (1 << step % max(1, (size - 1).bit_length()))) % size


def random(rank: int, size: int, step: int, seed: int) -> int:
    """A random permutation a round, the same on every rank: everybody gives to one and hears from one."""
    order = np.random.default_rng((seed, step)).permutation(size)
    return int(order[(int(np.flatnonzero(order == rank)[0]) + 1) % size])


GRAPHS: dict[str, Graph] = {"random": random, "ring": ring, "exponential": exponential}


class Pushsum:
    """Averages float vectors `(n,)` over ranks, round by round; float64 inside, so mass is kept to 1e-15 of its size.

    `mix(x)`: one round; gives the new estimate. Never waits: where the last message to a neighbour has not gone yet, its
    share goes with the next. `settle(x)`: all is delivered and averaged, the same bytes on every rank (collective).
    """

    def __init__(self, link: Link, n: int, graph: str = "exponential", *, seed: int = 0, name: str = "gossip") -> None:
        if graph not in GRAPHS:
            raise ValueError(f"graph {graph!r}: expected one of {', '.join(sorted(GRAPHS))}")
        self.link, self.n, self.name, self.seed, self.step = link, n, name, seed, 0
        self.graph = GRAPHS[graph]
        self.mass = 1.0
        self.given: dict[int, Array] = {}
        self.taken: dict[int, Array] = {}
        self._going: dict[int, Transfer] = {}
        self.skipped = self.epoch = 0

    def mix(self, x: Array) -> Array:
        """`x`: this rank's estimate, perhaps changed since the last round -> the estimate after this round."""
        whole = np.append(x.astype(np.float64) * self.mass, self.mass)
        to = self.graph(self.link.rank, self.link.size, self.step, self.seed)
        self.step += 1
        if to != self.link.rank:
            whole *= 0.5
            self.given[to] = self.given.get(to, 0.0) + whole
            self._send(to)
        whole += self._hear()
        self.mass = float(whole[-1])
        return (whole[:-1] / self.mass).astype(x.dtype)

    def _send(self, to: int) -> None:
        if to in self._going and not self._going[to].test():
            self.skipped += 1
            return
        self._going[to] = self.link.send(np.append(self.given[to], self.epoch), to, name=self.name, tag=TAG)

    def _hear(self) -> Array:
        """What neighbours gave since the last time; of several messages of one the last says it all."""
        fresh = np.zeros(self.n + 1)
        while (found := self.link.probe(tag=TAG)) is not None:
            source = found[0]
            message = self.link.take(source, name=self.name, tag=TAG).view(np.float64)
            if message[-1] != self.epoch:
                continue  # given before all was settled, and counted there
            total = message[:-1]
            fresh += total - self.taken.get(source, 0.0)
            self.taken[source] = total
        return fresh

    def settle(self, x: Array) -> Array:
        """The average of all ranks and of all that was under way; afterwards every rank has mass 1."""
        link, none = self.link, np.empty(0)
        whole = np.append(x.astype(np.float64) * self.mass, self.mass)
        for source, total in enumerate(link.alltoall([self.given.get(r, none) for r in range(link.size)], name=self.name)):
            if len(total):
                whole += total - self.taken.get(source, 0.0)
        link.barrier(name=self.name)
        self.epoch += 1
        self._hear()  # what was still under way has been counted
        for going in self._going.values():
            going.wait()
        total = allreduce(link, whole, route="ring", name=self.name, checked=True)
        self.mass, self.given, self.taken, self._going = 1.0, {}, {}, {}
        return (total[:-1] / total[-1]).astype(x.dtype)
