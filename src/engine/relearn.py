"""Carries a strategy out in a job: holds rows back, relearns from them, watches for drift, lets only good models out.

Every decision is made from figures that all ranks have (row counts, the step's vote), so all decide alike and what they
then do together is collective: a relearning is a job of its own, over the rows that each rank holds, by the same loop.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine import loop, resume
from engine.comm import sync
from engine.errors import ConfigError, DataError
from engine.store import held
from engine.types import Array, Batch, Block, Model, State, join
from engine.update import drift
from engine.update import strategy as plans
from engine.update.drift import Detector
from engine.watch.meter import Meter

LOW = ("logloss", "rmse", "mae")  # metrics of which less is better
AUTO_ROWS = 2000
ALONE = 4096  # rows a worker without others takes at once


@dataclass
class Relearn:
    """What a job does beside learning each row as it comes.

    `make(tracked)`: a new model; `again()`: the job's stream from its first row, or None where it cannot be
    read twice; `note(event,
    rows, **more)`: tells rank 0's diary.  `on_drift`: mark, task, reset or retrain.  `gate`: metric by which a relearned
    or published model must not be worse.  `publish`: directory that takes the models let out.
    """

    recipe: plans.Recipe
    make: Callable[[bool], Model]
    again: Callable[[], Any] | None = None
    note: Callable[..., None] = lambda *args, **more: None
    detector: Detector | None = None
    on_drift: str = "mark"
    drift_window: int = 2000
    gate: str = ""
    spool: str = "memory"
    auto: tuple[tuple[float, float], plans.Wish] | None = None
    expected: float = 0.0
    save: Callable[[loop.Job], None] | None = None
    held: held.Memory | held.Disk = field(default_factory=held.Memory)
    ranks: tuple[int, int] = (0, 1)  # this one, and how many
    since: int = 0        # rows (all ranks) at the last relearning
    seconds: float = 0.0  # spent relearning
    count: int = 0
    _errors: tuple[float, float] = (0.0, 0.0)
    _scale: Array = field(default_factory=lambda: np.zeros(2))
    publish_every: int = 1000
    delay: int = 0  # rows after which a label comes
    ends: bool = True  # whether a step without rows to come is the end
    _out: int = 0
    _waiting: list[Batch] = field(default_factory=list)
    _live: Model | None = None
    _meters: tuple[Meter, Meter] | None = None

    @property
    def keeps(self) -> int:
        """Rows back from now that may be asked for: -1 = all, 0 = none."""
        wanted = [self.drift_window] if self.on_drift == "retrain" and self.detector else []
        if self.recipe.every:
            wanted.append({0: -1}.get(self.recipe.window, max(self.recipe.window, self.recipe.every)))
        if self.auto:
            return -1
        return -1 if -1 in wanted else max(wanted, default=0)

    def learn(self, job: loop.Job, rows: Batch) -> tuple[Batch, Array]:
        """Scores before learning; the live model learns where the strategy has it so."""
        if self.recipe.live and self.delay:
            scores = job.team.models[0].predict(rows)
            self._waiting.append(rows)
            self._due(job, int(rows.order[-1]) - self.delay)
        elif self.recipe.live:
            rows, scores = job.team.learn(rows, job.k)
        else:
            scores = job.team.models[0].predict(rows)
        if self.spool in ("memory", "disk") and self.keeps:
            self.held.add(job.clock.rows, rows)
        self._errors = self._counted(scores, rows, job.meter.task)
        if self._meters is not None and self._live is not None:
            self._meters[0].add(scores, rows)
            self._meters[1].add(self._live.predict(rows), rows)
        return rows, scores

    def _due(self, job: loop.Job, last: int) -> None:
        """Learns the rows whose labels have come: those of an order up to `last`."""
        come = []
        while self._waiting and self._waiting[0].order[0] <= last:
            first = self._waiting.pop(0)
            count = int(np.searchsorted(first.order, last, side="right"))
            come.append(first.slice(0, count))
            if count < len(first):
                self._waiting.insert(0, first.slice(count, len(first)))
                break
        if come:
            job.team.learn(join(come), job.k)

    def _counted(self, scores: Array, rows: Batch, task: str) -> tuple[float, float]:
        """Rows with a label and their errors: wrong classes, or distances as shares of four times the mean one, up to 1."""
        seen = ~np.isnan(rows.y)
        if task == "regression":
            far = np.abs(scores[seen] - rows.y[seen]).astype(float)
            usual = 4 * self._scale[1] / self._scale[0] if self._scale[0] else np.inf
            self._far = float(far[np.isfinite(far)].sum())
            return float(seen.sum()), float(np.minimum(np.nan_to_num(far / usual, nan=1.0), 1).sum())
        wrong = (scores > 0) != (rows.y > 0) if task == "binary" else scores.argmax(1) != rows.y
        return float(seen.sum()), float((wrong & seen).sum())

    _far = 0.0

    def pledge(self) -> list[float]:
        """What this rank adds to the step's vote: rows with a label, their errors, their distances."""
        (rows, errors), self._errors = self._errors, (0.0, 0.0)
        far, self._far = self._far, 0.0
        return [rows, errors, far]

    def heard(self, job: loop.Job, table: Array, total: int, left: bool) -> None:
        """After the exchange of a step: what is due. `table` `(ranks, 3)`: every rank's pledge; `total`: rows so far."""
        self.held.settle(job.clock.rows)
        rows, errors, far = table.sum(axis=0).tolist()
        self._scale += (rows, far)
        if self.auto and total >= AUTO_ROWS:
            self._pick(job, total)
        if self.detector is not None and rows and self.detector.add(rows, errors):
            self.note("drift", total, action=self.on_drift)
            self._drifted(job, total)
        ended = self.ends and not left
        due = self.recipe.every and (total - self.since >= self.recipe.every or (ended and self.recipe.window == -1))
        if due and total > self.since:
            self._relearn(job, total, self.recipe.window, self.recipe.fresh)
        if self.save is not None and total - self._out >= max(self.publish_every, 1):
            self._out = total
            self.publish(job)
        self._trim(total)

    def state(self) -> State:
        """What a run that goes on needs, rows that wait for their labels too; those held for relearning stay where they are."""
        state = held.packed(self.ranks[0], self._waiting) | self.held.state()
        state |= {"tactic/counts": Block(np.array([float(self.since), float(self._out), *self._scale]))}
        if self.detector is not None:
            state["tactic/drift"] = Block(np.atleast_1d(self.detector.state()))
        return state

    def load(self, state: Mapping[str, Block]) -> None:
        """Goes on from what `state` gave, on any number of ranks."""
        self.held.load(state)
        self._waiting = held.unpacked(state, *self.ranks)
        if "tactic/counts" in state:
            counts = state["tactic/counts"].data
            self.since, self._out, self._scale = int(counts[0]), int(counts[1]), counts[2:].copy()
        if self.detector is not None and "tactic/drift" in state:
            self.detector.load(state["tactic/drift"].data)

    def _drifted(self, job: loop.Job, total: int) -> None:
        if self.on_drift == "task":
            for model in job.team.models:
                if hasattr(model, "begin"):
                    model.begin()
        elif self.on_drift == "reset":
            _replace(job, self.make)
        elif self.on_drift == "retrain":
            self._relearn(job, total, self.drift_window, True)

    def _trim(self, total: int) -> None:
        """Forgets rows that nothing may ask for any more."""
        if self.keeps >= 0:
            self.held.trim(total - self.keeps)

    def _rows(self, job: loop.Job, total: int, window: int) -> Queue | Again:
        """This rank's rows of the last `window` (0 = all, -1 = since the last relearning), handed out step by step."""
        first = max(0, self.since if window == -1 else total - window if window else 0)
        kept = self.spool in ("memory", "disk")
        if kept and not sync.vote(job.link, [self.held.lost], None, name="rows held")[:, 0].any():
            if job.shared:  # whole steps, so that ranks begin together and a reading from the source gives the same
                return Queue((rows for start, rows in self.held.since(first) if start >= first), whole=True)
            return Queue(rows for _, step in self.held.since(first) if len(rows := _between(step, first, total)))
        if self.spool != "none" and self.again is not None:
            return Again(self.again(), job.stage, first, total, job.workers * job.k if job.shared else 0)
        raise DataError(f"strategy: rows {first} to {total} are needed again, and neither the source can be read twice "
                        "nor are rows kept", fix="update.spool=disk keeps them over a resume, memory until the process ends")

    def _relearn(self, job: loop.Job, total: int, window: int, fresh: bool) -> None:
        """Learns the rows again on all ranks; the model that comes out replaces the live one where the gate lets it."""
        began, (live_rows, live) = time.perf_counter(), (total - self.since, self._figure(job))
        team = loop.Team(self.make(job.shared), len(job.team.models)) if fresh else job.team
        first = Meter(job.meter.task, max(job.meter.classes, 2), window=job.meter.window)
        for epoch in range(self.recipe.epochs):
            meter = first if epoch == 0 else Meter(job.meter.task, max(job.meter.classes, 2), window=job.meter.window)
            queue = self._rows(job, total, window)
            k = job.k if job.shared or isinstance(queue, Again) else max(job.k, ALONE)
            sub = loop.Job(job.link, team, meter, queue, k, beat=job.beat)
            while True:
                tick = loop.step(sub, queue.take(k * len(team.models)))
                if not (tick.left or tick.rows):
                    break
        self.since, self.count = total, self.count + 1
        took = time.perf_counter() - began
        self.seconds += took
        passed, found = True, float("nan")
        if fresh:
            found = self._window(job, first)
            passed = not self.gate or live_rows == total or not _worse(self.gate, found, live)
            if passed:
                job.team.models[:] = team.models
            team.close()
        self.note("relearned" if passed else "gate", total, seconds=took, window=window, metric=self.gate or None,
                  found=found if self.gate else None, live=live if self.gate else None)

    def _figure(self, job: loop.Job) -> float:
        return self._window(job, job.meter) if self.gate else float("nan")

    def _window(self, job: loop.Job, meter: Meter) -> float:
        """The gate's metric over the last window of all ranks (collective where there is a gate)."""
        if not self.gate:
            return float("nan")
        states = job.link.gather(meter.state(), name="gate")
        found = None if states is None else Meter.merged(states).summary().get(f"window_{self.gate}")
        found = job.link.bcast(found, name="gate")
        if found is None:
            raise ConfigError(f"update.gate: expected a metric of the task, found {self.gate!r}",
                              fix="accuracy, logloss, or rmse and mae for regression")
        return float(found)

    def publish(self, job: loop.Job) -> bool:
        """Lets the model out where it is not worse than the one that is out, on the rows since that one was (collective)."""
        if self.save is None:
            return False
        passed = True
        if self._meters is not None and self.gate:
            new, old = self._window(job, self._meters[0]), self._window(job, self._meters[1])
            passed = not _worse(self.gate, new, old)
            self.note("published" if passed else "gate", job.clock.rows, metric=self.gate, found=new, live=old)
        if passed:
            self.save(job)
            self._live = job.team.models[0].fork()
            made = [Meter(job.meter.task, max(job.meter.classes, 2), window=job.meter.window) for _ in range(2)]
            self._meters = made[0], made[1]
        return passed

    def _pick(self, job: loop.Job, total: int) -> None:
        """Chooses the strategy that the budget allows, from rank 0's figures."""
        assert self.auto is not None
        (limits, wish), self.auto = self.auto, None
        state = job.team.models[0].state()
        first = next(iter(self.held.since()), None)
        size = first[1].x.shape[1] * 4 if first is not None and first[1].x is not None else 200
        rate = total / max(job.counts.values.get("learn_s", 0.0) + job.counts.values.get("merge_s", 0.0), 1e-9)
        facts = plans.Facts(max(self.expected, 2.0 * total), sum(b.data.size for b in state.values()), float(size + 24), rate)
        name, wish, why = job.link.bcast(plans.choose(facts, limits, wish), name="strategy")
        self.recipe = plans.recipe(name, wish)
        self.note("strategy", total, chosen=name, why=why)


