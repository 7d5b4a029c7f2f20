"""What a job saves and how it goes on from there: state by name, the cursor by piece, on any number of ranks."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine import __version__, loop
from engine import job as jobs
from engine.cluster.clock import Clock
from engine.config import Config
from engine.errors import StoreError
from engine.models import sparse
from engine.source import stream as streams
from engine.source.live import Live, together
from engine.source.schema import Plan
from engine.store import checkpoint as store
from engine.store import heal
from engine.types import Block, Schema, State
from engine.watch.meter import Meter


def save(job: loop.Job, config: Config, directory: str, schema: Schema) -> None:
    """A checkpoint of everything the job needs to go on as if it had not stopped."""
    link, step = job.link, job.clock.rows
    state, ranges = snapshot(job)
    part = jobs.agreed(link, lambda: store.save_part(directory, step, link.rank, link.size, state, ranges), "write checkpoint")
    place = position(job)
    parts = link.gather(part, name="checkpoint parts")
    meta = about(job, config, schema) | {"position": place, "clock": [job.clock.step, job.clock.rows], "label": job.label}
    jobs.agreed(link, lambda: _commit(directory, step, parts, meta, config) if parts is not None else None, "commit checkpoint")
    if isinstance(job.stream, Live):
        job.stream.committed()


def _commit(directory: str, step: int, parts: Any, meta: dict[str, Any], config: Config) -> None:
    store.commit(directory, step, parts, meta, keep=config.checkpoint.keep)
    if config.checkpoint.mirror and directory == config.checkpoint.dir:
        heal.mirror_step(directory, step, config.checkpoint.mirror)


def snapshot(job: loop.Job) -> tuple[State, dict[str, tuple[int, int, int]]]:
    """All that is learned and counted, and the global rows of the blocks that only this rank has."""
    held: State = job.team.state()
    state: State = {**held, **({} if job.stage is None else job.stage.state())}
    ranges: dict[str, tuple[int, int, int]] = job.team.parts(held) if hasattr(job.team, "parts") else {}
    for name, data in job.meter.state().items():
        path = f"meter/{job.link.rank:06d}/{name}"
        flat = data if data.ndim else data[None]
        state[path], ranges[path] = Block(flat), (0, len(flat), len(flat))
    if job.tactic is not None and job.tactic is not job.events:
        more = job.tactic.state()
        state |= more
        ranges |= {path: (0, len(b.data), len(b.data)) for path, b in more.items() if path.startswith("tactic/own/")}
    for path, block in ({} if job.events is None else job.events.state()).items():
        state[path], ranges[path] = block, (0, len(block.data), len(block.data))
    for thread, model in enumerate(job.team.models):
        for name, block in (model.own() if hasattr(model, "own") else {}).items():
            path = f"own/{job.link.rank:06d}/{thread:03d}/{name}"
            state[path], ranges[path] = block, (0, len(block.data), len(block.data))
    if job.memory is not None:
        kept, parts = job.memory.fold(job)
        state |= {f"exchange/{name}": block for name, block in kept.items()}
        ranges |= {f"exchange/{name}": part for name, part in parts.items()}
    return state, ranges


def views(job: loop.Job) -> State:
    """What `snapshot` gives, as views of the live arrays where the model offers them (`view`): to be read at once."""
    model = job.team.models[0]
    state: State = {**getattr(model, "view", model.state)(), **({} if job.stage is None else job.stage.state())}
    kept = job.memory.view() if job.memory is not None else {  # what the exchange has not taken yet, after a recovery
        name: block for name, block in job.recalled.items() if name == "speed"}
    state |= {f"exchange/{name}": block for name, block in kept.items()}
    return state | {f"meter/{job.link.rank:06d}/{name}": Block(data) for name, data in job.meter.view().items()}


def about(job: loop.Job, config: Config, schema: Schema) -> dict[str, Any]:
    """What stays the same from step to step: model, input, configuration, number of ranks."""
    return {"engine": __version__, "match": matching(config, schema), "ranks": job.link.size, "labels": list(schema.labels),
            "schema": [schema.width, schema.sparse, schema.task], "columns": list(schema.columns), "config": config.to_dict(),
            "text": job.text}


def position(job: loop.Job) -> dict[str, Any] | None:
    """Where the stream stands, agreed over ranks; None where rows are handed in by a caller."""
    if isinstance(job.stream, streams.Placed):
        marks = job.link.gather(job.stream.mark(), name="positions")
        return None if marks is None else streams.merged(marks, job.clock.rows, job.label).dump()
    if isinstance(job.stream, Live):
        live = job.link.gather(job.stream.mark(), name="positions")
        found = streams.Position(order=job.clock.rows, label=job.label, live=together(live or (), job.stream.began))
        return None if live is None else found.dump()
    return job.stream.position.dump() if isinstance(job.stream, streams.Dealt) else None


def matching(config: Config, schema: Schema) -> dict[str, Any]:
    """What must be the same for a checkpoint to go on: the model and its input, not where it runs."""
    sections = config.to_dict()
    model = {f"{name}.{key}": value for name in dict.fromkeys(("model", "update", jobs.own_section(config))) if name in sections
             for key, value in sorted(sections[name].items()) if name != "update" or key in ("chain", "batch", "drift")}
    model["clean.stages"] = list(config.clean.stages)
    return model | {"data.width": schema.width, "data.task": schema.task, "data.sparse": schema.sparse}


def restore(job: loop.Job, config: Config, directory: str, schema: Schema) -> dict[str, Any] | None:
    """Loads the newest intact checkpoint; returns its meta, or None where the directory has none."""
    mirror = config.checkpoint.mirror if directory == config.checkpoint.dir else ""
    healed = jobs.agreed(job.link, lambda: heal.heal(directory, mirror) if mirror and not job.link.rank else [],
                         "heal checkpoints")
    found = jobs.agreed(job.link, lambda: store.latest(directory), "read checkpoint")
    if found is None:
        if config.checkpoint.resume == "must":
            raise StoreError("no checkpoint to resume from", where=directory, fix="checkpoint.resume=auto starts anew")
        return None
    rows = job.team.share(found.rows) if hasattr(job.team, "share") else None  # where no rank reads all of it
    state, meta = jobs.agreed(job.link, lambda: store.load(found, rows=rows, match=matching(config, schema)), "load checkpoint")
    if meta.get("text") and job.text and (odd := Plan.read(meta["text"]).differs(Plan.read(job.text))):
        raise StoreError(f"checkpoint is of other columns: {odd}", where=str(found.path),
                         fix="name columns of words in data.categorical, of numbers in data.numeric; or give the same columns")
    adopt(job, state, meta)
    return {**meta, "problems": healed + found.problems, "path": str(found.path)}


def adopt(job: loop.Job, state: Mapping[str, Block], meta: Mapping[str, Any]) -> None:
    """The job goes on from `state`, saved by any number of ranks at the step that `meta` names."""
    mine = {path: block for path, block in state.items() if not path.startswith(jobs.APART)}
    job.team.load(mine if hasattr(job.team, "share") else sparse.widened(mine))
    _restore_own(job, state)
    job.recalled = {path.removeprefix("exchange/"): b for path, b in state.items() if path.startswith("exchange/")}
    if job.tactic is not None and job.tactic is not job.events:
        job.tactic.load(state)
    if job.events is not None:
        job.events.load(state)
    if job.stage is not None:
        job.stage.load(state)
    _restore_meter(job, state, meta["ranks"])
    step, rows = meta["clock"]
    job.clock = Clock(step=step, rows=rows, report_rows=rows + 1, saved_rows=rows)
    job.label = float(meta["label"])


def _restore_own(job: loop.Job, state: Mapping[str, Block]) -> None:
    """Gives each replica what it held where their number is the same, else deals the parts to them in turn."""
    parts: dict[str, State] = {}
    for path, block in state.items():
        if path.startswith("own/"):
            _, rank, place, name = path.split("/", 3)
            parts.setdefault(f"{rank}/{place}", {})[name] = block
    held = [parts[name] for name in sorted(parts)]
    for thread, model in enumerate(job.team.models):
        if hasattr(model, "take"):
            model.take(held[job.link.rank * len(job.team.models) + thread :: job.workers])


def _restore_meter(job: loop.Job, state: Mapping[str, Block], ranks: int) -> None:
    """Each rank its own sums where the number of ranks is the same, else all of them at rank 0."""
    def of(rank: int) -> dict[str, Any]:
        head = f"meter/{rank:06d}/"
        return {path[len(head):]: block.data for path, block in state.items() if path.startswith(head)}

    if ranks == job.link.size:
        job.meter.load(of(job.link.rank))
    elif job.link.rank == 0:
        job.meter = Meter.merged([of(rank) for rank in range(ranks)])
