"""Adaptive: lock-step or bounded staleness, whichever the measured wait and loss call for, reviewed as the run goes."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from engine import loop
from engine.cluster import clock as clocks
from engine.cluster.adapt import Measured, Pace, Review, review
from engine.modes.stale import Stale

ROUNDS = 64  # between reviews
Note = Callable[[str], None]


class Auto:
    """Runs a job; `budget`: loss that staleness may cost; `note(text)` is told of every change with its reason."""

    def __init__(self, job: loop.Job, budget: float, note: Note = lambda text: None, power: float = 0.0) -> None:
        self.job, self.budget, self.note, self.power, self.pace = job, budget, note, power, Pace()
        self._seen = (time.monotonic(), 0.0, 0.0, 0.0)

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
        """The run at its present bound, until a review is due."""
        if self.pace.bound:
            yield from Stale(self.job, self.pace.bound, self.power, review=ROUNDS).run()
            return
        for _ in range(ROUNDS):
            yield from loop.once(self.job)
        yield loop.Event(Review(), self.job.clock.step, self.job.clock.rows)

    def look(self) -> None:
        """Measures, agrees, decides (collective)."""
        counts, summary = self.job.counts.values, self.job.meter.summary()
        now = (time.monotonic(), counts.get("wait_s", 0.0), counts.get("stale_sum", 0.0), counts.get("stale_reads", 0.0))
        spent, waited, stale, reads = (a - b for a, b in zip(now, self._seen, strict=True))
        self._seen = now
        loss = summary.get("window_logloss", summary.get("window_rmse", 0.0))
        mine = [waited / max(spent, 1e-9), loss if np.isfinite(loss) else 0.0, stale / max(reads, 1)]
        wait, loss, stale = self.job.link.vote(np.array(mine), name="review").mean(axis=0).tolist()
        before, self.pace = self.pace.bound, review(self.pace, Measured(wait, loss, stale), self.budget)
        if self.pace.bound != before:
            way = f"staleness up to {self.pace.bound}" if self.pace.bound else "lock-step"
            self.note(f"exchange: {way}, because {self.pace.reason}")
