"""Verbs of survival: supervised runs; checkpoints listed, verified, rolled back, resharded, exported; audit; scaling."""
from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ConfigError, EngineError, StoreError
from engine.store.atomic import move_dir, write_file
from engine.store.checkpoint import commit, manifest_of, newest, problem_of, save_part, step_dir, steps
from engine.store.describe import inspect
from engine.store.heal import heal
from engine.types import State


def supervised(args: argparse.Namespace, rest: list[str], verbs: Mapping[str, Any],
               configured: Callable[[list[str]], Any]) -> int:
    """`engine run --supervise -n N VERB …`, or around a launcher's own line: `engine run --supervise -- mpirun …`."""
    from engine.cluster.health import Limits
    from engine.launch import command
    from engine.survive.partner import code_of
    from engine.survive.supervise import Plan, foreign, name_of, run

    if not rest:
        raise ConfigError("engine run --supervise: expected a verb or a launcher's line, found nothing",
                          fix="for example: engine run --supervise -n 4 train data.csv")
    if rest[0] not in verbs:
        return run(Plan(foreign(rest), args.ranks or 1, name_of(""), args.on_loss, args.restarts, args.timeout,
                        stuck=args.stuck))
    if args.ranks is None:
        raise ConfigError("engine run: expected -n N, found no number of ranks",
                          fix="for example: engine run --supervise -n 4 train data.csv")
    if rest[0] != "train":
        raise ConfigError(f"engine run --supervise: expected the verb train, found {rest[0]}", fix="leave --supervise out")
    config = configured(rest)
    if config.data.source == "-":
        raise ConfigError("engine run --supervise: standard input cannot be read again after a loss",
                          fix="write it to a file first, or leave --supervise out")
    if config.fault.memory == "off":
        raise ConfigError("engine run --supervise: expected fault.memory auto or on, found off", fix="leave that setting out")
    if config.time.column or config.time.id or config.time.window:
        raise ConfigError("engine run --supervise: node memory holds no ids, held rows and windows, found settings of [time]",
                          fix="engine run with --checkpoint and --every, and --resume after a loss")
    code_of(config)
    limits = Limits(config.fault.frozen, config.fault.hung)
    where = config.checkpoint.dir
    mend = args.on_loss == "shrink" and config.fault.inplace
    return run(Plan(lambda ranks: command(ranks, rest, mpi=args.mpi, mend=mend), args.ranks, name_of(where), args.on_loss,
                    args.restarts, args.timeout, config.checkpoint.resume == "never", bool(where), limits,
                    config.fault.folder, 8.0 * mend, args.stuck, config.fault.standby))


ACTS: dict[str, Callable[[argparse.Namespace], Any]] = {}


def act(name: str) -> Callable[[Callable[[argparse.Namespace], Any]], Callable[[argparse.Namespace], Any]]:
    """Registers an action of `engine ckpt`: it returns what is to be shown."""
    def enter(function: Callable[[argparse.Namespace], Any]) -> Callable[[argparse.Namespace], Any]:
        ACTS[name] = function
        return function
    return enter


def ckpt(args: argparse.Namespace) -> int:
    """`engine ckpt ls|verify|show|rollback|reshard|export DIR`."""
    found = ACTS[args.act](args)
    _say(found, args.json)
    return 74 if isinstance(found, list) and any(row.get("state", "intact") != "intact" for row in found) else 0


