"""Gossip: push-sum averaging (Kempe et al. 2003) over a changing graph, that loses no mass when messages are lost.

Each rank holds (x, w) with estimate x / w. A round keeps half and gives half to one neighbour. What is sent is the sum of
all that was ever given to that neighbour (Hadjicostis et al. 2016), so a later message makes up for a lost or skipped
one, a silent neighbour is not waited for, and sum x, sum w over ranks and messages under way never change.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.comm.dense import allreduce
from engine.comm.mass import Account, Pair, under_way, worth
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
    A member is a rank as it was at the start; `holder[member]`: who plays it now.
    """

    def __init__(self, link: Link, n: int, graph: str = "exponential", *, seed: int = 0, name: str = "gossip") -> None:
        if graph not in GRAPHS:
            raise ValueError(f"graph {graph!r}: expected one of {', '.join(sorted(GRAPHS))}")
        self.n, self.name, self.seed, self.step = n, name, seed, 0
        self.graph = GRAPHS[graph]
        self.me = link.rank
        self.account = Account(n)
        self.holder = list(range(link.size))
        self.skipped = self.epoch = 0
        self.meet(link, list(range(link.size)))

    def meet(self, link: Link, members: list[int]) -> None:
        """Messages go over `link`, whose rank r is `members[r]`."""
        self.link, self.members = link, members
        self._going: dict[int, Transfer] = {}
        self._owed: Pair | None = None

    def mix(self, x: Array, *, later: bool = False) -> Array:
        """`x`: this rank's estimate, perhaps changed since the last round -> the estimate after this round.

        `later`: what is given leaves when the caller says `send`.
        """
        account, link = self.account, self.link
        account.open(x)
        to = self.members[self.graph(link.rank, link.size, self.step, self.seed)]
        self.step += 1
        if to != self.me:
            self._owed = self.me, to
            account.give(self._owed)
            if not later:
                self.send()
        self._hear()
        return account.close().astype(x.dtype)

    def send(self) -> None:
        """What the last round gave, in a sum of all that was given to that neighbour."""
        if self._owed is None:
            return
        pair, self._owed = self._owed, None
        to = self.members.index(pair[1])
        if to in self._going and not self._going[to].test():
            self.skipped += 1
            return
        letter = np.append(self.account.given[pair], [*pair, self.epoch])
        self._going[to] = self.link.send(letter, to, name=self.name, tag=TAG)

    def _hear(self, drop: bool = False) -> None:
        """What neighbours gave since the last time; of several messages of one the last says it all."""
        while (found := self.link.probe(tag=TAG)) is not None:
            letter = self.link.take(found[0], name=self.name, tag=TAG).view(np.float64)
            if not drop and letter[-1] == self.epoch:  # else given before all was settled, and counted there
                self.account.hear((int(letter[-3]), int(letter[-2])), letter[:-3])

    def settle(self, x: Array) -> Array:
        """The average of all ranks and of all that was under way; afterwards every rank has mass 1.

        Where it is called off nothing has changed here.
        """
        link, account = self.link, self.account
        parts: list[list[Array]] = [[] for _ in range(link.size)]
        for pair, total in sorted(account.given.items()):
            parts[self.members.index(self.holder[pair[1]])].append(np.append(total, pair))
        came = link.alltoall([np.concatenate(part) if part else np.empty(0) for part in parts], name=self.name)
        told = [row for data in came for row in data.reshape(-1, self.n + 3)]
        whole = worth(x, account.mass) + under_way((((int(row[-2]), int(row[-1])), row[:-2]) for row in told), account.taken)
        link.barrier(name=self.name)
        self._hear(drop=True)
        for going in self._going.values():
            going.wait()
        total = allreduce(link, whole, route="ring", name=self.name, checked=True)
        self.epoch += 1
        account.mass, account.given, account.taken, self._going = 1.0, {}, {}, {}
        return (total[:-1] / total[-1]).astype(x.dtype)
