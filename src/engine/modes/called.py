"""What ranks that wait for nobody have in common: their own pace, rank 0 told of progress, all called when something is due.

    learn an interval -> tell rank 0 how far -> rank 0 finds what is due -> calls all -> all settle, then carry it out
"""
from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from engine import loop
from engine.cluster import clock as clocks
from engine.errors import PeerError
from engine.modes.post import LAST, Letter, Post
from engine.types import Link, Update

CALL = 138
QUEUE = 2  # messages under way to one rank before what follows is written together
IDLE_S = 5e-4
Call = tuple[list[clocks.Action], clocks.Clock, BaseException | None]


class Called:
    """One rank's progress, and rank 0's view of everybody's."""

    job: loop.Job
    me: int
    calls: Post

    def begin(self, job: loop.Job) -> None:
        self.job, self.me = job, job.link.rank
        self.counted, self.rows, self.base = 0, 0, job.clock.rows
        self.failed: BaseException | None = None
        self.away: set[int] = set()  # what is held here and cannot be used yet: nothing is due meanwhile

    def meet(self, link: Link) -> None:
        """Messages go over `link`."""
        self.calls = Post(link, CALL, "call to settle")
        self.progress = np.zeros((link.size, 6))  # at rank 0: rows so far, away, label, left, stop, time of each rank
        self.progress[:, 3] = 1
        self.told = -1.0
        self.busy_s = time.monotonic()

    def interval(self) -> tuple[Update | None, int, bool, BaseException | None]:
        """One interval of rows, learned and scored: the update, if there is any, how many, whether more are left, an error."""
        job, error, scores, update = self.job, None, None, None
        job.beat("learning")
        began = time.perf_counter()
        rows = job.stream.take(job.k * len(job.team.models))
        try:
            if rows is not None and len(rows) and job.stage is not None:
                rows = job.stage.learn(rows)
            if rows is not None and len(rows):
                rows, scores = job.team.learn(rows, job.k)
            update = job.team.update()
        except Exception as caught:
            error = caught
        job.counts.add("learn_s", time.perf_counter() - began)
        count = 0 if rows is None else len(rows)
        table = np.zeros((job.link.size, 6))
        table[job.link.rank] = [count, 0, float(rows.y[-1]) if rows is not None and count else np.nan, 0, 0, 0]
        loop.score(job, rows, scores, table)
        self.rows += count
        return update, count, bool(getattr(job.stream, "left", rows is not None)), error

    def report(self, left: bool, error: BaseException | None) -> None:
        """Rank 0 hears how far this rank is."""
        job = self.job
        ticket = np.array([self.rows, bool(self.away), job.label, left, loop.STOPS.index(job.stop()),
                           time.monotonic() - job.began_s])
        state = self.rows + ticket[3:5].sum() / 8 + ticket[1] / 32
        if job.link.rank == 0:
            self.note(0, Letter(0, ticket, None, error))
        elif (error is not None or state != self.told) and (
                error is not None or not left or self.calls.waiting(0) < QUEUE):
            self.calls.send(Letter(0, ticket, None, error), 0)
            self.told = state

    def note(self, rank: int, letter: Letter) -> None:
        """At rank 0: a rank is so far."""
        self.progress[rank] = letter.ticket
        self.failed = self.failed or letter.error
        self.busy_s = time.monotonic()

    def wait(self) -> None:
        """A short pause of a rank that has nothing to do; the peer that keeps everybody waiting is rank 0's to name."""
        time.sleep(IDLE_S)
        waited = time.monotonic() - self.busy_s
        limit = getattr(self.job.link, "timeout_s", 300.0)
        if waited > limit:
            late = [r for r in range(self.job.link.size) if self.job.link.rank == 0 and self.progress[r, 3]] or [0]
            raise PeerError(f"rank {self.me} waited {waited:.1f} s in 'call to settle' for rank {', '.join(map(str, late))}",
                            fix="resume from the last checkpoint; raise loop.stall_timeout if this wait is expected")

    def called(self) -> Call | None:
        """What rank 0 calls for, if it does."""
        arrived = self.calls.arrived()
        if self.job.link.rank:
            return arrived[0][1].extra if arrived else None
        for rank, letter in arrived:
            self.note(rank, letter)
        return self.decide()

    def decide(self) -> Call | None:
        """At rank 0: what is due, told to all; nothing is while something is away."""
        rows, failed = int(self.progress[:, 0].sum()), self.failed
        if failed is None and (self.progress[:, 1].any() or rows < self.counted):
            return None
        tick = clocks.Tick(rows - self.counted, bool(self.progress[:, 3].any()),
                           loop.STOPS[int(self.progress[:, 4].max())], float(self.progress[0, 5]))
        if not tick.rows and tick.left and not tick.stop and not failed:
            return None
        self.counted = rows
        self.job.clock, actions = clocks.advance(self.job.clock, tick, self.job.rules)
        if not actions and failed is None:
            return None
        call = (actions, self.job.clock, failed)
        self.calls.broadcast(Letter(0, np.zeros(0), None, extra=call))
        return call

    def count(self) -> None:
        """Rows learned since rank 0 was last told: after settling the clock is right."""
        job: Any = self.job
        if job.link.rank:
            ticket = np.array([self.rows, 0, job.label, 1, 0, time.monotonic() - job.began_s])
            self.calls.send(Letter(LAST, ticket, None), 0)
            self.told = -1.0
        else:
            left = self.progress[:, 3].copy()
            self.progress[0, 0] = self.rows
            for rank, letter in self.calls.until_last():
                self.note(rank, letter)
            self.progress[:, 3] = left
            rows = int(self.progress[:, 0].sum())
            job.clock = replace(job.clock, rows=job.clock.rows + rows - self.counted)
            self.counted = rows
        job.clock = job.link.bcast(job.clock, name="rows counted")
