"""Rows by what happened when: watermark, late rows, duplicates by id, labels that come later, windows of event time.

    stream.take -> sift (move to the id's owner, drop what was there, keep labels back) -> stages, learn -> windows

`sift` is collective, once a step: it takes one vote and, where rows have ids, moves each to the rank that owns its id, so
that a row and its duplicate or its label meet whatever way they came. What it remembers is in every checkpoint, named by
id and not by rank. With labels that come later it is also the job's tactic: a row is scored when it comes and learned when
its label does, with the score it had then (prequential with delay).
"""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine import job as jobs
from engine import loop
from engine.errors import ConfigError
from engine.source.event import MICRO, Panes, Seen, Watermark, firsts
from engine.source.stream import Plain, Wire, parted
from engine.types import NO_TIME, Array, Batch, Block, Link, State, join

COUNTS = ("rows", "late", "dropped", "duplicates", "untimed", "ahead", "joined", "expired", "unmatched")
CLIP = 16.0  # of margins, as the meter has it
FIELDS = ("y", "order", "previous", "x", "indptr", "keys", "values", "weight", "time", "id")


@dataclass
class Events:
    """This rank's part. `horizon`: microseconds (or rows, where rows have no time) that an id is remembered and a row waits
    for its label; `drop`: late rows are left out; `later`: labels come later, as rows of the same id.
    """

    link: Link
    mark: Watermark
    timed: bool
    named: bool
    horizon: int
    drop: bool = False
    later: bool = False
    panes: Panes | None = None
    tell: Callable[[dict[str, Any]], None] = lambda window: None  # rank 0: a window that has closed
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    left: bool = True
    wire: Wire = field(default_factory=Plain)

    def __post_init__(self) -> None:
        self.seen, self.labelled = Seen(self.horizon), Seen(self.horizon)
        self.sums: dict[int, Array] = {}
        self.closed = NO_TIME  # windows that end up to this pane are out
        self.rows_seen = 0     # of all ranks
        self._step: tuple[Array, Array, Array] = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))
        self._labels: list[Batch] = []          # rows that bring a label, of this step
        self._held: list[tuple[Batch, Array]] = []   # rows that wait for theirs, and their scores
        self._early: Batch | None = None        # labels that came before their rows
        self._last = np.float32(np.nan)
        self._began_us = time.monotonic_ns() // 1000

    # ---- before learning

    def sift(self, rows: Batch | None, left: bool) -> Batch | None:
        """The rows to score and learn now, of those the stream gave (collective); None where there are none."""
        lost = [what for what, asked in (("time", self.timed), ("id", self.named))
                if asked and rows is not None and len(rows) and getattr(rows, what) is None]
        if lost:
            raise ConfigError(f"time: expected rows with {lost[0]}, found none in what the source hands over",
                              fix=f"Batch({lost[0]}=…) of a program, or leave the setting out")
        if self.named and self.link.size > 1:
            rows = self._moved(rows)
        when = np.empty(0, np.int64) if rows is None or rows.time is None else rows.time
        newest, ahead = self.mark.offer(when, self.link.rank)
        count, now = 0 if rows is None else len(rows), time.monotonic_ns() // 1000 - self._began_us
        table = self.link.vote(np.array([newest, count, now, left], np.int64), name="event time")
        self.left = bool(table[:, 3].any())
        before = self.mark.value
        if self.timed:
            self.mark.hear(table[:, 0], table[:, 1], int(table[0, 2]))
        self.rows_seen += int(table[:, 1].sum())
        self.counts["ahead"] += ahead
        self.counts["rows"] += count
        if rows is not None and count:
            rows = self._judged(rows, before)
        if self.named:
            rows = self._known(rows)
        if rows is None or not len(rows):
            return None
        self._step = (rows.order, _or(rows.time, len(rows), NO_TIME, np.int64), _or(rows.id, len(rows), 0, np.uint64))
        return rows

    def _moved(self, rows: Batch | None) -> Batch | None:
        """Each row at the rank that owns its id; rows without one stay."""
        parts = list[Batch | None]([None] * self.link.size)
        if rows is not None and len(rows):
            assert rows.id is not None
            parts = parted(rows, np.where(rows.id == 0, self.link.rank, self._owner(rows.id)), self.link.size)
        found = self.wire.move(self.link, parts, "rows to owners of ids")
        if not found:
            return None
        rows = join(found)
        rows = rows.take(np.argsort(rows.order, kind="stable"))
        step = np.arange(len(rows))
        rows.order = np.maximum.accumulate(rows.order - step) + step  # places of rows learned where they are read may meet
        return rows

    def _judged(self, rows: Batch, watermark: int) -> Batch:
        """Counts late rows and rows without a time; leaves late ones out where that is asked for."""
        if not self.timed:
            return rows
        assert rows.time is not None
        late = (rows.time < watermark) & (rows.time != NO_TIME)
        self.counts["late"] += int(late.sum())
        self.counts["untimed"] += int(np.count_nonzero(rows.time == NO_TIME))
        if self.drop and late.any():
            self.counts["dropped"] += int(late.sum())
            rows = rows.take(np.flatnonzero(~late))
        return rows

    def _now(self) -> int:
        return max(self.mark.value, 0) if self.timed else self.rows_seen

    def _known(self, rows: Batch | None) -> Batch | None:
        """Without rows whose id was there before; labels that came apart are kept for `learn`."""
        now = self._now()
        if rows is None or not len(rows):
            self.seen.add(np.empty(0, np.uint64), now)
            return None
        assert rows.id is not None
        if not self.later:
            fresh = self.seen.add(rows.id, now)
            self.counts["duplicates"] += int(np.count_nonzero(~fresh))
            return rows if fresh.all() else rows.take(np.flatnonzero(fresh))
        return self._parted(rows, now)

    def _parted(self, rows: Batch, now: int) -> Batch | None:
        """Rows of features, each id once; rows that only bring a label, each id once, go to `learn`."""
        assert rows.id is not None
        bare = _bare(rows)
        label = ~np.isnan(rows.y) & (rows.id != 0) & (bare | self.seen.has(rows.id) | ~firsts(rows.id))
        ids = np.where(label, np.uint64(0), rows.id)
        fresh = (firsts(ids) & ~self.seen.has(ids)) | (rows.id == 0)
        new = label & ~self.labelled.has(rows.id)
        new[label] &= firsts(rows.id[label])
        self.counts["duplicates"] += int(np.count_nonzero(~label & ~fresh) + np.count_nonzero(label & ~new))
        self.seen.add(rows.id[~label & fresh & (rows.id != 0)], now)
        self.labelled.add(rows.id[new | (~label & fresh & (rows.id != 0) & ~np.isnan(rows.y))], now)
        if new.any():
            self._labels.append(rows.take(np.flatnonzero(new)))
        kept = rows.take(np.flatnonzero(~label & fresh))
        return self._foretold(kept) if len(kept) else None

    def _foretold(self, rows: Batch) -> Batch:
        """Rows whose label came before them have it at once; `previous` is the last label known when a row came."""
        assert rows.id is not None
        if self._early is not None and self._early.id is not None and len(self._early):
            order = np.argsort(self._early.id)
            place, found = _match(self._early.id[order], rows.id)
            rows.y = np.where(found & np.isnan(rows.y), self._early.y[order[place]], rows.y).astype(np.float32)
            self.counts["joined"] += int(found.sum())
            keep = np.ones(len(order), bool)
            keep[order[place[found]]] = False
            self._early = self._early.take(np.flatnonzero(keep))
        known = np.where(np.isnan(rows.y), -1, np.arange(len(rows)))
        last = np.concatenate([[-1], np.maximum.accumulate(known)[:-1]])
        rows.previous = np.where(last >= 0, rows.y[last], self._last).astype(np.float32)
        if known.max(initial=-1) >= 0:
            self._last = rows.y[known.max()]
        return rows

    # ---- learning, where labels come later

    def learn(self, job: loop.Job, rows: Batch) -> tuple[Batch, Array]:
        """Scores the rows, learns those that have a label; those that have none wait for it."""
        rows, scores = job.team.learn(rows, job.k)
        names = self._of(rows.order)[1]
        wait = np.flatnonzero(np.isnan(rows.y) & (names != 0))
        if len(wait):
            kept = rows.take(wait)
            kept.id, kept.time = names[wait], self._of(kept.order)[0]
            self._held.append((kept, scores[wait].copy()))
        return rows, scores

    def settle(self, job: loop.Job) -> None:
        """Joins the labels of this step to the rows that wait, scores these as they were and learns them; forgets the old."""
        labels, self._labels = self._labels, []
        if labels:
            come = join(labels) if self._early is None else join([self._early, *labels])
            self._early = come
            self._join(job, come)
        self._expire()

    def _join(self, job: loop.Job, come: Batch) -> None:
        assert come.id is not None
        order = np.argsort(come.id)
        names, used, left = come.id[order], np.zeros(len(come), bool), []
        for held, scores in self._held:
            assert held.id is not None
            place, found = _match(names, held.id)
            if not found.any():
                left.append((held, scores))
                continue
            hit = np.flatnonzero(found)
            rows = held.take(hit)
            rows.y = come.y[order[place[hit]]]
            used[order[place[hit]]] = True
            job.meter.add(scores[hit], rows)
            if come.time is not None:
                rows.time = come.time[order[place[hit]]]  # a score counts when its label came
            self.scored(rows, scores[hit])
            job.team.learn(replace(rows, previous=np.full(len(rows), np.nan, np.float32)), job.k)
            self.counts["joined"] += len(hit)
            rest = np.flatnonzero(~found)
            if len(rest):
                left.append((held.take(rest), scores[rest]))
        self._held = left
        if used.any():
            self._last = come.y[np.flatnonzero(used)[-1]]
        self._early = come.take(np.flatnonzero(~used))

    def _expire(self) -> None:
        """Forgets rows and labels that have waited for longer than the horizon."""
        now, left = self._now(), []
        for held, scores in self._held:
            born = _or(held.time, len(held), NO_TIME, np.int64) if self.timed else held.order
            keep = np.flatnonzero((born >= now - self.horizon) | ((born == NO_TIME) & self.timed))
            self.counts["expired"] += len(held) - len(keep)
            if len(keep):
                left.append((held, scores) if len(keep) == len(held) else (held.take(keep), scores[keep]))
        self._held = left
        if self._early is not None and len(self._early):
            born = _or(self._early.time, len(self._early), NO_TIME, np.int64) if self.timed else self._early.order
            keep = np.flatnonzero((born >= now - self.horizon) | ((born == NO_TIME) & self.timed))
            self.counts["unmatched"] += len(self._early) - len(keep)
            self._early = self._early.take(keep)

    def pledge(self) -> list[float]:
        return [0.0, 0.0, 0.0]

    def heard(self, job: loop.Job, table: Array, total: int, left: bool) -> None:
        """All that is decided here is decided in `sift`."""

    # ---- windows

    def _of(self, order: Array) -> tuple[Array, Array]:
        """Time and id of rows of this step, by their place."""
        places, when, names = self._step
        at = np.minimum(np.searchsorted(places, order), max(len(places) - 1, 0))
        return (when[at], names[at]) if len(places) else (np.full(len(order), NO_TIME), np.zeros(len(order), np.uint64))

    def scored(self, rows: Batch, scores: Array, task: str = "") -> None:
        """Adds scored rows to the panes of their windows; those of windows that are out are left out."""
        if self.panes is None:
            return
        self._task = task or self._task
        when = rows.order if self.panes.rows else rows.time if rows.time is not None else self._of(rows.order)[0]
        seen = ~np.isnan(rows.y) & (when != NO_TIME)
        if not seen.any():
            return
        pane = self.panes.of(when[seen])
        figures = _figures(self._task, scores[seen], rows.y[seen])
        for number in np.unique(pane).tolist():
            mine = pane == number
            total = np.array([mine.sum(), *figures[mine].sum(axis=0)])
            self.sums[number] = self.sums.get(number, np.zeros(4)) + total

    _task = "binary"

    def close(self, final: bool = False) -> None:
        """Tells of the windows that the watermark has passed, or of all; collective only where one may be due."""
        panes = self.panes
        if panes is None:
            return
        mark = self.rows_seen if panes.rows else self.mark.value
        upto = 1 << 62 if final else mark // panes.slide if mark != NO_TIME else NO_TIME
        if upto <= self.closed:
            return
        per = panes.size // panes.slide
        mine = [[pane, *total] for pane, total in sorted(self.sums.items()) if pane < upto]
        sums: dict[int, Array] = {}
        for part in self.link.allgather(np.array(mine, np.float64).reshape(-1, 5), name="windows"):
            for pane, *total in part.tolist():
                sums[int(pane)] = sums.get(int(pane), np.zeros(4)) + total
        ends = {end for pane in sums for end in range(pane + 1, pane + per + 1) if self.closed < end <= upto}
        for end in sorted(ends):
            total = sum((sums[pane] for pane in range(end - per, end) if pane in sums), np.zeros(4))
            self.tell(self._window(end - per, end * panes.slide, total))
        self.closed = upto
        self.sums = {pane: total for pane, total in self.sums.items() if pane + per > upto}

    def _window(self, first: int, end: int, total: Array) -> dict[str, Any]:
        assert self.panes is not None
        unit, (n, a, b, _) = 1 if self.panes.rows else MICRO, total.tolist()
        found = {"start": first * self.panes.slide / unit, "end": end / unit, "rows": int(n)}
        if self._task == "regression":
            return found | {"mae": a / n, "rmse": float(np.sqrt(b / n))}
        return found | {"accuracy": a / n, "logloss": b / n}

    # ---- what a checkpoint needs

    def state(self) -> State:
        """This rank's memory, by names under `time/RANK/`."""
        head = f"time/{self.link.rank:06d}/"
        seen, labelled = self.seen.dump(), self.labelled.dump()
        arrays = {"seen/id": seen[0], "seen/part": seen[1], "labelled/id": labelled[0], "labelled/part": labelled[1],
                  "mark": np.array([self.mark.value, self.rows_seen, self.closed], np.int64),
                  "newest": np.array([max(self.mark.newest.values(), default=NO_TIME)], np.int64),
                  "counts": np.array([self.counts[name] for name in COUNTS], np.int64),
                  "last": np.array([self._last], np.float32),
                  "pane": np.array(sorted(self.sums), np.int64),
                  "sums": np.array([self.sums[p] for p in sorted(self.sums)]).reshape(-1, 4)}
        held = join([rows for rows, _ in self._held]) if self._held else None
        for name, rows in (("held", held), ("early", self._early if self._early is not None and len(self._early) else None)):
            for what in FIELDS if rows is not None else ():
                if (value := getattr(rows, what)) is not None:
                    arrays[f"{name}/{what}"] = value
        if self._held:
            arrays["held/scores"] = np.concatenate([scores for _, scores in self._held])
        return {head + name: Block(np.ascontiguousarray(value)) for name, value in arrays.items()}

    def load(self, state: Mapping[str, Block]) -> None:
        """This rank's share of what any number of ranks remembered."""
        ranks = sorted({path.split("/")[1] for path in state if path.startswith("time/")})
        for place, rank in enumerate(ranks):
            head = f"time/{rank}/"
            found = {path[len(head):]: block.data for path, block in state.items() if path.startswith(head)}
            self._adopt(found, place)

    def _adopt(self, found: dict[str, Array], place: int) -> None:
        mark, rows, closed = found["mark"].tolist()
        self.mark.value, self.closed = max(self.mark.value, mark), max(self.closed, closed)
        self.rows_seen = max(self.rows_seen, rows)
        newest = int(found["newest"][0])
        if newest != NO_TIME:
            self.mark.newest[self.link.rank] = max(self.mark.newest.get(self.link.rank, NO_TIME), newest)
        for seen, name in ((self.seen, "seen"), (self.labelled, "labelled")):
            mine = self._own(found[f"{name}/id"])
            seen.load(found[f"{name}/id"][mine], found[f"{name}/part"][mine])
        for name in ("held", "early"):
            parts_of = {what: found.get(f"{name}/{what}") for what in FIELDS}
            if parts_of["id"] is None:
                continue
            rows_of = Batch(**parts_of)  # type: ignore[arg-type]
            pick = np.flatnonzero(self._own(parts_of["id"]))
            if not len(pick):
                continue
            if name == "held":
                self._held.append((rows_of.take(pick), found["held/scores"][pick]))
            else:
                more = rows_of.take(pick)
                self._early = more if self._early is None else join([self._early, more])
        if self.link.rank == 0:  # sums and counts commute: one rank goes on with all of them
            for pane, total in zip(found["pane"].tolist(), found["sums"], strict=True):
                self.sums[pane] = self.sums.get(pane, np.zeros(4)) + total
            for name, value in zip(COUNTS, found["counts"].tolist(), strict=True):
                self.counts[name] += value
        if place == self.link.rank or np.isnan(self._last):
            self._last = np.float32(found["last"][0])

    def _own(self, ids: Array) -> Array:
        return self._owner(ids) == self.link.rank

    def _owner(self, ids: Array) -> Array:
        """The rank that remembers each id."""
        return ((ids >> np.uint64(32)) % np.uint64(self.link.size)).astype(np.int64)

    def totals(self) -> dict[str, int]:
        """What was counted over all ranks (collective); rows and labels that still wait are told as such."""
        waiting = sum(len(rows) for rows, _ in self._held)
        early = 0 if self._early is None else len(self._early)
        table = self.link.vote(np.array([*(self.counts[n] for n in COUNTS), waiting, early], np.int64), name="event counts")
        return dict(zip((*COUNTS, "waiting", "early"), table.sum(axis=0).tolist(), strict=True))


