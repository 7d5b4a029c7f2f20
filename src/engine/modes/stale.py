"""Bounded staleness (SSP): every rank learns on while nobody is more than `bound` rounds behind.

    learn round c -> send it to all -> take what has arrived -> commit whole rounds -> refresh the view -> learn on

The vote of lock-step travels with the rounds: a round's table is whole when the round is, and rounds are committed in
order, so all ranks decide alike without a collective call. When something is due (a checkpoint, a report, the end) all
halt at the first round nobody can have learned yet, drain, and carry it out from a state that is the same on every rank.
"""
from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine import loop
from engine.cluster import clock as clocks
from engine.cluster.adapt import Review
from engine.cluster.stale import Arrived, Board, Commit, Pause, Resume, advance, shares, start
from engine.modes.post import Letter, Post
from engine.store.crash import point
from engine.types import Array, Batch
from engine.update.ease import Ease
from engine.update.replica import Replica, damp

TAG = 128
ROWS, KEYS, LABEL, LEFT, STOP, TIME, AGE, MADE, ROW_S, KEPT = range(10)  # from KEPT on: what the keeper says


class Stale:
    """One rank's side of a run. `power`: how an update's age damps it (`update.replica.damp`); `review`: after so many
    rounds all halt for a Review (0 = never); `balance`: a rank takes rows by its measured speed, as committed rounds have
    it, the same in all (for streams whose ranks need not take alike); `ease`: steps shrink as measured staleness rises."""

    def __init__(self, job: loop.Job, bound: int, power: float = 0.0, review: int = 0, balance: bool = False,
                 ease: bool = False) -> None:
        self.job, self.power, self.review, self.balance = job, power, review, balance
        self.ease = Ease() if ease else None
        self.k = job.k
        self._row_s = np.zeros(job.link.size)
        self.board: Board = start(job.link.size, job.link.rank, bound)
        self.post = Post(job.link, TAG, "rounds")
        self.replica = Replica(job.team.models, job.workers, eager=bound > 0)
        self.tickets: dict[int, dict[int, Array]] = {}
        self.errors: dict[int, dict[int, BaseException]] = {}
        self.own: dict[int, tuple[Batch | None, Array | None]] = {}
        self.keeper: Any = job.keeper  # `survive/rounds.py`
        self.places: dict[int, dict[str, Any]] = {}  # where the input stood after a round's rows
        self.due: list[clocks.Action | Review] = []
        self._fresh = True

    def run(self) -> Iterator[loop.Event]:
        """Steps until the clock says stop; yields each due action (all ranks get the same, in the same state)."""
        if self.keeper is not None:
            self.keeper.open()
        while True:
            self.collect()
            if self.board.quiet:
                for event in self.settle():
                    if isinstance(event.action, clocks.Stop | Review):
                        self.post.finish()
                        if self.keeper is not None:
                            self.keeper.shut()
                    yield event
                    if isinstance(event.action, clocks.Stop):
                        return
            elif self.board.may_learn:
                self.learn()

    def learn(self) -> None:
        """The next round of this rank: score and learn on the view, send."""
        job, number = self.job, self.board.mine
        if not self._fresh:
            began = time.perf_counter()
            self.replica.refresh()
            job.counts.add("merge_s", time.perf_counter() - began)
        self._fresh = True
        job.beat(f"round {number + 1}")
        age, oldest = self.board.age
        if self.ease is not None:
            self.ease.seen(age * self.k)
            models: list[Any] = list(job.team.models)
            for model in models:
                model.pace(self.ease.factor)
        began, scores, update, error = time.perf_counter(), None, None, None
        rows = job.stream.take(self.k * len(job.team.models))
        if self.keeper is not None:
            self.places[number] = self.keeper.place(job.stream)
        try:
            if rows is not None and len(rows) and job.stage is not None:
                rows = job.stage.learn(rows)
            if rows is not None and len(rows):
                rows, scores = job.team.learn(rows, self.k)
            update = job.team.update()
        except Exception as caught:
            error = caught
        spent_s = time.perf_counter() - began
        job.counts.add("learn_s", spent_s)
        self._aged(age, oldest)
        count = 0 if rows is None else len(rows)
        label = float(rows.y[-1]) if rows is not None and count else np.nan
        ticket = np.array([count, 0, label, getattr(job.stream, "left", rows is not None), loop.STOPS.index(job.stop()),
                           time.monotonic() - job.began_s, age, time.monotonic(),
                           spent_s / count if count else 0.0,
                           *(self.keeper.said() if self.keeper is not None else ())])
        point("learned")
        if update is not None:
            self.replica.learned(update)
            update = damp(update, age, self.power)
        self.own[number] = rows, scores
        self.post.broadcast(Letter(number, ticket, update, error))
        self._enter(self.board.rank, Letter(number, ticket, update, error))

    def _aged(self, age: float, oldest: int) -> None:
        """What a read missed, in rounds: counted for the log."""
        values = self.job.counts.values
        self.job.counts.add("stale_sum", age)
        self.job.counts.add("stale_reads")
        values["stale_most"] = max(values.get("stale_most", 0), oldest)

    def collect(self) -> None:
        """Takes what has arrived; where this rank can neither learn nor settle, waits for a rank that holds it up."""
        for rank, letter in self.post.arrived():
            self._enter(rank, letter)
        if self.board.may_learn or self.board.quiet:
            return
        began = time.perf_counter()
        while not (self.board.may_learn or self.board.quiet):
            rank = next(r for r in self.board.missing if r != self.board.rank)
            self._enter(rank, self.post.take(rank, f"round {self.board.done + 1}"))
            for other, letter in self.post.arrived():
                self._enter(other, letter)
        self.job.counts.add("wait_s", time.perf_counter() - began)

    def _enter(self, rank: int, letter: Letter) -> None:
        self.tickets.setdefault(letter.number, {})[rank] = letter.ticket
        if letter.error is not None:
            self.errors.setdefault(letter.number, {})[rank] = letter.error
        if letter.update is not None:
            self.replica.add(letter.number, rank, letter.update)
        if rank != self.board.rank:
            if self.keeper is not None:
                self.keeper.told(rank, letter.ticket[KEPT:])
            self._fresh = False
            self.job.counts.add("fresh_s", time.monotonic() - letter.ticket[MADE])
            self.job.counts.add("fresh_rounds")
        self.board, commits = advance(self.board, Arrived(rank))
        for commit in commits:
            self._commit(commit)

    def _commit(self, commit: Commit) -> None:
        """What a step of lock-step does with its table, once the round is whole."""
        job, number = self.job, commit.round
        failed = self.errors.pop(number, None)
        if failed:
            raise failed[min(failed)]
        tickets = self.tickets.pop(number)
        table = np.array([tickets[r] for r in range(job.link.size)])
        total = self.replica.commit(number)
        self._fresh = False
        loop.score(job, *self.own.pop(number), table)
        if self.balance:
            fresh = table[:, ROW_S] > 0
            self._row_s[fresh] += (table[fresh, ROW_S] - self._row_s[fresh]) * np.where(self._row_s[fresh] > 0, 0.3, 1.0)
            self.k = shares(self._row_s.tolist(), job.k * job.link.size)[job.link.rank]
        tick = clocks.Tick(int(table[:, ROWS].sum()), bool(table[:, LEFT].any()), loop.STOPS[int(table[:, STOP].max())],
                           float(table[0, TIME]))
        job.clock, actions = clocks.advance(job.clock, tick, job.rules)
        at = self.places.pop(number, {})
        if self.keeper is not None and tick.rows:
            self.keeper.round(job, self.replica.committed, total, at)
        reviews = [Review()] if self.review and (number + 1) % self.review == 0 else []
        if actions or reviews:
            self.due += [*actions, *reviews]
            self.board, _ = advance(self.board, Pause(number))

    def settle(self) -> Iterator[loop.Event]:
        """All rounds before the halt are committed everywhere: the view is the committed state, byte for byte."""
        job = self.job
        self.replica.refresh(settled=True)  # ranks that have gone on may have sent more
        self._fresh = False
        if job.stage is not None:
            job.stage.exchange(job.link)
        for action in once(self.due):
            if isinstance(action, clocks.Save):
                job.clock = replace(job.clock, saved_rows=job.clock.rows)
            yield loop.Event(action, job.clock.step, job.clock.rows)
        self.due = []
        self.board, _ = advance(self.board, Resume())


def once(due: Sequence[clocks.Action | Review]) -> list[clocks.Action | Review]:
    """Each kind of action once: saves, then reports, the final one last of them, then the first stop, else a review."""
    stops = [a for a in due if isinstance(a, clocks.Stop)]
    saves = [a for a in due if isinstance(a, clocks.Save)]
    reports = sorted((a for a in due if isinstance(a, clocks.Report)), key=lambda a: a.final)
    reviews = [a for a in due if isinstance(a, Review)]
    return [*saves[-1:], *reports[-1:], *(stops or reviews)[:1]]

