"""Decentralised: every rank learns its own rows and averages its state with a neighbour's, round by round.

Every ROUNDS rounds (a lap), and at the end, all settle: what is under way is delivered and the states are averaged exactly,
so that a checkpoint, a report and the result are the same bytes on every rank.

Where a keeper (`survive/mass.py`) keeps each rank's state, what a round gives leaves after the record that covers it. When a
rank dies the others go on, an heir takes its (x, w), its accounts and the rest of its rows when they have been read from node
memory; all are in one lap again, since whoever had settled while others had not goes back to before.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import loop
from engine.cluster import clock as clocks
from engine.comm import sync
from engine.comm.gossip import Pushsum
from engine.comm.mass import Pair
from engine.errors import PeerLost
from engine.store.crash import point
from engine.types import Array, Block, Link

ROUNDS = 64


@dataclass
class Before:
    """What a rank held as it settled, until all have settled."""

    x: Array
    mass: float
    given: dict[Pair, Array]
    taken: dict[Pair, Array]
    rows: int
    number: int
    clock: clocks.Clock


class Gossip:
    """One rank's side of a run. The state of the model is a set of dense float blocks, averaged element by element.

    `lap`: how often all have settled; `rows`: learned here since, by those this rank took over too.
    """

    def __init__(self, job: loop.Job, graph: str = "exponential", seed: int = 0) -> None:
        self.job, self.model = job, job.team.models[0]
        self.sum = Pushsum(job.link, len(self.read()), graph, seed=seed)
        self.lap = self.number = self.rows = 0
        self.left, self.label = True, np.nan
        self.error: Exception | None = None
        self.before: Before | None = None
        keeper: Any = job.keeper
        self.keeper = keeper
        if keeper is not None:
            keeper.carried = self

    def read(self) -> Array:
        blocks = self.model.state().values()
        return np.concatenate([b.data.ravel().astype(np.float64) for b in blocks if b.data.dtype.kind == "f"])

    def write(self, x: Array) -> None:
        at, state = 0, self.model.state()
        for name, block in state.items():
            if block.data.dtype.kind == "f":
                size = block.data.size
                data = x[at : at + size].reshape(block.data.shape).astype(block.data.dtype)
                state[name] = Block(data, block.columns)
                at += size
        for model in self.job.team.models:
            model.load(state)

    def run(self) -> Iterator[loop.Event]:
        """Each due action, in the same state on every rank."""
        while True:
            while self.number < ROUNDS and self.error is None:
                self.job.beat(f"gossip round {self.number + 1}")
                if not self._round() and not self.left:
                    break
            yield from (events := self._settle())
            if any(isinstance(e.action, clocks.Stop) for e in events):
                return

    def _round(self) -> int:
        """Learn on, then one round of averaging; rows learned."""
        job, count = self.job, 0
        if self.keeper is not None:
            self.look()
        self.number += 1
        began = time.perf_counter()
        try:
            count = self._learn()
        except Exception as caught:
            self.error = caught
            return 0
        job.counts.add("learn_s", time.perf_counter() - began)
        began = time.perf_counter()
        self.write(self.sum.mix(self.read(), later=self.keeper is not None))
        if self.keeper is not None:
            self.keeper.keep(self)
            self.sum.send()
            point("kept")
        job.counts.add("merge_s", time.perf_counter() - began)
        return count

    def _learn(self) -> int:
        job = self.job
        rows = job.stream.take(job.k * len(job.team.models))
        count = 0 if rows is None else len(rows)
        if rows is not None and count:
            if job.stage is not None:
                rows = job.stage.learn(rows)
            label = float(rows.y[-1]) if len(rows) else np.nan
            rows, scores = job.team.learn(rows, job.k)
            table = np.zeros((job.link.size, 6))
            table[job.link.rank, [0, 2]] = count, label
            loop.score(job, rows, scores, table)
            if len(job.team.models) > 1:
                update = job.team.update()
                assert update is not None
                job.team.merge(update, len(job.team.models))
            self.label = label
            self.rows += count
        self.left = bool(getattr(job.stream, "left", rows is not None))
        if self.keeper is not None:
            point("learned")
        return count

    def look(self) -> None:
        """Calls the round off where a rank has died; takes what has been read of one."""
        if why := getattr(self.job.link, "alarm", str)():
            raise PeerLost(f"member {self.sum.me} stops learning: {why}", fix="resume from node memory or the last checkpoint")
        self.keeper.returned(self)

    def _settle(self) -> list[loop.Event]:
        job: Any = self.job
        if self.keeper is not None:
            self.keeper.wait(self)
        began = time.perf_counter()
        table = sync.vote(job.link, [self.rows, 0, self.label, self.left, loop.STOPS.index(job.stop()),
                                     time.monotonic() - job.began_s], self.error, name=f"settle {job.clock.step + 1}")
        job.counts.add("wait_s", time.perf_counter() - began)
        x, account = self.read(), self.sum.account
        before = Before(x, account.mass, account.given, account.taken, self.rows, self.number, job.clock)
        self.write(self.sum.settle(x))
        self.before = before
        self.lap, self.number, self.rows, self.label = self.lap + 1, 0, 0, np.nan
        tick = clocks.Tick(int(table[:, 0].sum()), bool(table[:, 3].any()), loop.STOPS[int(table[:, 4].max())],
                           float(table[0, 5]))
        job.clock, actions = clocks.advance(job.clock, tick, job.rules)
        if self.keeper is not None:
            self.keeper.keep(self)
            job.link.barrier(name="settled")
        self.before = None
        if job.stage is not None:
            job.stage.exchange(job.link)
        return [loop.Event(action, job.clock.step, job.clock.rows) for action in actions]

    def keep(self) -> None:
        self.keeper.keep(self)

    # --- after a death

    def regroup(self, link: Link, members: list[int], heirs: dict[int, int], lap: int) -> None:
        """Goes on over `link` with `members` in this lap; `heirs[dead member]` takes what it held."""
        account = self.sum.account
        if not account.mass:  # called off as it listened
            self.write(account.close())
        if self.lap > lap:
            before = self.before
            assert before is not None
            self.lap, self.rows, self.number, self.job.clock = lap, before.rows, before.number, before.clock
            account.mass, account.given, account.taken = before.mass, before.given, before.taken
            self.write(before.x)
        self.before = None
        self.sum.holder = [heirs.get(holder, holder) for holder in self.sum.holder]
        self.sum.epoch = lap
        self.sum.meet(link, members)
        self.job.link = link

    def inherit(self, x: Array, mass: float, given: dict[Pair, Array], taken: dict[Pair, Array], rows: int) -> None:
        """Takes what a dead member held, as it was kept."""
        account = self.sum.account
        account.open(self.read())
        account.inherit(x, mass, given, taken)
        self.write(account.close())
        self.rows += rows
        self.left = True