def _or(value: Array | None, n: int, absent: Any, dtype: Any) -> Array:
    return np.full(n, absent, dtype) if value is None else value


def _match(names: Array, ids: Array) -> tuple[Array, Array]:
    """Where each of `ids` stands among ascending `names`, and whether it does."""
    if not len(names):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
    place = np.minimum(np.searchsorted(names, ids), len(names) - 1)
    return place, names[place] == ids


def _bare(rows: Batch) -> Array:
    """Which rows have no feature: all missing or 0, or no key."""
    if rows.x is not None:
        return (np.isnan(rows.x) | (rows.x == 0)).all(axis=1)
    assert rows.indptr is not None and rows.keys is not None
    filled = np.ones(len(rows.keys)) if rows.values is None else ~(np.isnan(rows.values) | (rows.values == 0))
    sums = np.concatenate([[0], np.cumsum(filled)])
    return sums[rows.indptr[1:]] == sums[rows.indptr[:-1]]


def _figures(task: str, scores: Array, y: Array) -> Array:
    """Of each row: hit, log loss, 0; or distance, its square, 0 (n, 3). Log loss as the meter defines it."""
    if task == "regression":
        far = np.abs(scores.astype(np.float64) - y)
        return np.stack([far, far * far, 0 * far], axis=1)
    margin = np.clip(np.nan_to_num(scores.astype(np.float64)), -CLIP, CLIP)
    if task == "binary":
        hit, loss = (scores > 0) == (y > 0), np.logaddexp(0, np.where(y > 0, -margin, margin))
    else:
        share = 1 / (1 + np.exp(-margin))
        own = share[np.arange(len(y)), y.astype(int)]
        hit, loss = scores.argmax(1) == y, -np.log(own / share.sum(axis=1))
    return np.stack([hit.astype(float), loss, 0 * loss], axis=1)


