"""The verbs that learn and predict, as a program runs them: a run directory, a log, checkpoints, a report."""
from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine import __version__, events, loop, modes, relearn, resume
from engine import job as jobs
from engine.cluster.clock import Report, Save, Stop
from engine.comm import sync
from engine.config import Config, stored
from engine.errors import ConfigError, DataError, Preempted, StoreError
from engine.guard import Guard, check_launcher, launched
from engine.modes.between import between, leave
from engine.source.schema import Plan
from engine.store import checkpoint as store
from engine.store.atomic import writable
from engine.survive import mend, protect, retrain, standby
from engine.survive.degrade import Degrade
from engine.types import Link, Model, Schema, Source, Stage
from engine.watch.log import Lines, Log, keep, make_run
from engine.watch.meter import Meter

LIVE_S = 1.0  # between reports while somebody looks on
WIDE = 1 << 14  # keys before a dense layer that make a step slow


def link_up(config: Config, guard: Guard) -> Link:
    """The Link of the program: over MPI where a launcher started several ranks, else this process alone."""
    if launched() == 1:
        guard.start(0, config.loop.stall_timeout)
        return jobs.connect(None, timeout_s=config.loop.stall_timeout)
    from engine.comm.world import start

    world = start().COMM_WORLD
    check_launcher(world.Get_size())
    guard.rank = world.Get_rank()
    link = jobs.connect(world, timeout_s=config.loop.stall_timeout, watch=guard.watch)
    guard.start(link.rank, config.loop.stall_timeout)
    return link


