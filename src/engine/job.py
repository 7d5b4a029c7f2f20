"""From a configuration to a running job: connect, open, build, resume, save. Every function here is collective."""
from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine import crew, grid, loop
from engine.clean.pipeline import open_pipeline
from engine.clean.text import grams
from engine.cluster.clock import Rules
from engine.codec.batch import Wire
from engine.comm import sync
from engine.comm.local import Alone
from engine.config import Config, stored
from engine.errors import ConfigError, EngineError
from engine.models import registry, sparse
from engine.shard import rule
from engine.source import stream as streams
from engine.source.ahead import Ahead
from engine.source.cache import Cached
from engine.source.live import Live, LiveSource
from engine.source.read import open_source
from engine.store import checkpoint as store
from engine.store.spool import Spool
from engine.types import Array, Batch, Counts, Link, Model, Policy, Schema, Source, Stage, State
from engine.update import drift
from engine.update import policy as policies
from engine.update import strategy as plans
from engine.update.distill import distill
from engine.watch.meter import Meter

LEAST = 32  # rows of a worker between two sums of a model that learns by mini-batches, where the interval is its own
APART = ("meter/", "own/", "tactic/", "time/", "exchange/")  # paths of a checkpoint that are not the model's or its stages
WINDOW = 8192  # rows a worker of a crew, or of nobody, takes at once: an exchange is no reason to stop there


def connect(comm: Any, *, timeout_s: float, watch: Callable[[str], Any] | None = None,
            absent: Callable[[list[int]], str] | None = None) -> Link:
    """A Link over `comm`; without MPI where `comm` is None."""
    if comm is None:
        return Alone()
    from engine.comm.world import World

    return World(comm, timeout_s=timeout_s, watch=watch, absent=absent)


def agreed(link: Link, act: Callable[[], Any], name: str) -> Any:
    """`act()` on every rank; if it fails on any, all raise the first failure."""
    found, error = None, None
    try:
        found = act()
    except EngineError as caught:
        error = caught
    sync.vote(link, [0], error, name=name)
    return found


def open_agreed(config: Config, link: Link, source: Any = None) -> Source:
    """The source, with the schema rank 0 found; an error on every rank where any cannot open it."""
    given = source if source is not None else config.data.source
    if isinstance(given, str) and config.data.follow and not given.startswith("follow:"):
        given = f"follow:{given}"
    registry.builder(config.model.kind)  # a mistaken name is told before anything is read or written
    if config.data.spool and not config.checkpoint.dir:
        raise ConfigError("data.spool: rows leave the spool when a checkpoint holds them, found no checkpoint.dir",
                          fix="--checkpoint DIR, or no spool")
    if not isinstance(given, str):
        return given
    options = source_options(config)
    first = agreed(link, lambda: open_source(given, **options) if link.rank == 0 else None, "open source")
    plan = link.bcast(first.plan if first is not None else None, name="schema")
    found = agreed(link, lambda: first or open_source(given, plan=plan, **options), "open source")
    if not config.data.cache or isinstance(found, LiveSource):
        return found
    return agreed(link, lambda: Cached(found, config.data.cache, config.data.cache_dir), "open the cache")


def source_options(config: Config) -> dict[str, Any]:
    """The `[data]` section as `open_source` takes it; array-like sources are cut to the exchange interval."""
    data = config.data
    names = ("format", "target", "header", "delimiter", "categorical", "numeric", "labels", "hash_bits", "missing",
             "on_bad_rows", "quoted_newlines", "task", "piece_bytes")
    options = {name: getattr(data, name) for name in names}
    options["header"] = {"yes": True, "no": False}.get(data.header, data.header)
    options["labels"] = data.labels or None
    options["text"] = grams(config.clean.stages)
    if len(config.clean.stages) > (options["text"] is not None) and data.missing == "zero":
        options["missing"] = "nan"  # what is missing is for the stages to say
    target = data.target or ""
    options["target"] = int(target) if target.lstrip("-").isdigit() else data.target
    options |= {"columns": data.columns, "where": data.where, "wait_s": data.wait, "idle_s": data.idle,
                "spool": lambda name: spool(config, name), "event": (config.time.column, config.time.id, config.time.unit)}
    whole = config.exchange.split == "keys" or config.data.rule == "columns"
    return options | {"piece_rows": WINDOW if whole else interval(config) * threads(config)}