def asked(config: Any) -> bool:
    """Whether rows have an event time or an id in this run."""
    return bool(config.time.column or config.time.id)


def start(config: Any, job: loop.Job, tell: Callable[[dict[str, Any]], None]) -> Events | None:
    """What `[time]` asks for; None where it asks for nothing."""
    t = config.time
    if not asked(config):
        if t.labels == "later" or (t.window and not t.window.endswith("rows")):
            raise ConfigError(f"time: {'labels=later' if t.labels == 'later' else 'window'} needs a column, found none",
                              fix="--id COLUMN" if t.labels == "later" else "--time COLUMN")
        if not t.window:
            return None
    if t.labels == "later" and not t.id:
        raise ConfigError("time.labels=later: labels find their rows by id, found no time.id", fix="--id COLUMN")
    mode = config.exchange.mode.partition(":")[0]
    if mode not in ("bsp", "local") or config.exchange.virtual or not isinstance(job.team, loop.Team):
        raise ConfigError("time: a watermark is agreed in lock-step, by replicas that merge; found exchange.mode="
                          f"{config.exchange.mode}, split={config.exchange.split}, data.rule={config.data.rule}",
                          fix="exchange.mode=bsp, exchange.split=rows")
    if config.fault.memory == "on":
        raise ConfigError("time: node memory does not hold ids and held rows, found fault.memory=on", fix="checkpoints alone")
    if t.labels == "later" and job.tactic is not None:
        raise ConfigError("time.labels=later: rows are learned when their labels come, which a strategy, a drift detector or "
                          "update.delay does in another way", fix="update.strategy=incremental without them")
    horizon = t.horizon if t.horizon is not None else 3600.0 if t.column else 1 << 20
    if isinstance(horizon, float) is not bool(t.column):
        raise ConfigError(f"time.horizon: expected {'seconds' if t.column else 'rows, as rows have no time'}, found {horizon}",
                          fix="time.horizon=3600s" if t.column else "time.horizon=1000000rows, or --time COLUMN")
    if t.labels == "later" or t.column:  # a lone rank would else look at its labels and the time every 2048 rows only
        job.k = min(job.k, jobs.interval(config))
    panes = Panes.parse(t.window) if t.window else None
    if panes is not None and not panes.rows and not t.column:
        raise ConfigError("time.window: a window in seconds needs times, found no time.column", fix="--time COLUMN")
    mark = Watermark(round(t.lateness * MICRO), round(t.jump * MICRO), round(t.idle * MICRO))
    return Events(job.link, mark, bool(t.column), bool(t.id), round(horizon * MICRO) if t.column else int(horizon),
                  t.late == "drop", t.labels == "later", panes, tell, wire=jobs.wire(config))