class Queue:
    """Batches handed out in lots of k rows, or `whole`, one a step; the next is asked for when the last has gone."""

    def __init__(self, rows: Iterable[Batch], whole: bool = False) -> None:
        self._rows, self._row, self._whole = iter(rows), 0, whole
        self._now = next(self._rows, None)

    def take(self, k: int) -> Batch | None:
        parts, need = [], k
        while self._now is not None and need > 0:
            part = self._now if self._whole else self._now.slice(self._row, min(len(self._now), self._row + need))
            self._row += len(part)
            need = 0 if self._whole else need - len(part)
            if self._row >= len(self._now):
                self._now, self._row = next(self._rows, None), 0
            parts.append(part)
        return join(parts) if parts else None

    @property
    def left(self) -> bool:
        return self._now is not None


class Again:
    """The rows [first, total) of a stream read anew. Every rank takes from it in every step, as from the first reading.

    `stride` > 0: rows of all ranks a step; then steps that begin before `first` are passed over whole.
    """

    def __init__(self, rows: Any, stage: Any, first: int, total: int, stride: int) -> None:
        self._stream, self._stage, self._first, self._total, self._over = rows, stage, first, total, False
        self._stride, self._step = stride, 0

    def take(self, k: int) -> Batch | None:
        rows = self._stream.take(k)
        start, self._step = self._step * self._stride, self._step + 1
        if rows is None or not len(rows):
            self._over = self._over or not hasattr(self._stream, "left")  # dealt rows end on all ranks at once
            return None
        self._over = bool(rows.order[-1] >= self._total - 1)
        if self._stride:
            kept = _between(rows, 0 if start >= self._first else self._total, self._total)
        else:
            kept = _between(rows, self._first, self._total)
        return kept if self._stage is None or not len(kept) else self._stage.transform(kept)

    @property
    def left(self) -> bool:
        return not self._over and bool(getattr(self._stream, "left", True))