class Diary:
    """What rank 0 writes of a run: lines for people, metrics.jsonl, events.jsonl, the report. Silent on other ranks."""

    def __init__(self, config: Config, link: Link, title: str, schema: Schema) -> None:
        self.config, self.link, self.title = config, link, title
        self.folder: Path | None = None
        self.degrade = Degrade(0.0, link.size)
        self.events: list[dict[str, Any]] = []
        self.metrics: list[dict[str, Any]] = []
        self._last = (0.0, 0)
        self._files: tuple[Lines, Lines] | None = None
        live = os.environ.get("ENGINE_LIVE", "") if link.rank == 0 else ""
        self._live = Lines(live) if live else None  # the parent's view, see live.py
        self.log = None if link.rank or config.run.quiet else Log(sys.stderr if config.run.json else sys.stdout)
        if link.rank == 0 and config.run.dir != "-":
            self.folder = self._make(config.run.dir)
            keep(self.folder / "config.toml", config.to_toml())
            self._files = (Lines(self.folder / "metrics.jsonl"), Lines(self.folder / "events.jsonl"))
        where = f" | run {self.folder}" if self.folder else ""
        if self.log:
            self.log.head(f"engine {__version__} | {link.size} rank{'s' * (link.size > 1)} x {jobs.threads(config)} thread"
                          f"{'s' * (jobs.threads(config) > 1)} | {jobs.named(config)} | {jobs.rhythm(config)}{where}")
            self.log.head(f"{title}: {schema.task}, {schema.width} {'keys' if schema.sparse else 'columns'}")

    def move(self, link: Link) -> None:
        """The run goes on with other ranks: whoever is rank 0 now writes, in the same places."""
        self.link = link
        if link.rank == 0 and self.log is None and not self.config.run.quiet:
            self.log = Log(sys.stderr if self.config.run.json else sys.stdout)
        if link.rank == 0 and self.folder is None and self.config.run.dir not in ("-", ""):
            self.folder = self._make(self.config.run.dir)
            self._files = (Lines(self.folder / "metrics.jsonl"), Lines(self.folder / "events.jsonl"))

    @staticmethod
    def _make(given: str) -> Path:
        if not given:
            return make_run()
        folder = Path(given)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the run directory: {error.strerror}", where=given,
                             fix="give a directory this user may write to") from error
        return folder

    def event(self, name: str, rows: int, **more: Any) -> None:
        record = {"event": name, "rows": rows, **more}
        self.events.append(record)
        if self._files:
            self._files[1].write(record)

    def happened(self, name: str, rows: int, **more: Any) -> None:
        """An event, and a line about it between the lines."""
        known = {key: value for key, value in more.items() if value is not None}
        self.event(name, rows, **known)
        words = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in known.items())
        self.note(f"{name} at row {rows}: {', '.join(words)}")

    def window(self, found: dict[str, Any]) -> None:
        """A window that has closed, to windows.jsonl."""
        if self.folder:
            if self._windows is None:
                self._windows = Lines(self.folder / "windows.jsonl")
            self._windows.write(found)

    _windows: Lines | None = None

    def note(self, text: str) -> None:
        if self.log:
            self.log.note(text)

    def metric(self, job: loop.Job, meter: Meter) -> None:
        """One line of figures: since the start, and since the line before."""
        found, now_s, rows = meter.summary(), time.monotonic() - job.began_s, job.clock.rows
        loss = "rmse" if found["task"] == "regression" else "logloss"
        last_s, last_rows = self._last
        record = {"time_s": now_s, "step": job.clock.step, "rows": rows, "loss_avg": found[loss],
                  "loss_last": found[f"window_{loss}"], "accuracy": found.get("window_accuracy"),
                  "rows_s": (rows - last_rows) / max(now_s - last_s, 1e-9), "bytes_sent": self._sent,
                  "wait": job.counts.values.get("wait_s", 0.0) / max(now_s, 1e-9), **staleness(job)}
        self._last = (now_s, rows)
        self.metrics.append(record)
        if self._files:
            self._files[0].write(record)
        if self._live:
            self._live.write(record)
        if self.log and (not self._live or self.log.due(rows)):
            self.log.line(rows, {**record, "checkpoint": self._saved(rows)})

    @property
    def live(self) -> bool:
        """Whether somebody looks on."""
        return self._live is not None

    _sent = 0

    def sent(self, total: int) -> None:
        """Bytes exchanged by all ranks so far."""
        self._sent = total

    def _saved(self, rows: int) -> int | None:
        saved = [e["rows"] for e in self.events if e["event"] == "checkpoint"]
        return saved[-1] if saved else None

    def end(self, job: loop.Job, meter: Meter, more: dict[str, Any]) -> dict[str, Any]:
        """The table, the report, and the summary as a dict."""
        found = meter.summary()
        seconds = time.monotonic() - job.began_s
        learned = found["rows"] - int(more.get("rows_before", 0))
        run = {"bytes_sent": self._sent, "rows_s": learned / max(seconds, 1e-9), "seconds": seconds}
        run["learn_s"] = sum(job.counts.values.get(name, 0.0) for name in ("learn_s", "merge_s"))  # relearning is in them
        if "order_s" in job.counts.values:
            run["order_s"] = job.counts.values["order_s"]
            self.note(f"reproducible on any number of ranks: summing {job.workers} replicas in order took "
                      f"{run['order_s']:.2f} s of {seconds:.2f} s")
        found |= run | {"ranks": self.link.size, "threads": len(job.team.models), "step": job.clock.step} | more
        if self.folder:
            run["path"] = str(self.folder)
            keep(self.folder / "summary.json", json.dumps(found) + "\n")
            if self.config.run.report:
                run["report"] = str(self.folder / "report.html")
                from engine.watch.page import write_page

                curve = {name: np.asarray(values).tolist() for name, values in meter.curve().items()}
                keep(self.folder / "curve.json", json.dumps(curve) + "\n")
                write_page(self.folder / "report.html", {
                    "title": self.title, "summary": found, "totals": run, "curve": curve, "metrics": self.metrics,
                    "events": self.events, "config": self.config.to_dict(),
                    "versions": {"engine": __version__, "python": sys.version.split()[0], "numpy": np.__version__}})
        if self.log:
            self.log.end(found, run)
        if found.get("logloss", 0.0) > math.log(max(2, meter.classes)) and found["rows"] >= 1000:
            model, stale = self.config.model, self.config.exchange.mode.partition(":")[0] not in ("bsp", "local")
            hints = ["model.learner=nag takes numbers of any size"] * (model.kind == "linear" and model.learner != "nag")
            hints += ["exchange.mode=bsp, or a smaller exchange.every, has updates less late"] * stale
            self.note("the log loss is worse than guessing; " + "; ".join([
                *hints, "clean.stages=scale brings columns to one size", "a smaller model.rate takes smaller steps"]))
        return found


