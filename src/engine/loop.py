"""The one visible loop: rows in, scored, learned, merged over ranks; then what the clock says is due.

    rows -> score and learn (threads of this rank) -> vote -> merge (all ranks) -> save, report, stop

A step is collective. Ranks vote once a step; an error of any rank is raised on every rank, and a rank without rows
takes part with weight 0, so uneven data never hangs.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from engine.clean.pipeline import Pipeline
from engine.cluster.adapt import Review
from engine.cluster.clock import Action, Clock, Report, Rules, Save, Stop, Tick, advance, pace
from engine.comm import sync
from engine.crew import Crew
from engine.grid import Grid
from engine.source import stream as streams
from engine.types import Array, Batch, Block, Counts, Link, Model, State, Update
from engine.update.merge import combine
from engine.watch.meter import Meter

STOPS = ("", "row limit", "SIGTERM", "SIGUSR1", "SIGINT")
# Takes this rank's update and the step's votes (a row a rank: rows, size of the update, …); leaves every replica merged.
Exchange = Callable[["Job", Update, Array], None]


def synchronous(job: Job, update: Update, table: Array) -> None:
    """The exchange of lock-step: the updates of all ranks are summed, and every replica takes the sum."""
    total = sync.total(job.link, update, combine, table[:, 1].astype(int).tolist(), table[:, 0].tolist())
    job.team.merge(total, job.workers)
    job.merged = total


def ordered(job: Job, update: Update, table: Array) -> None:
    """The exchange of a run that is to give the same bits on any number of ranks: replicas are summed one by one, in order."""
    began = time.perf_counter()
    total = sync.ordered(job.link, [model.update() for model in job.team.models], combine)
    job.team.merge(total, job.workers)
    job.merged = total
    job.counts.add("order_s", time.perf_counter() - began)


class Keeper(Protocol):
    """What keeps committed steps safe: says in each vote what it holds of the step before, hears all, then takes the next."""

    def pledge(self) -> list[float]: ...
    def heard(self, table: Array) -> None: ...
    def commit(self, job: Job) -> None: ...


class Memory(Protocol):
    """What an exchange keeps from step to step: `fold` gives it for a checkpoint (collective), with the global rows of the
    blocks of which each rank has a part; the run goes on as one that begins with it would. `view`: what of it is kept in
    node memory at each step, the same on every rank, as live arrays.
    """

    def view(self) -> State: ...
    def fold(self, job: Job) -> tuple[State, dict[str, tuple[int, int, int]]]: ...


class Tactic(Protocol):
    """What learns otherwise than each row as it comes: its three figures of each vote are `(ranks, 3)` when it hears them."""

    def learn(self, job: Job, rows: Batch) -> tuple[Batch, Array]: ...
    def pledge(self) -> list[float]: ...
    def heard(self, job: Job, table: Array, total: int, left: bool) -> None: ...
    def state(self) -> State: ...
    def load(self, state: Mapping[str, Block]) -> None: ...


class Sift(Protocol):
    """What stands between the stream and the step where rows have a time or an id: see events.py."""

    left: bool

    def sift(self, rows: Batch | None, left: bool) -> Batch | None: ...
    def settle(self, job: Job) -> None: ...
    def scored(self, rows: Batch, scores: Array, task: str = "") -> None: ...
    def close(self, final: bool = False) -> None: ...
    def state(self) -> State: ...
    def load(self, state: Mapping[str, Block]) -> None: ...


class Team:
    """The replicas of one rank, a thread each; after `merge` all hold the same bits. `stand`: epoch, step and digest of the
    step that they hold, where they were kept through a recovery (survive/live.py).
    """

    stand: tuple[int, int, int] | None = None

    def __init__(self, model: Model, threads: int) -> None:
        self.models: list[Model] = [model, *(model.fork() for _ in range(threads - 1))]
        self._pool = ThreadPoolExecutor(threads - 1, "learn") if threads > 1 else None

    def learn(self, batch: Batch, k: int) -> tuple[Batch, Array]:
        """The rows to count and their scores before learning; worker t learns rows [t k, (t + 1) k).

        An error of any worker is raised here.
        """
        if self._pool is None:
            return batch, self.models[0].learn(batch)
        cuts = [min(t * k, len(batch)) for t in range(len(self.models))] + [len(batch)]
        parts = [batch.slice(a, b) for a, b in pairwise(cuts)]
        later = [self._pool.submit(m.learn, part) for m, part in zip(self.models[1:], parts[1:], strict=True)]
        scores = [self.models[0].learn(parts[0])]
        return batch, np.concatenate(scores + [job.result() for job in later])

    def state(self) -> State:
        """What every replica holds alike."""
        return self.models[0].state()

    def load(self, state: Mapping[str, Block]) -> None:
        """Every replica takes what `state` gave."""
        for model in self.models:
            model.load(state)

    def update(self) -> Update:
        """The contribution of all replicas since the base, summed in worker order."""
        return self._every("update", combine)

    def merge(self, total: Update, workers: int) -> None:
        """Every replica takes the same sum over all workers of the job."""
        self._every("merge", list, total, workers)

    def _every(self, name: str, fold: Callable[[list[Any]], Any], *args: Any) -> Any:
        if self._pool is None:
            found = getattr(self.models[0], name)(*args)
            return found if name == "update" else None
        later = [self._pool.submit(getattr(m, name), *args) for m in self.models[1:]]
        return fold([getattr(self.models[0], name)(*args), *(job.result() for job in later)])

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown()


@dataclass
class Job:
    """Everything a step needs. `k`: rows a worker learns between exchanges, which follows `every_s` where that is the
    interval; `exchange`: how ranks then agree; `stop()`: a signal's name or ""; `merged`: the sum the last step took, where
    the exchange has one; `keeper`: what keeps each step safe, if anything does; `memory`: what of the exchange belongs in a
    checkpoint (paths `exchange/...`), `recalled`: what the last one had of it, for the exchange to take; `text`: how the
    source's text is parsed, if it is text.
    """

    link: Link
    team: Team | Crew | Grid
    meter: Meter
    stream: Any
    k: int
    every_s: float = 0.0
    rules: Rules = field(default_factory=Rules)
    clock: Clock = field(default_factory=Clock)
    stage: Pipeline | None = None
    exchange: Exchange = synchronous
    merged: Update | None = None
    keeper: Keeper | None = None
    memory: Memory | None = None
    recalled: State = field(default_factory=dict)
    text: dict[str, Any] | None = None
    tactic: Tactic | None = None
    events: Sift | None = None
    stop: Callable[[], str] = str
    beat: Callable[[str], None] = lambda name: None
    reading: Callable[[str], AbstractContextManager[Any]] = nullcontext
    counts: Counts = field(default_factory=Counts)
    label: float = float("nan")
    voted_s: float = 0.0
    began_s: float = field(default_factory=time.monotonic)

    @property
    def workers(self) -> int:
        return self.link.size * len(self.team.models)

    @property
    def shared(self) -> bool:
        return self.workers > 1


@dataclass(frozen=True, slots=True)
class Event:
    """What the loop tells its caller after a step in which something was due, or every step in `steps` mode."""

    action: Action | Review
    step: int
    rows: int


def run(job: Job) -> Iterator[Event]:
    """Steps until the clock says stop; yields each due action for the caller to carry out (all ranks get the same)."""
    while True:
        for event in once(job):
            yield event
            if isinstance(event.action, Stop):
                return


def once(job: Job) -> list[Event]:
    """One step; what is due after it."""
    with job.reading("read rows"):
        rows = job.stream.take(job.k * len(job.team.models))
    if job.events is not None:
        rows = job.events.sift(rows, getattr(job.stream, "left", rows is not None))
    tick = step(job, rows)
    job.clock, actions = advance(job.clock, tick, job.rules)
    if job.keeper is not None and tick.rows:
        job.keeper.commit(job)
    return [Event(action, job.clock.step, job.clock.rows) for action in actions]


def step(job: Job, rows: Batch | None) -> Tick:
    """One collective step over this rank's `rows` (None or none: takes part with weight 0)."""
    began = time.perf_counter()
    job.beat(f"step {job.clock.step + 1}")
    scores, update, error = None, None, None
    try:
        if rows is not None and len(rows) and job.stage is not None:
            rows = job.stage.learn(rows)
        if rows is not None and len(rows):
            rows, scores = (job.team.learn(rows, job.k) if job.tactic is None else job.tactic.learn(job, rows))
        if job.events is not None:
            job.events.settle(job)
        if job.shared:
            update = job.team.update()
    except Exception as caught:
        error = caught
    learned = time.perf_counter()
    count = 0 if rows is None else len(rows)
    label = float(rows.y[-1]) if rows is not None and count else np.nan
    left = getattr(job.stream, "left", rows is not None) if job.events is None else job.events.left
    table = sync.vote(
        job.link,
        [count, 0 if update is None or update.keys is None else len(update.keys), label, left,
         STOPS.index(job.stop()), time.monotonic() - job.began_s,
         *(job.tactic.pledge() if job.tactic else ()), *(job.keeper.pledge() if job.keeper else ())],
        error, name=f"step {job.clock.step + 1}",
    )
    voted = time.perf_counter()
    if job.keeper is not None:
        job.keeper.heard(table[:, 9 if job.tactic else 6 :])
    job.merged = None
    score(job, rows, scores, table)
    if job.every_s:
        job.k, job.voted_s = pace(job.k, float(table[0, 5]) - job.voted_s, job.every_s), float(table[0, 5])
    if update is not None:
        job.exchange(job, update, table)
    if job.stage is not None:
        job.stage.exchange(job.link)
    if job.events is not None:
        job.events.close()
    if job.tactic is not None:
        job.tactic.heard(job, table[:, 6:9], job.clock.rows + int(table[:, 0].sum()), bool(table[:, 3].any()))
    for name, seconds in (("learn_s", learned - began), ("wait_s", voted - learned),
                          ("merge_s", time.perf_counter() - voted)):
        job.counts.add(name, seconds)
    return Tick(int(table[:, 0].sum()), bool(table[:, 3].any()), STOPS[int(table[:, 4].max())], float(table[0, 5]))


