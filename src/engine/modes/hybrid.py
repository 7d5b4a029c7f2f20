"""Hybrid: the dense part of a model in lock-step, the sparse rows with staleness up to a bound (as Persia, KDD 2022).

Every round the ranks vote and sum the dense part (the bias, the scaler, the clock: a few rows that every example touches);
the sparse rows' updates are under way meanwhile and are committed whole, in order, at most `bound` rounds later.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import loop
from engine.cluster import clock as clocks
from engine.cluster.stale import Arrived, Board, advance, start
from engine.comm import sync
from engine.errors import ConfigError
from engine.modes.post import Letter, Post
from engine.modes.stale import once
from engine.store.crash import point
from engine.types import Array, Batch, Update
from engine.update.merge import combine
from engine.update.replica import Replica

TAG = 129


@dataclass
class Round:
    """What a round was, until its sparse rows are whole. `dense`: the sum of its dense rows; `at`: where the input stood
    after its rows; `clock`: the job's after it.
    """

    rows: Batch | None
    scores: Array | None
    table: Array
    dense: Update
    at: dict[str, Any]
    clock: clocks.Clock


class Hybrid:
    """One rank's side of a run, for a model whose rows from `width * classes` on are dense (the linear family)."""

    def __init__(self, job: loop.Job, bound: int) -> None:
        model: Any = job.team.models[0]
        if not hasattr(model, "follow"):
            raise ConfigError(f"exchange.mode=hybrid: expected a linear model, found {type(model).__name__}",
                              fix="exchange.mode=ssp:4")
        self.job = job
        self.edge = model.options["width"] * model.options["classes"]
        self.board: Board = start(job.link.size, job.link.rank, bound)
        self.post = Post(job.link, TAG, "sparse rows")
        self.replica = Replica(job.team.models, job.workers, eager=bound > 0)
        self.rounds: dict[int, Round] = {}
        self.whole: dict[int, Update] = {}  # sums of sparse rows that are committed, by round
        self.keeper: Any = job.keeper  # `survive/rounds.py`
        # Dense rows are ahead of sparse ones in the replica: what is kept is a state that has both up to the same round.
        self.kept: Any = None if self.keeper is None else model.fork()

    def run(self) -> Iterator[loop.Event]:
        """Steps until the clock says stop; yields each due action, in the same state on every rank."""
        if self.keeper is not None:
            self.keeper.open()
        while True:
            self.replica.refresh()
            actions = self.step()
            if actions:
                while self.board.done < self.board.mine:
                    self._wait()
                self._commit()
                self.replica.refresh(settled=True)
                for action in once(actions):
                    if isinstance(action, clocks.Stop):
                        self.post.finish()
                        if self.keeper is not None:
                            self.keeper.shut()
                    yield loop.Event(action, self.job.clock.step, self.job.clock.rows)
                    if isinstance(action, clocks.Stop):
                        return

    def step(self) -> list[clocks.Action]:
        """One round: learn, vote and sum the dense part, send the sparse part; what is due."""
        job, rows = self.job, self.job.stream.take(self.job.k * len(self.job.team.models))
        job.beat(f"step {job.clock.step + 1}")
        at = {} if self.keeper is None else self.keeper.place(job.stream)
        began, scores, update, error = time.perf_counter(), None, None, None
        age, oldest = self.board.age
        try:
            if rows is not None and len(rows) and job.stage is not None:
                rows = job.stage.learn(rows)
            if rows is not None and len(rows):
                rows, scores = job.team.learn(rows, job.k)
            update = job.team.update()
        except Exception as caught:
            error = caught
        learned = time.perf_counter()
        point("learned")
        keys = np.empty(0, np.uint32) if update is None or update.keys is None else update.keys
        cut = int(np.searchsorted(keys, self.edge))
        count, label = 0 if rows is None else len(rows), np.nan
        if rows is not None and count:
            label = float(rows.y[-1])
        table = sync.vote(job.link, [count, len(keys) - cut, label, getattr(job.stream, "left", rows is not None),
                                     loop.STOPS.index(job.stop()), time.monotonic() - job.began_s], error,
                          name=f"step {job.clock.step + 1}")
        voted = time.perf_counter()
        assert update is not None
        number = self.board.mine
        dense = self._exchange(update, cut, table)
        if job.stage is not None:
            job.stage.exchange(job.link)
        for name, spent in (("learn_s", learned - began), ("wait_s", voted - learned), ("merge_s", time.perf_counter() - voted),
                            ("stale_sum", age), ("stale_reads", 1.0)):
            job.counts.add(name, spent)
        job.counts.values["stale_most"] = max(job.counts.values.get("stale_most", 0), oldest)
        tick = clocks.Tick(int(table[:, 0].sum()), bool(table[:, 3].any()), loop.STOPS[int(table[:, 4].max())],
                           float(table[0, 5]))
        job.clock, actions = clocks.advance(job.clock, tick, job.rules)
        self.rounds[number] = Round(rows, scores, table, dense, at, job.clock)
        self._commit()
        return actions

    def _commit(self) -> None:
        """Rounds that are whole are counted, and kept."""
        job, now = self.job, self.job.clock
        for number in sorted(self.whole.keys() & self.rounds.keys()):
            sparse, this = self.whole.pop(number), self.rounds.pop(number)
            loop.score(job, this.rows, this.scores, this.table)
            if self.keeper is None:
                continue
            assert sparse.keys is not None and this.dense.keys is not None
            total = Update(np.append(sparse.keys, this.dense.keys), np.concatenate([sparse.values, this.dense.values]),
                           this.dense.weight)
            self.kept.merge(total, job.workers)
            if this.table[:, 0].any():
                job.clock = this.clock
                self.keeper.round(job, self.kept, total, this.at)
        job.clock = now

    def _exchange(self, update: Update, cut: int, table: Any) -> Update:
        """The dense part now, the sparse part when it comes; the sum of the dense part."""
        assert update.keys is not None
        self.replica.learned(update)
        dense = Update(update.keys[cut:], np.ascontiguousarray(update.values[cut:]), update.weight)
        total = sync.total(self.job.link, dense, combine, table[:, 1].astype(int).tolist(), table[:, 0].tolist())
        self.replica.take(total)
        number = self.board.mine
        sparse = Update(update.keys[:cut], np.ascontiguousarray(update.values[:cut]), 0.0)
        letter = Letter(number, np.array([0.0] if self.keeper is None else self.keeper.said()), sparse)
        self.post.broadcast(letter)
        self._enter(self.board.rank, letter)
        for rank, other in self.post.arrived():
            self._enter(rank, other)
        while not self.board.may_learn:
            self._wait()
        return total

    def _wait(self) -> None:
        rank = next(r for r in self.board.missing if r != self.board.rank)
        self._enter(rank, self.post.take(rank, f"sparse rows of round {self.board.done + 1}"))

    def _enter(self, rank: int, letter: Letter) -> None:
        assert letter.update is not None
        if self.keeper is not None and rank != self.board.rank:
            self.keeper.told(rank, letter.ticket)
        self.replica.add(letter.number, rank, letter.update)
        self.board, commits = advance(self.board, Arrived(rank))
        for commit in commits:
            self.whole[commit.round] = self.replica.commit(commit.round)