def staleness(job: loop.Job) -> dict[str, float]:
    """What this rank's reads missed, in rounds, and how old others' updates were on arrival (clocks of one node)."""
    found = job.counts.values
    if not found.get("stale_reads"):
        return {}
    return {"staleness": found["stale_sum"] / found["stale_reads"], "staleness_most": found["stale_most"],
            "fresh_ms": 1e3 * found.get("fresh_s", 0.0) / max(1.0, found.get("fresh_rounds", 0.0))}


def train(config: Config, guard: Guard, *, source: Source | None = None, title: str = "") -> dict[str, Any]:
    """Learn `config.data.source` (or `source`) to its end; the summary at rank 0. Preempted where a signal stopped it."""
    try:
        return _train(config, guard, source, title)
    finally:
        guard.rest()


def _train(config: Config, guard: Guard, source: Source | None, title: str) -> dict[str, Any]:
    if not config.data.source and source is None:
        raise ConfigError("no source given", fix="engine train FILE, or data.source in the configuration")
    link = link_up(config, guard)
    standby.hold(guard)
    sync.same(link, config.flat(), "the configuration")
    link = between(link, config, guard.watch, bool(protect.run_id(config)))
    opened = jobs.open_agreed(config, link, source)
    jobs.settle(config, opened.schema)
    diary = Diary(config, link, title or config.data.source, opened.schema)
    if left := getattr(opened, "left_out", ()):
        diary.note(f"left out, for they hold no numbers: {', '.join(left[:12])}; data.categorical takes columns of words")
    if config.model.kind == "mlp" and opened.schema.sparse and opened.schema.width > WIDE and not config.clean.stages:
        diary.note(f"mlp: each step touches the weights of all {opened.schema.width:,} keys; data.hash_bits=12 makes 4,096 of "
                   "them, clean.stages='project?k=32' 32 columns")
    job, shield, before = prepared(config, link, opened, diary, guard)
    diary.degrade = Degrade(config.degrade.budget, max(link.size, int((before or {}).get("ranks", 0))), diary.note)
    stopped = ""
    while True:
        try:
            for event in modes.run(job, config, diary.note):
                stopped = carry_out(event, job, config, opened.schema, diary) or stopped
            break
        except Exception as lost:
            job, shield = mend.mend(lost, job, shield, mend.Means(config, opened, diary, guard, prepared))
            link = job.link
    stats = jobs.gathered_stats(link, opened)
    if isinstance(job.events, events.Events):
        job.events.close(final=True)
        stats["time"] = job.events.totals()
        diary.note("event time: " + ", ".join(f"{name} {n:,}" for name, n in stats["time"].items() if n))
    summary = finish(job, diary, {"rows_before": 0 if before is None else before["clock"][1], **stats})
    job.team.close()
    opened.close()
    link.barrier(name="end of run")
    for line in leave(link):
        diary.note(line)
    if shield is not None:
        for note in shield.settle(job):
            diary.note(note)
        shield.close(done=not stopped.startswith("SIG"))
    if stopped.startswith("SIG"):
        kept = f"; checkpoint at row {job.clock.saved_rows}" if config.checkpoint.dir else ", without a checkpoint"
        error = Preempted(f"stopped by {stopped} after {job.clock.rows} rows{kept}", fix="start again with --resume")
        error.code = 130 if stopped == "SIGINT" else 75
        raise error
    return summary