def spool(config: Config, feed: str) -> Spool | None:
    """The spool of the feed of this name, where rows are spooled."""
    if not config.data.spool:
        return None
    folder = re.sub(r"[^A-Za-z0-9._-]+", "_", feed).strip("_")
    return Spool(os.path.join(config.data.spool, folder), limit_bytes=config.data.spool_bytes, keep=config.data.spool_keep)


def interval(config: Config) -> int:
    """Rows a worker learns between exchanges; the first step's where the interval is in seconds."""
    every, kind = config.exchange.every, config.model.kind
    if isinstance(every, int):
        return every
    if kind in registry.GRADED:  # its rates are those of a step: few of them between sums
        step = registry.step_rows(kind, plans.batch(config.update.strategy, config.update.batch))
        return step * -(-LEAST // step)
    return 32 if config.exchange.split == "keys" or config.exchange.place == "table" else 256


def threads(config: Config) -> int:
    """Worker threads of this rank: as configured, else the cores of the affinity mask over the node's ranks."""
    if config.exchange.virtual:
        from engine.guard import launched

        if config.exchange.virtual % launched():
            raise ConfigError(f"exchange.virtual: expected a multiple of {launched()} ranks, found {config.exchange.virtual}",
                              fix=f"exchange.virtual={launched() * max(1, 16 // launched())}")
        return config.exchange.virtual // launched()
    if grid.named(config.data.rule) or config.exchange.place == "table":
        if config.loop.threads > 1:
            what = "exchange.place=table" if config.exchange.place == "table" else "a rule by columns"
            raise ConfigError(f"loop.threads: {what} has one worker a rank, found {config.loop.threads}",
                              fix="loop.threads=1 and more ranks")
        return 1
    if config.loop.threads:
        return config.loop.threads
    local = int(os.environ.get("MPI_LOCALNRANKS") or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or 1)
    return max(1, len(os.sched_getaffinity(0)) // local)


def settle(config: Config, schema: Schema, stage: Any = None) -> None:
    """Puts the learner that rows of this schema call for in the place of `auto`: from here on it is part of the run."""
    if config.model.learner == "auto":
        stage = stage or open_pipeline(config.clean.stages, schema)
        config.model.learner = registry.learner_of(config.to_dict()["model"], schema if stage is None else stage.schema)


def assemble(config: Config, link: Link, schema: Schema, rows: Any, *, team: Any = None) -> loop.Job:
    """A job over `rows` (anything with `take(k)`), its model new, or of `team`, to be loaded."""
    workers = threads(config) * link.size
    stage = open_pipeline(config.clean.stages, schema)
    settle(config, schema, stage)
    team = team or assembled(config, link, schema if stage is None else stage.schema)
    meter = Meter(schema.task, classes(config, schema), window=config.loop.window)
    cut = isinstance(team, grid.Grid)
    least = WINDOW if config.exchange.split == "keys" or (cut and team.at.parts == 1) else 2048 if workers == 1 else 1
    every = config.checkpoint.every
    saves = bool(config.checkpoint.dir)
    rules = Rules(save_rows=every if saves and isinstance(every, int) else 0,
                  save_s=every if saves and isinstance(every, float) else 0.0 if every else 60.0 * saves,
                  stop_rows=config.loop.stop_after_rows)
    every_s = config.exchange.every if isinstance(config.exchange.every, float) and workers > 1 else 0.0
    exchange = team.exchange if cut else loop.synchronous
    return loop.Job(link, team, meter, rows, max(interval(config), least), every_s, rules, stage=stage, exchange=exchange,
                    counts=getattr(team, "counts", None) or Counts())


def gridded(config: Config, link: Link, schema: Schema) -> grid.Grid:
    """The worker of this rank where columns are cut: its share of one linear model."""
    exchange = config.exchange
    lockstep = (exchange.mode, exchange.codec, exchange.split, exchange.virtual) == ("bsp", "exact", "rows", 0)
    grid.check(config.model.kind, config.clean.stages, config.model.interactions, lockstep, False, looked_at(config))
    at = grid.shape(config.data.rule, link.size, link.rank, schema)

    def make(mine: Schema, bias: bool) -> Model:
        own = config if bias else replace(config, model=replace(config.model, bias=0.0))
        return build(own, mine, tracked=at.parts > 1)

    return grid.Grid(link, at, schema, make, lot=config.shard.lot)


def assembled(config: Config, link: Link, schema: Schema) -> Any:
    """The workers of this rank: replicas that are merged, or owners of the keys or columns of one model."""
    if grid.named(config.data.rule) and config.exchange.place == "replica":
        return gridded(config, link, schema)
    if config.exchange.place == "table":
        from engine.table.worker import hire

        return hire(config, link, schema)
    if config.exchange.split == "rows":
        return loop.Team(build(config, schema, tracked=threads(config) * link.size > 1), threads(config))
    crew.check(schema.sparse, config.model.kind, config.clean.stages)
    if isinstance(config.exchange.every, float):
        raise ConfigError(f"exchange.every: with exchange.split=keys expected rows, found {config.exchange.every:g} s",
                          fix="exchange.every=32")
    return crew.Crew(link, lambda memory: build(config, schema, tracked=False, memory=memory), threads(config),
                     lot=interval(config), limit_s=config.loop.stall_timeout, apart=not looked_at(config))


def looked_at(config: Config) -> bool:
    """Whether something beside checkpoints reads the whole model of a crew: copies in node memory, relearning, publishing."""
    u = config.update
    kept = config.fault.memory != "off" and (config.fault.memory == "on" or "ENGINE_MEMORY_ID" in os.environ)
    return kept or u.strategy != "incremental" or bool(u.publish or u.gate or u.drift)


def build(config: Config, schema: Schema, *, tracked: bool, memory: Callable[[int], Array] | None = None) -> Model:
    """The model of `model.kind` for rows of this schema; its options are those of `[model]` and of the kind's section."""
    sections = config.to_dict()
    options = sections["model"] | sections.get(own_section(config), {}) 
    recipe = plans.recipe("incremental" if config.update.strategy == "auto" else config.update.strategy, relearned(config))
    if config.model.kind != "linear":
        options = options | {"batch": recipe.batch}
    return registry.build(config.model.kind, registry.Spec(
        schema, classes(config, schema) if schema.task == "multiclass" else 1, options, config.exchange.merge, tracked,
        config.run.seed, policy=policy(config), memory=memory,
        detect=lambda: drift.make(config.update.drift or "adwin")))


def relearned(config: Config) -> plans.Wish:
    """The settings of `[update]` that a strategy is made from."""
    u = config.update
    return plans.Wish(u.chain, u.batch, u.every, u.window, u.epochs, u.parts)


def policy(config: Config) -> Policy:
    """The chain of the strategy, behind the teacher's where there is one."""
    u, kind = config.update, config.model.kind
    asked = u.chain or u.teacher or u.strategy in ("partial", "distil") or (u.batch if kind == "linear" else None)
    if asked and kind in registry.HOME and kind not in registry.GRADED:
        raise ConfigError(f"update: chain, teacher, parts and distillation are for {', '.join(registry.GRADED)}, "
                          f"found model.kind={kind}", fix="model.batch, model.l1, l2 and rate are those of a linear model"
                          if kind == "linear" else "model.kind=mlp")
    recipe = plans.recipe("incremental" if config.update.strategy == "auto" else config.update.strategy, relearned(config))
    made = policies.parse(recipe.chain or "adam")
    if not config.update.teacher:
        if config.update.strategy == "distil":
            raise ConfigError("strategy distil: expected a teacher, found none", fix="update.teacher=DIR, a checkpoint")
        return made
    return policies.chain(distill(loaded(config.update.teacher), config.update.teacher_share), made)


def loaded(directory: str) -> Model:
    """The model of the newest checkpoint in a directory, for predicting alone."""
    state, meta, _ = store.newest(directory)
    model, stage, _ = restored(state, meta)
    if stage is not None:
        raise ConfigError("teacher: expected a model without stages of its own", where=directory)
    return model


def restored(state: State, meta: Mapping[str, Any], *, narrow: bool = False) -> tuple[Model, Stage | None, Schema]:
    """The model of a checkpoint for predicting alone, the stages before it, and the schema of the rows they take. `narrow`: a
    model that was a table is given as the rows it has, which only predicts."""
    config = stored(meta["config"])
    width, keyed, task = meta["schema"]
    schema = Schema(width, keyed, task, tuple(meta["labels"]), tuple(meta["columns"]))
    config.data.labels, config.data.task = schema.labels or config.data.labels, task
    stage = open_pipeline(config.clean.stages, schema)
    if stage is not None:
        stage.load(state)
    mine = {path: block for path, block in state.items() if not path.startswith(APART)}
    seen = schema if stage is None else stage.schema
    if narrow and sparse.KEYS in mine:
        return sparse.Narrow(mine, lambda keys: build(config, replace(seen, width=keys), tracked=False)), stage, schema  # type: ignore[return-value]
    model = build(config, seen, tracked=False)
    model.load(sparse.widened(mine))
    return model, stage, schema


def own_section(config: Config) -> str:
    """The section that holds the options of the kind of model."""
    return registry.SECTION.get(config.model.kind, config.model.kind)


def rhythm(config: Config) -> str:
    """How the workers agree, in words."""
    every = config.exchange.every
    often = f"{every:g} s" if isinstance(every, float) else f"{interval(config)} rows"
    if config.exchange.place == "table":
        return f"parameter table, its rows fetched every {often}, {config.exchange.merge}"
    if config.exchange.split == "keys":
        return f"keys split, scores summed every {often}"
    if grid.named(config.data.rule):
        lot = config.model.batch or config.shard.lot
        return f"{config.data.rule}, scores summed every {lot} row{'s' * (lot > 1)}" + (
            f", row parts merged every {often}" if config.data.rule != "columns" else "")
    return f"exchange every {often}, {config.exchange.merge}"


def named(config: Config) -> str:
    """What learns, in a word: the learner of a linear model, else the kind."""
    return config.model.learner if config.model.kind == "linear" else config.model.kind


def classes(config: Config, schema: Schema) -> int:
    """Labels of a classification task."""
    return max(2, len(schema.labels) or config.model.classes)


def stream(config: Config, link: Link, source: Source, position: streams.Position | None) -> Any:
    """`placed`; rows that change rank go by the row codec where that is the faster way."""
    found = placed(config, link, source, position)
    if isinstance(found, Live | streams.Dealt) and link.size > 1:
        found.wire = wire(config)
    return found


def wire(config: Config) -> Wire:
    """How rows change rank."""
    return Wire(streams.pack, streams.unpack, config.data.codec)


def placed(config: Config, link: Link, source: Source, position: streams.Position | None) -> Any:
    """Rows in place where the rule moves none, dealt in global order otherwise."""
    k, mine = interval(config) * threads(config), threads(config)
    if grid.named(config.data.rule):
        grid.check("linear", (), False, True, isinstance(source, LiveSource), False)
        return grid.stream(grid.shape(config.data.rule, link.size, link.rank, source.schema), source, link, k, position)
    if isinstance(source, LiveSource):
        at = position or streams.Position()
        return Live(source, link, at.live, keep=config.checkpoint.keep, share=config.exchange.mode == "bsp", order=at.order)
    if mine > 1 and getattr(source, "pure", False):
        source = Ahead(source, mine, link.size)
    if config.exchange.split == "keys" and link.size > 1:
        def share(rows: Batch, rank: int) -> Batch:
            return crew.keys_of(rows, rank * mine, (rank + 1) * mine, link.size * mine)

        return streams.Spread(source, link, share, sync.vote, position)
    if config.data.rule == "part":
        return streams.Placed(source, link, position=position)
    block = getattr(source, "piece_rows", 0)
    if config.data.rule == "deal" and block:
        return streams.Placed(source, link, grid=block, position=position)
    name, seed, column = config.data.rule, config.run.seed, key_column(config, source.schema)
    told = agreed(link, lambda: rule.named(config.data.user), "data.user") if name == "user" else None
    span = agreed(link, lambda: window(config, source.schema), "data.window") if name == "window" else 0.0
    bounds = agreed(link, lambda: range_bounds(source, link, column), "range bounds") if name == "range" else None
    bounds = link.bcast(bounds, name="range bounds")

    def owner(batch: Batch) -> Array:
        time = batch.x[:, column] if name == "window" and column is not None and batch.x is not None else None
        return rule.owner(name, batch.order, batch, link.size, block_rows=k, seed=seed, key_column=column, bounds=bounds,
                          time=time, window=span, user=told)

    return streams.Dealt(source, link, owner, sync.vote, position)


def timed(job: loop.Job) -> None:
    """A live stream is told how long the job's own learning takes, by which it deals rows and feeds."""
    if isinstance(job.stream, Live):
        job.stream.busy_s = lambda: job.counts.values.get("learn_s", 0.0)


def key_column(config: Config, schema: Schema) -> int | None:
    """Place of the dense column that `data.key` names; None = the row's first key or column."""
    key = config.data.key
    if not key:
        return None
    if key not in schema.columns:
        near = difflib.get_close_matches(key, schema.columns, 1)
        raise ConfigError(f"data.key: expected one of {', '.join(schema.columns[:12]) or 'no named columns'}, found {key!r}",
                          fix=f"did you mean {near[0]!r}?" if near else "name a dense feature column, not the target")
    return schema.columns.index(key)


def window(config: Config, schema: Schema) -> float:
    """The span of rule window, in rows of the global order, or in seconds of the column that `data.key` names."""
    span, key = config.data.window, config.data.key
    if span is None or (isinstance(span, float) and (not key or schema.sparse)):
        found = "none" if span is None else f"{span:g} s, and no dense column of times"
        raise ConfigError(f"data.window: expected a span in rows, or in seconds and a column of times, found {found}",
                          fix="data.window=5000rows, or data.window=60s and data.key=COLUMN")
    if isinstance(span, int) and key:
        raise ConfigError(f"data.window: expected seconds with data.key={key}, found {span} rows", fix="data.window=60s")
    return float(span)


def range_bounds(source: Source, link: Link, column: int | None) -> Array | None:
    """Boundaries of equal shares, from the rows of the first piece, at rank 0; None elsewhere."""
    if link.rank:
        return None
    if getattr(source, "streamed", lambda piece: False)(0):
        raise ConfigError("rule range: expected a source that can be read twice, found a stream",
                          fix="use data.rule=hash, or a plain file")
    rows = streams.gathered(source.read(0))
    if rows is None:
        return np.zeros(link.size - 1)
    values = rows.x[:, column or 0] if rows.x is not None else rule.row_key(rows, None)
    return np.quantile(values, np.arange(1, link.size) / link.size) if link.size > 1 else np.zeros(0)


def gathered_stats(link: Link, source: Source) -> dict[str, Any]:
    """Rows left out over all ranks, by reason, with the first examples; the same on every rank."""
    mine = getattr(source, "stats", None) or {"bad": 0, "reasons": {}, "examples": []}
    found = link.gather(mine, name="row counts")
    if found is None:
        return link.bcast(None, name="row counts")
    reasons: dict[str, int] = {}
    for stats in found:
        for reason, count in stats["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    whole = {"bad_rows": sum(stats["bad"] for stats in found), "bad_reasons": reasons,
             "bad_examples": [e for stats in found for e in stats["examples"]][:5]}
    return link.bcast(whole, name="row counts")
