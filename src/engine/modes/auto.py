"""Adaptive: lock-step or bounded staleness, the interval and steps, as measured wait, loss and freshness call for."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from engine import loop
from engine.cluster import clock as clocks
from engine.cluster.adapt import Budget, Measured, Pace, Review, review
from engine.modes.stale import Stale

ROUNDS = 64  # between reviews
Note = Callable[[str], None]
COUNTS = ("wait_s", "merge_s", "stale_sum", "stale_reads", "fresh_s", "fresh_rounds")


class Auto:
    """Runs a job; `budget`: what staleness and long intervals may cost; `note(text)` is told of every change with its reason;
    `steps`: whether the model's steps may shrink (its `pace`)."""

    def __init__(self, job: loop.Job, budget: Budget, note: Note = lambda text: None, power: float = 0.0,
                 steps: bool = False) -> None:
        self.job, self.budget, self.note, self.power, self.steps, self.pace = job, budget, note, power, steps, Pace()
        self.k, self.least = job.k, -(job.k.bit_length() - 1)
        self._began, self._before, self._steps = time.monotonic(), dict.fromkeys(COUNTS, 0.0), 0

    def run(self) -> Iterator[loop.Event]:
        """Each due action, as `loop.run` gives them."""
        while True:
            for event in self.stretch():
                if isinstance(event.action, Review):
                    break
                yield event
                if isinstance(event.action, clocks.Stop):
                    return
            self.look()

    def stretch(self) -> Iterator[loop.Event]:
        """The run at its present pace, until a review is due."""
        pace = self.pace
        self.job.k = max(1, int(self.k * 2.0**pace.scale))
        if pace.bound:
            power = max(1.0, self.power) if pace.eased else self.power
            yield from Stale(self.job, pace.bound, power, review=ROUNDS, ease=pace.eased and self.steps).run()
            return
        for _ in range(ROUNDS):
            yield from loop.once(self.job)
        yield loop.Event(Review(), self.job.clock.step, self.job.clock.rows)

    def look(self) -> None:
        """Measures, agrees, decides (collective)."""
        summary = self.job.meter.summary()
        now = {name: self.job.counts.values.get(name, 0.0) for name in COUNTS}
        seen = {name: now[name] - self._before[name] for name in COUNTS}
        spent, rounds = time.monotonic() - self._began, max(1, self.job.clock.step - self._steps)
        loss = summary.get("window_logloss", summary.get("window_rmse", 0.0))
        # in lock-step news is as old as the step; else it is a round old when sent, travels, and waits for the reader's round
        age = seen["fresh_s"] / max(seen["fresh_rounds"], 1) + spent / rounds if self.pace.bound else 0.0
        mine = np.array([seen["wait_s"] / max(spent, 1e-9), loss if np.isfinite(loss) else 0.0,
                         seen["stale_sum"] / max(seen["stale_reads"], 1), seen["merge_s"] / max(spent, 1e-9),
                         spent / rounds + age])
        table = self.job.link.vote(mine, name="review")
        wait, loss, stale, merge = table[:, :4].mean(axis=0).tolist()
        before = self.pace
        self.pace = review(before, Measured(wait, loss, stale, merge, float(table[:, 4].max())), self.budget, self.least)
        if before.eased and not self.pace.eased and self.steps:
            models: list[Any] = list(self.job.team.models)
            for model in models:
                model.pace(1.0)
        if self.pace.reason:
            self.note(f"exchange: {self.told()}, because {self.pace.reason}")
        self._began, self._before, self._steps = time.monotonic(), now, self.job.clock.step

    def told(self) -> str:
        """The pace in words."""
        pace, rows = self.pace, max(1, int(self.k * 2.0**self.pace.scale))
        way = f"staleness up to {pace.bound}" if pace.bound else "lock-step"
        often = "" if rows == self.k else f", every {rows} rows"
        eased = (", updates count by their age" + (" and steps shrink with it" if self.steps else "")) if pace.eased else ""
        return way + often + eased