def prepared(config: Config, link: Link, opened: Source, diary: Diary, guard: Guard,
             team: Any = None) -> tuple[loop.Job, protect.Protection | None, dict[str, Any] | None]:
    """A job that stands where the last one of this run stood: from node memory, else a checkpoint, else at the start."""
    job = jobs.assemble(config, link, opened.schema, None, team=team)
    job.stop, job.beat = (lambda: guard.stop), guard.beat
    plan = getattr(opened, "plan", None)
    job.text = plan.dump() if isinstance(plan, Plan) else None
    if link.size == 1:
        job.reading = guard.watch  # nobody waits for a lone rank that waits for its source
    if link.bcast(diary.live, name="live view"):
        job.rules = replace(job.rules, report_s=LIVE_S)
    job.tactic = relearn.start(config, job, opened.schema, opened, diary.happened)
    job.events = events.start(config, job, diary.window)
    if job.events is not None and config.time.labels == "later":
        job.tactic = job.events
    shield = None if job.events is not None else protect.start(config, link)
    before = recall(shield, job, opened.schema, diary) or reopened(job, config, opened, diary)
    place = None if before is None else jobs.streams.Position.parse(before["position"])
    job.stream = jobs.stream(config, link, opened, place)
    jobs.timed(job)
    if shield is not None:
        shield.begin(job, opened.schema)
        job.keeper = shield
        if shield.partner is not None and shield.partner.note:
            diary.note(shield.partner.note)
        tiers = mend.tiers(link)  # asked of every rank, while all are well
        if not os.environ.get("ENGINE_ATTEMPT", "0").strip("0") and before is None:
            diary.note(f"recovery: {tiers}")
            if config.exchange.codec != "exact":
                diary.note("recovery: residuals of exchange.codec are not kept: after a recovery they begin at zero")
    return job, shield, before


def recall(shield: protect.Protection | None, job: loop.Job, schema: Schema, diary: Diary) -> dict[str, Any] | None:
    """What node memory held, where the run goes on from it: the newest committed step."""
    try:
        before = None if shield is None else shield.recover(job, schema)
    except protect.Incomplete as error:
        before = None
        diary.note(f"{error.message}: the newest checkpoint is taken, and where there is none the source is learned again")
        diary.event("memory lost", job.clock.rows, what=error.message)
    if before is not None:
        for problem in before["problems"]:
            diary.note(f"node memory: {problem}")
            diary.event("damaged", job.clock.rows, what=problem)
        diary.note(f"recovered step {job.clock.step} from node memory at row {job.clock.rows}")
        diary.event("recovered", job.clock.rows, step=job.clock.step, path=before["path"], spent=before["spent"])
    return before


def reopened(job: loop.Job, config: Config, source: Source, diary: Diary) -> dict[str, Any] | None:
    """What the checkpoint said, where the run goes on from one."""
    folder = config.checkpoint.dir
    if not folder:
        return None
    places = [Path(place) for place in (folder, config.checkpoint.mirror) if place and not job.link.rank]
    jobs.agreed(job.link, lambda: writable(places), "look at the checkpoint directory")
    if config.checkpoint.resume == "never":
        if jobs.agreed(job.link, lambda: store.steps(folder), "look for checkpoints"):
            raise StoreError("the checkpoint directory already holds a run", where=folder,
                             fix="go on with --resume, or give an empty directory")
        return None
    try:
        before = resume.restore(job, config, folder, source.schema)
    except store.Unrepairable as lost:
        diary.happened("retrain", 0, why=retrain.again(lost, job.link, config, source))
        return None
    if before is not None:
        for problem in before["problems"]:
            diary.note(f"damaged checkpoint passed over: {problem}")
            diary.event("damaged", job.clock.rows, what=problem)
        diary.note(f"resumed from {before['path']} at row {job.clock.rows}")
        diary.event("resumed", job.clock.rows, path=before["path"])
    return before


def carry_out(event: loop.Event, job: loop.Job, config: Config, schema: Schema, diary: Diary) -> str:
    """Does what is due; returns the reason of a stop."""
    with diary.degrade.side():
        stopped = _carry_out(event, job, config, schema, diary)
    if isinstance(event.action, Report) and not event.action.final:
        diary.degrade.look(job)
    return stopped


