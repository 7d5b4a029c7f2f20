"""Asynchronous (ASP): nobody waits for anybody. The owner of a range of rows applies what arrives, in order of arrival.

    learn -> push to the owners -> apply what was pushed here -> give back changed rows -> learn on

A rank's view is the owners' rows as last heard of, with its own pushes that they have not yet applied on top. Queues are
bounded by writing together: while two messages to an owner are under way, further updates are summed into one; while two
to a reader are under way, changed rows are only noted. Rank 0 hears every rank's progress and calls all to settle when
something is due: everything pushed is applied, every owner's rows go to all, and all ranks hold the same bytes.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from engine import loop
from engine.cluster import clock as clocks
from engine.errors import ConfigError, PeerError
from engine.modes.post import LAST, Letter, Post
from engine.modes.stale import once
from engine.source import stream as streams
from engine.types import Array, Update
from engine.update.merge import combine
from engine.update.replica import damp

PUSH, PULL, CALL = 136, 137, 138
QUEUE = 2  # messages under way to one rank before what follows is written together
IDLE_S = 5e-4


class Owner:
    """One rank's side of a run. Its model has `follow` and rows in one block (the linear family)."""

    def __init__(self, job: loop.Job, power: float = 0.0) -> None:
        model: Any = job.team.models[0]
        if not hasattr(model, "follow"):
            raise ConfigError(f"exchange.mode=asp: expected a linear model, found {type(model).__name__}",
                              fix="exchange.mode=ssp:4")
        if isinstance(job.stream, streams.Dealt):
            raise ConfigError("exchange.mode=asp: dealing rows over ranks waits for all of them", fix="data.rule=part")
        self.job, self.power, self.me = job, power, job.link.rank
        self.kept = model.fork()
        rows = len(self.kept._block)
        self.bounds = np.array([rows * r // job.link.size for r in range(1, job.link.size)], np.uint32)
        self.pushes, self.pulls = Post(job.link, PUSH, "pushes"), Post(job.link, PULL, "rows of owners")
        self.calls = Post(job.link, CALL, "call to settle")
        size = job.link.size
        self.flying: list[list[tuple[int, Update]]] = [[] for _ in range(size)]  # pushed to r, not known to be applied
        self.waiting: list[Update | None] = [None] * size  # written together for r
        self.sent, self.applied, self.version, self.heard = [0] * size, [0] * size, 0, [0] * size
        self.changed: list[list[Array]] = [[] for _ in range(size)]  # rows of mine that r has not seen
        self.dirty: list[Array] = []  # rows by which the view may differ from `kept`
        self.progress = np.zeros((size, 6))  # at rank 0: rows so far, -, label, left, stop, time of each rank
        self.progress[:, 3], self.counted, self.rows = 1, 0, 0
        self.told = -1.0
        self.failed: BaseException | None = None
        self.busy_s = time.monotonic()

    def run(self) -> Iterator[loop.Event]:
        """Until rank 0 says stop; yields each due action, in the same state on every rank."""
        more = True
        while True:
            more = self.learn() if more else self.idle()
            called = self.serve()
            if called is not None:
                for event in self.settle(called):
                    yield event
                    if isinstance(event.action, clocks.Stop):
                        return

    def learn(self) -> bool:
        """One interval of rows; False where there are none left."""
        job, error, scores, update = self.job, None, None, None
        self.refresh()
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
        table[self.me] = [count, 0, float(rows.y[-1]) if rows is not None and count else np.nan, 0, 0, 0]
        loop.score(job, rows, scores, table)
        self.rows += count
        left = bool(getattr(job.stream, "left", rows is not None))
        if update is not None and len(update.values):
            self.dirty.append(update.keys if update.keys is not None else np.empty(0, np.uint32))
            self._push(update)
        self._report(left, error)
        return left or count > 0

    def _report(self, left: bool, error: BaseException | None) -> None:
        """Rank 0 hears how far this rank is."""
        ticket = np.array([self.rows, 0, self.job.label, left, loop.STOPS.index(self.job.stop()),
                           time.monotonic() - self.job.began_s])
        news = error is not None or self.rows + ticket[3:5].sum() / 8 != self.told
        if self.me == 0:
            self._progress(0, Letter(0, ticket, None, error))
        elif news and (error is not None or not left or self.calls.waiting(0) < QUEUE):
            self.calls.send(Letter(0, ticket, None, error), 0)
            self.told = self.rows + ticket[3:5].sum() / 8

    def _push(self, update: Update) -> None:
        """To each owner its rows; special rows (clock, scaler) are rank 0's, and so is the count of rows."""
        assert update.keys is not None
        special = int(np.searchsorted(update.keys, len(self.kept._block)))
        cuts = [0, *np.searchsorted(update.keys[:special], self.bounds).tolist(), special]
        for rank in range(self.job.link.size):
            at = np.arange(cuts[rank], cuts[rank + 1])
            if rank == 0:
                at = np.append(at, np.arange(special, len(update.keys)))
            if not len(at) and rank:
                continue
            part = Update(update.keys[at], np.ascontiguousarray(update.values[at]), update.weight if rank == 0 else 0.0)
            held = self.waiting[rank]
            self.waiting[rank] = part if held is None else combine([held, part])
        self._flush()

    def _flush(self, always: bool = False) -> None:
        for rank, part in enumerate(self.waiting):
            if part is None or (rank != self.me and not always and self.pushes.waiting(rank) >= QUEUE):
                continue
            self.waiting[rank] = None
            if rank == self.me:
                self._apply(part, 0.0)
                continue
            self.sent[rank] += 1
            self.flying[rank].append((self.sent[rank], part))
            self.pushes.send(Letter(self.sent[rank], np.array([self.heard[rank], time.monotonic()]), part), rank)

    def _apply(self, update: Update, age: float) -> None:
        """Merge a push into my rows."""
        update = damp(update, age, self.power)
        self.kept.merge(update, 1)
        self.version += 1
        if update.keys is not None:
            self.dirty.append(update.keys)
            for rank in self.pulls.others:
                self.changed[rank].append(update.keys)

    def serve(self) -> tuple[list[clocks.Action], clocks.Clock, BaseException | None] | None:
        """Applies what was pushed here, takes rows of other owners, gives mine; what rank 0 calls for, if it does."""
        for rank, letter in self.pushes.arrived():
            self._pushed(rank, letter)
        for rank, letter in self.pulls.arrived():
            self._pulled(rank, letter)
        self._flush()
        self._give()
        if self.me == 0:
            for rank, letter in self.calls.arrived():
                self._progress(rank, letter)
            return self._decide()
        for _, letter in self.calls.arrived():
            return letter.extra
        return None

    def _pushed(self, rank: int, letter: Letter) -> None:
        if letter.update is None:  # the last before settling
            return
        age = max(0, self.version - int(letter.ticket[0])) / max(1, self.job.link.size - 1)
        values = self.job.counts.values
        self.job.counts.add("stale_sum", age)
        self.job.counts.add("stale_reads")
        values["stale_most"] = max(values.get("stale_most", 0), age)
        self._apply(letter.update, age)
        self.applied[rank] = letter.number
        self.busy_s = time.monotonic()

    def _give(self, always: bool = False) -> None:
        """Rows of mine that changed, to every rank that can take them: values as they are now, however often they changed."""
        for rank in self.pulls.others:
            if always or (self.changed[rank] and self.pulls.waiting(rank) < QUEUE):
                keys = np.unique(np.concatenate(self.changed[rank])) if self.changed[rank] else np.empty(0, np.uint32)
                self.changed[rank] = []
                keys = keys[: np.searchsorted(keys, len(self.kept._block))]
                rows = Update(keys, self.kept._block[keys, :3], 0.0)
                extra = (self.kept._clock, self.kept._scale) if self.me == 0 else None
                number = LAST if always else self.version
                self.pulls.send(Letter(number, np.array([self.applied[rank], time.monotonic()]), rows, extra=extra), rank)

    def _pulled(self, rank: int, letter: Letter) -> None:
        rows, kept = letter.update, self.kept
        assert rows is not None and rows.keys is not None
        kept._block[rows.keys, :3] = rows.values
        if letter.extra is not None:
            kept._clock[:] = letter.extra[0]
            if kept._scale is not None:
                kept._scale[:] = letter.extra[1]
            kept._mark_base()
        self.dirty.append(rows.keys)
        if letter.number != LAST:
            self.heard[rank] = letter.number
        done, flying = int(letter.ticket[0]), self.flying[rank]
        while flying and flying[0][0] <= done:
            keys = flying.pop(0)[1].keys
            if keys is not None:
                self.dirty.append(keys)
        self.busy_s = time.monotonic()
        self.job.counts.add("fresh_s", time.monotonic() - letter.ticket[1])
        self.job.counts.add("fresh_rounds")

    def refresh(self) -> None:
        """The view: the owners' rows as last heard of, then my pushes that they have not applied."""
        keys = np.unique(np.concatenate(self.dirty)) if self.dirty else np.empty(0, np.uint32)
        own = [u for flying in self.flying for _, u in flying] + [u for u in self.waiting if u is not None]
        total = combine(own) if own else None
        models: list[Any] = list(self.job.team.models)
        for model in models:
            model.follow(self.kept, keys)
            if total is not None:
                model.merge(total, 1)
        self.dirty = [total.keys] if total is not None and total.keys is not None else []

    def idle(self) -> bool:
        """No rows left: serves until called; the peer that keeps everybody waiting is rank 0's to name."""
        time.sleep(IDLE_S)
        waited = time.monotonic() - self.busy_s
        limit = getattr(self.job.link, "timeout_s", 300.0)
        if waited > limit:
            late = [r for r in range(self.job.link.size) if self.me == 0 and self.progress[r, 3]] or [0]
            raise PeerError(f"rank {self.me} waited {waited:.1f} s in 'call to settle' for rank {', '.join(map(str, late))}")
        self._report(False, None)
        return False

    def _progress(self, rank: int, letter: Letter) -> None:
        self.progress[rank] = letter.ticket
        self.failed = self.failed or letter.error
        self.busy_s = time.monotonic()

    def _decide(self) -> tuple[list[clocks.Action], clocks.Clock, BaseException | None] | None:
        """At rank 0: what is due, told to all."""
        rows, failed = int(self.progress[:, 0].sum()), self.failed
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

    def settle(self, call: tuple[list[clocks.Action], clocks.Clock, BaseException | None]) -> Iterator[loop.Event]:
        """All that was pushed is applied; every owner's rows are everywhere; then what is due."""
        actions, self.job.clock, failed = call
        if failed is not None:
            raise failed
        self._flush(always=True)
        for rank in self.pushes.others:
            self.pushes.send(Letter(LAST, np.zeros(2), None), rank)
        for rank, letter in self.pushes.until_last():
            self._pushed(rank, letter)
        self._give(always=True)
        for rank, letter in self.pulls.until_last():
            self._pulled(rank, letter)
        self.pushes.finish()
        self.pulls.finish()
        self.flying = [[] for _ in self.flying]
        self.refresh()
        if self.job.stage is not None:
            self.job.stage.exchange(self.job.link)
        self._count()
        for action in once(actions):
            yield loop.Event(action, self.job.clock.step, self.job.clock.rows)

    def _count(self) -> None:
        """Rows learned since rank 0 was last told: after settling the clock is right."""
        if self.me:
            ticket = np.array([self.rows, 0, self.job.label, 1, 0, time.monotonic() - self.job.began_s])
            self.calls.send(Letter(LAST, ticket, None), 0)
            self.told = -1.0
        else:
            left = self.progress[:, 3].copy()
            self.progress[0, 0] = self.rows
            for rank, letter in self.calls.until_last():
                self._progress(rank, letter)
            self.progress[:, 3] = left
            rows = int(self.progress[:, 0].sum())
            self.job.clock = replace(self.job.clock, rows=self.job.clock.rows + rows - self.counted)
            self.counted = rows
        self.job.clock = self.job.link.bcast(self.job.clock, name="rows counted")
