"""Decentralised: every rank learns its own rows and averages its state with a neighbour's, round by round.

Every ROUNDS rounds, and at the end, all settle: what is under way is delivered and the states are averaged exactly, so
that a checkpoint, a report and the result are the same bytes on every rank.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from engine import loop
from engine.cluster import clock as clocks
from engine.comm import sync
from engine.comm.gossip import Pushsum
from engine.types import Array, Block

ROUNDS = 64


class Gossip:
    """One rank's side of a run. The state of the model is a set of dense float blocks, averaged element by element."""

    def __init__(self, job: loop.Job, graph: str = "exponential", seed: int = 0) -> None:
        self.job, self.model = job, job.team.models[0]
        self.sum = Pushsum(job.link, len(self._read()), graph, seed=seed)

    def _read(self) -> Array:
        blocks = self.model.state().values()
        return np.concatenate([b.data.ravel().astype(np.float64) for b in blocks if b.data.dtype.kind == "f"])

    def _write(self, x: Array) -> None:
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
            rows, left, label, error = 0, True, np.nan, None
            for number in range(ROUNDS):
                self.job.beat(f"gossip round {number + 1}")
                try:
                    count, left, last = self._round()
                except Exception as caught:
                    error = caught
                    break
                rows, label = rows + count, last if count else label
                if not left and not count:
                    break
            yield from (events := self._settle(rows, left, label, error))
            if any(isinstance(e.action, clocks.Stop) for e in events):
                return

    def _round(self) -> tuple[int, bool, float]:
        """Learn on, then one round of averaging."""
        job = self.job
        rows = job.stream.take(job.k * len(job.team.models))
        began, count, label = time.perf_counter(), 0 if rows is None else len(rows), np.nan
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
        job.counts.add("learn_s", time.perf_counter() - began)
        began = time.perf_counter()
        self._write(self.sum.mix(self._read()))
        job.counts.add("merge_s", time.perf_counter() - began)
        return count, bool(getattr(job.stream, "left", rows is not None)), label

    def _settle(self, rows: int, left: bool, label: float, error: Exception | None) -> list[loop.Event]:
        job: Any = self.job
        began = time.perf_counter()
        table = sync.vote(job.link, [rows, 0, label, left, loop.STOPS.index(job.stop()), time.monotonic() - job.began_s],
                          error, name=f"settle {self.job.clock.step + 1}")
        job.counts.add("wait_s", time.perf_counter() - began)
        self._write(self.sum.settle(self._read()))
        if job.stage is not None:
            job.stage.exchange(job.link)
        tick = clocks.Tick(int(table[:, 0].sum()), bool(table[:, 3].any()), loop.STOPS[int(table[:, 4].max())],
                           float(table[0, 5]))
        job.clock, actions = clocks.advance(job.clock, tick, job.rules)
        return [loop.Event(action, job.clock.step, job.clock.rows) for action in actions]