def _carry_out(event: loop.Event, job: loop.Job, config: Config, schema: Schema, diary: Diary) -> str:
    if isinstance(event.action, Save):
        began = time.perf_counter()
        shield = job.keeper if isinstance(job.keeper, protect.Protection) else None
        if shield is None or shield.flush is None or event.action.reason != "due":
            for note in shield.settle(job) if shield else []:
                diary.note(note)
            resume.save(job, config, config.checkpoint.dir, schema)
        else:
            shield.save(job)
        diary.event("checkpoint", event.rows, seconds=time.perf_counter() - began, reason=event.action.reason)
    elif isinstance(event.action, Report) and not event.action.final:
        _count_sent(job, diary)
        meter = loop.merged_meter(job)
        if meter is not None:
            diary.metric(job, meter)
    elif isinstance(event.action, Stop):
        if event.action.reason:
            diary.event("stop", event.rows, reason=event.action.reason)
        return event.action.reason
    return ""


def _count_sent(job: loop.Job, diary: Diary) -> None:
    diary.sent(int(job.link.vote(np.array([job.link.sent], np.int64), name="bytes sent").sum()))


def finish(job: loop.Job, diary: Diary, more: dict[str, Any]) -> dict[str, Any]:
    """The end table at rank 0; the summary on every rank."""
    _count_sent(job, diary)
    meter = loop.merged_meter(job)
    summary = None if meter is None else diary.end(job, meter, more)
    return job.link.bcast(summary, name="summary")


def predict(config: Config, guard: Guard, checkpoint: str, out: str) -> int:
    """Scores of every row of `config.data.source`, in order, as CSV lines `prediction[,score…]`; returns the rows.

    The rows need no target; columns with names are found by them, in any order.
    """
    state, meta, _ = store.newest(checkpoint)
    width, sparse, task = meta["schema"]
    learned = stored(meta["config"])
    learned.data.source, learned.data.labels = config.data.source, tuple(meta["labels"]) or learned.data.labels
    learned.data.task = task
    text = meta.get("text")
    options = jobs.source_options(learned) | {"blind": width, "like": Plan.read(text) if text else None}
    if not text:
        options["columns"] = options["columns"] or tuple(meta["columns"])
    source = jobs.open_source(config.data.source, **options)
    if (source.schema.width, source.schema.sparse) != (width, sparse):
        raise DataError(f"expected rows of {width} columns as learned, found {source.schema.width}", where=config.data.source)
    model, stage, _ = jobs.restored(state, meta, narrow=True)
    here, there = list(source.schema.columns), list(meta["columns"])
    order = [here.index(name) for name in there] if not sparse and here != there and set(here) == set(there) else None
    rows = 0
    with nullcontext(sys.stdout) if out in ("", "-") else open(out, "w") as file:
        for lines in predictions(model, source, meta["labels"], task, stage, order):
            file.writelines(lines)
            rows += len(lines)
    return rows


def predictions(model: Model, source: Source, labels: list[str], task: str, stage: Stage | None = None,
                order: list[int] | None = None) -> Iterator[list[str]]:
    """Lines of text, a batch at a time: label and probability, label and scores, or the predicted value. `order`: the places
    of the model's columns in the source, where they differ.
    """
    piece = 0
    while source.pieces is None or piece < source.pieces:
        for batch in source.read(piece):
            if order is not None and batch.x is not None:
                batch.x = np.ascontiguousarray(batch.x[:, order])
            scores = model.predict(batch if stage is None else stage.transform(batch))
            if task == "regression":
                yield [f"{v:.7g}\n" for v in model.link(scores).tolist()]
            elif task == "binary":
                names = labels or ["0", "1"]
                yield [f"{names[m > 0]},{v:.7g}\n"
                       for m, v in zip(scores.tolist(), model.link(scores).tolist(), strict=True)]
            else:
                best = scores.argmax(1)
                yield [f"{labels[c] if labels else c},{','.join(f'{v:.6g}' for v in row)}\n"
                       for c, row in zip(best.tolist(), scores.tolist(), strict=True)]
        piece += 1


def demo(config: Config, guard: Guard) -> None:
    """Handwritten digits arriving class by class, then a drifting stream; what happens is printed as it happens."""
    for title, spec, every in (
        ("handwritten digits in class order", "demo:digits", 1),
        ("SEA concepts, drift every 12 500 rows", "make:sea?rows=50000&drift=12500", 8),
    ):
        config.data.source, config.exchange.every = spec, every
        train(config, guard, title=title)