def _between(rows: Batch, first: int, last: int) -> Batch:
    """The rows whose place is in [first, last)."""
    keep = np.flatnonzero((rows.order >= first) & (rows.order < last))
    return rows if len(keep) == len(rows) else rows.take(keep)


def _replace(job: loop.Job, make: Callable[[bool], Model]) -> None:
    """New models in the place of the live ones, the same on every rank."""
    first = make(job.shared)
    job.team.models[:] = [first, *(first.fork() for _ in range(len(job.team.models) - 1))]


def _worse(metric: str, new: float, old: float) -> bool:
    if np.isnan(old):
        return False
    return bool(not new <= old if metric in LOW else not new >= old)


PLAIN = ("incremental", "stream", "partial", "distil", "decentralised")


def start(config: Any, job: loop.Job, schema: Any, source: Any = None,
          note: Callable[..., None] | None = None) -> Relearn | None:
    """What `[update]` asks for beside plain incremental learning; None where it asks for nothing."""
    from engine import job as jobs

    u = config.update
    watched = u.drift and config.model.kind != "forest"
    if u.strategy in PLAIN and not watched and not u.publish and not u.delay:
        return None
    if not isinstance(job.team, loop.Team):
        raise ConfigError("update: a strategy or a drift detector needs exchange.split=rows, found keys")
    wish, inner = jobs.relearned(config), schema if job.stage is None else job.stage.schema
    recipe = plans.recipe("incremental" if u.strategy == "auto" else u.strategy, wish)
    if job.link.size > 1 and (recipe.gossip or config.exchange.mode.partition(":")[0] not in ("bsp", "local")):
        raise ConfigError("update: relearning, drift and the gate are decided in lock-step, found exchange.mode="
                          f"{config.exchange.mode}, strategy {u.strategy}", fix="exchange.mode=bsp")
    made = drift.make(u.drift) if watched else None
    if made and u.on_drift == "task" and not hasattr(job.team.models[0], "begin"):
        raise ConfigError(f"update.on_drift=task: a {config.model.kind} model knows no tasks", fix="update.on_drift=retrain")
    once = getattr(source, "live", False) or getattr(source, "streamed", lambda piece: False)(0)
    twice = source is not None and not once

    def again() -> Any:
        return jobs.stream(config, job.link, source, None)

    def save(job: loop.Job) -> None:
        resume.save(job, config, u.publish, schema)

    spool, kept = _kept(config, job, twice)
    finest = recipe.every or u.delay or (jobs.interval(config) if made or u.strategy == "auto" else job.k)
    job.k = max(1, min(job.k, finest // job.workers))
    return Relearn(
        recipe, lambda tracked: jobs.build(config, inner, tracked=tracked), again if twice else None,
        note or (lambda *a, **m: None), made, u.on_drift, u.window or 2000, u.gate or "", spool,
        (plans.budget(u.budget), wish) if u.strategy == "auto" else None,
        float(getattr(source, "pieces", 0) or 0) * float(getattr(source, "piece_rows", 0) or 0), save if u.publish else None,
        publish_every=u.every, delay=u.delay, ends=source is not None, held=kept, ranks=(job.link.rank, job.link.size))


def _kept(config: Any, job: loop.Job, twice: bool) -> tuple[str, held.Memory | held.Disk]:
    """Where rows that may be asked for again are: on disk where that is asked for, or rows of a live source are spooled."""
    spooled = config.update.spool == "memory" and config.data.spool and not twice
    if config.update.spool != "disk" and not spooled:
        return config.update.spool, held.Memory()
    if not config.checkpoint.dir:
        raise ConfigError("update.spool=disk: rows leave it when no checkpoint needs them, found no checkpoint.dir",
                          fix="--checkpoint DIR, or update.spool=memory")
    folder = config.data.spool or config.checkpoint.dir
    return "disk", held.Disk(folder, job.link.rank, job.link.size, config.checkpoint.keep)