def _say(found: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
    elif isinstance(found, list):
        names = list(found[0]) if found else []
        table = [names, *([str(row[name]) for name in names] for row in found)]
        widths = [max(len(row[at]) for row in table) for at in range(len(names))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)
        print("\n".join(line.rstrip() for line in lines))
    else:
        print("\n".join(f"{name:12} {value}" for name, value in found.items()))


def _root(args: argparse.Namespace) -> Path:
    folder = Path(args.ckpt)
    if (folder / "manifest.json").exists():
        return folder.parent
    if not steps(folder):
        raise StoreError("expected a directory of checkpoints, found none", where=args.ckpt,
                         fix="give the directory that --checkpoint wrote")
    return folder


@act("ls")
def _ls(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [_row(_root(args), step, deep=False) for step in steps(_root(args))]


@act("verify")
def _verify(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every byte of every checkpoint is read; with `--mirror`, what is damaged in either is put right from the other."""
    if args.mirror:
        for line in heal(args.ckpt, args.mirror):
            print(line, file=sys.stderr)
    return [_row(_root(args), step, deep=True) for step in steps(_root(args))]


def _row(root: Path, step: int, *, deep: bool) -> dict[str, Any]:
    folder = step_dir(root, step)
    problem = problem_of(folder, deep=deep)
    row: dict[str, Any] = {"step": step, "written": "-", "bytes": "-", "parts": "-", "base": "-", "state": problem or "intact"}
    if problem is None:
        manifest = manifest_of(folder)
        row |= {"bytes": sum(part["size"] for part in manifest["parts"]), "parts": len(manifest["parts"]),
                "written": datetime.fromtimestamp(folder.stat().st_mtime).isoformat(" ", "seconds")}
        row["base"] = manifest.get("base", "-")
    return row


@act("show")
def _show(args: argparse.Namespace) -> dict[str, Any]:
    found = inspect(args.ckpt)
    return {name: value for name, value in found.items() if name != "meta"} | found["meta"]


@act("rollback")
def _rollback(args: argparse.Namespace) -> dict[str, Any]:
    """Later checkpoints are set aside under hidden names, not deleted: the next --resume goes on from the one named."""
    root = _root(args)
    target = _named_step(root, args.to)
    problem = problem_of(step_dir(root, target), deep=True)
    if problem:
        raise StoreError(f"the checkpoint of step {target} is damaged: {problem}", where=str(root),
                         fix="name another with --to")
    aside = [step for step in steps(root) if step > target]
    for step in aside:
        move_dir(step_dir(root, step), root / f"aside-{step:012d}")
    return {"step": target, "set_aside": aside}


def _named_step(root: Path, text: str) -> int:
    """A step by its number, or the newest one written at or before a time (ISO 8601)."""
    there = steps(root)
    if text.isdigit() and int(text) in there:
        return int(text)
    try:
        moment = datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ConfigError(f"--to: expected one of the steps {', '.join(map(str, there))} or a time, found {text!r}",
                          fix="engine ckpt ls shows steps and times") from None
    before = [step for step in there if step_dir(root, step).stat().st_mtime <= moment]
    if not before:
        raise ConfigError(f"--to: no checkpoint was written by {text}", fix="engine ckpt ls shows steps and times")
    return before[-1]


@act("reshard")
def _reshard(args: argparse.Namespace) -> dict[str, Any]:
    """The newest intact checkpoint as one whole (a chain is compacted) of N part files, in another directory."""
    if not args.output or args.ranks < 1:
        raise ConfigError("reshard: expected -n N and -o DIR", fix="engine ckpt reshard DIR -n 4 -o DIR2")
    if there := steps(args.output):
        raise ConfigError(f"reshard: expected a directory without checkpoints, found those of steps {there}", where=args.output,
                          fix="give another directory to -o")
    state, meta, found = newest(args.ckpt)
    parts = [save_part(args.output, found.step, rank, args.ranks, state) for rank in range(args.ranks)]
    return {"path": str(commit(args.output, found.step, parts, meta)), "step": found.step, "parts": args.ranks}


@act("export")
def _export(args: argparse.Namespace) -> dict[str, Any]:
    """The model as .npz: an array a block, by its path; columns that the checkpoint keeps by name as `path.columns`. As .onnx:
    a graph that predicts what `engine predict` predicts.
    """
    if not args.output.endswith((".npz", ".onnx")):
        raise ConfigError(f"export: expected -o FILE.npz or FILE.onnx, found {args.output or 'nothing'}",
                          fix="engine ckpt export DIR -o model.npz")
    state, meta, found = newest(args.ckpt)
    if args.output.endswith(".onnx"):
        return {"path": args.output, "step": found.step, "bytes": _graph(args.output, state, meta)}
    arrays: dict[str, Any] = {path: block.data for path, block in state.items() if not path.startswith("meter/")}
    arrays |= {f"{path}.columns": np.array([name for name, _ in block.columns])
               for path, block in state.items() if block.columns}
    arrays["meta.json"] = np.array(json.dumps(meta))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_file(Path(args.output), [buffer.getvalue()])
    return {"path": args.output, "step": found.step, "blocks": len(arrays) - 1}


def _graph(output: str, state: State, meta: Mapping[str, Any]) -> int:
    from engine import job as jobs
    from engine.survive import onnx

    if "config" not in meta:
        raise StoreError("expected a checkpoint of a job, found one without a configuration", fix="export to .npz")
    model, stage, schema = jobs.restored(state, meta)
    about = {"engine": str(meta.get("engine", "")), "columns": json.dumps(list(schema.columns)),
             "rows_learned": str(meta["clock"][1])}
    data = onnx.export(model, stage, schema, about)
    write_file(Path(output), [data])
    return len(data)


def memory_of(run: str) -> Path:
    """The folder in node memory of a run, by its checkpoint directory or its name there."""
    from engine.survive.pulse import home
    from engine.survive.supervise import name_of

    for name in (*([run] if Path(run).name == run else []), name_of(run)):  # a path is never a name
        if run and (found := home("/dev/shm") / name).is_dir():
            return found
    raise StoreError(f"no run {run!r} in node memory", where=str(home("/dev/shm")),
                     fix="give its checkpoint directory, as it was given to it")


def audit(args: argparse.Namespace) -> int:
    """Replays every journal below a run's node memory (or a directory) on its image; each link of the chain is checked."""
    from engine.store.keeper import Copy

    folder = Path(args.run) if list(Path(args.run).glob("**/image-*")) else memory_of(args.run)
    rows = []
    for place in sorted({path.parent for path in folder.glob("**/image-*")}):
        copy = Copy(place)
        versions = copy.versions
        problem = "; ".join(copy.problems)
        if versions and not problem:
            try:
                copy.state_at(max(versions))
            except EngineError as error:
                problem = error.message
        rows.append({"shard": copy.shard, "role": place.name.partition("-")[0], "epoch": copy.epoch,
                     "from": min(versions, default="-"), "to": max(versions, default="-"), "records": len(versions),
                     "state": problem or "intact"})
    _say(rows, args.json)
    return 74 if any(row["state"] != "intact" for row in rows) else 0


def scale(args: argparse.Namespace) -> int:
    """Asks the supervisor of a run to go on with another number of ranks."""
    if args.ranks < 1:
        raise ConfigError(f"scale: expected at least 1 rank, found {args.ranks}")
    folder = memory_of(args.run)
    scratch = folder / ".scale"
    scratch.write_text(str(args.ranks))
    scratch.rename(folder / "scale")
    print(f"{folder.name}: {args.ranks} ranks asked for")
    return 0