def score(job: Job, rows: Batch | None, scores: Array | None, table: Array) -> None:
    """Counts the scores; the label before this rank's first row comes from the ranks before it, where unknown."""
    seen = np.flatnonzero(table[:, 0])
    if rows is not None and scores is not None:
        if np.isnan(rows.previous[0]) and not isinstance(job.stream, streams.Dealt):
            before = seen[seen < job.link.rank]
            rows.previous[0] = table[before[-1], 2] if len(before) else job.label
        job.meter.add(scores, rows)
        if job.events is not None:
            job.events.scored(rows, scores, job.meter.task)
    if len(seen):
        job.label = float(table[seen[-1], 2])


def merged_meter(job: Job) -> Meter | None:
    """The meter over all ranks, at rank 0 (collective)."""
    state = job.meter.state()
    hist = state.pop("hist")
    places = np.flatnonzero(hist)  # of 131 072 bins few are used: a report costs kilobytes, not a megabyte
    found = job.link.gather((state, hist.shape, places, hist.ravel()[places]), name="meters")
    return None if found is None else Meter.merged([_whole(*part) for part in found])


def _whole(state: dict[str, Array], shape: tuple[int, ...], places: Array, counts: Array) -> dict[str, Array]:
    hist = np.zeros(shape, np.int64)
    hist.ravel()[places] = counts
    return {**state, "hist": hist}


__all__ = ["Event", "Job", "Report", "Save", "Stop", "Team", "merged_meter", "once", "run", "score", "step"]
