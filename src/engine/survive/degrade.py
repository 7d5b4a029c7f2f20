"""The hook of cluster/degrade.py in a run: measures side work, decides at each report, and sheds what the plan says."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from engine import loop
from engine.cluster.degrade import MEANING, ORDER, Shed, Strain, review

LEAST_S = 0.2  # of running between reviews: less says nothing
EVERY = 4  # reports and mirrors that are shed come so much more rarely


class Degrade:
    """One a rank; all decide alike, by rank 0's figures. `asked`: the ranks that the run is meant to have."""

    def __init__(self, budget: float, asked: int, note: Callable[[str], None] = lambda text: None) -> None:
        self.budget, self.asked, self.note = budget, asked, note
        self.shed = Shed()
        self._side = 0.0
        self._since = time.perf_counter()
        self._report_s: float | None = None
        self._job: loop.Job | None = None

    @contextmanager
    def side(self) -> Iterator[None]:
        """What runs inside is side work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._side += time.perf_counter() - began

    def look(self, job: loop.Job) -> None:
        """A review, and what follows from it (collective, at a report)."""
        lasted = time.perf_counter() - self._since
        seen = Strain(self._side / max(lasted, 1e-9), job.link.size, max(self.asked, job.link.size))
        found = review(self.shed, seen, self.budget) if lasted >= LEAST_S else self.shed
        found = job.link.bcast(found, name="what is shed") if job.link.size > 1 else found
        if found is not self.shed and lasted >= LEAST_S:
            self._side, self._since = 0.0, time.perf_counter()
        self.take(found, job)

    def take(self, found: Shed, job: loop.Job) -> None:
        before, self.shed = self.shed, found
        for measure in ORDER[before.level : found.level]:
            self.note(f"shed {measure} ({MEANING[measure]}): {found.reason}")
        for measure in reversed(ORDER[found.level : before.level]):
            self.note(f"{measure} is back: {found.reason}")
        if job is not self._job:  # after a recovery in place
            self._job, self._report_s = job, None
        if found.has("report") and self._report_s is None:
            self._report_s = job.rules.report_s
            job.rules = replace(job.rules, report_s=EVERY * self._report_s)
        elif not found.has("report") and self._report_s is not None:
            job.rules, self._report_s = replace(job.rules, report_s=self._report_s), None
        flush = getattr(job.keeper, "flush", None)
        if flush is not None:
            flush.mirror_every = EVERY if found.has("replicas") else 1
            flush.small, flush.scrub = not found.has("compression"), not found.has("traffic")
