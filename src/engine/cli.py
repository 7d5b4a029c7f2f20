"""The command line. Nothing heavy is imported until a verb runs, and no verb but the learning ones touches MPI."""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from engine import __version__
from engine.errors import ConfigError, EngineError

FLAGS = {
    "target": ("data.target", "COL", "target column, by name or number"),
    "format": ("data.format", "F", "csv, libsvm or text (found from the first line otherwise)"),
    "task": ("data.task", "T", "binary, multiclass or regression"),
    "hash-bits": ("data.hash_bits", "B", "hash keys into 2^B"),
    "on-bad-rows": ("data.on_bad_rows", "P", "error, skip or count"),
    "spool": ("data.spool", "DIR", "keep rows that cannot be asked for again here before they are acknowledged"),
    "time": ("time.column", "COL", "column of the event time: seconds, ms, us, ns, or ISO 8601"),
    "lateness": ("time.lateness", "S", "seconds a row may come after one of a later time (10s)"),
    "id": ("time.id", "COL", "column of the row's own name: duplicates are dropped by it"),
    "labels": ("time.labels", "L", "row: beside the features; later: a row of the same id brings the label"),
    "window": ("time.window", "W", "scores by windows: 60s, 60s/10s (sliding), 1000rows"),
    "rule": ("data.rule", "R", "who learns which row: deal, hash, range, random, part, window, user, columns, grid:RxC"),
    "learner": ("model.learner", "L", "auto (nag for sparse rows with raw numbers, else ftrl), adagrad, sgd, pa1, pa2"),
    "loss": ("model.loss", "L", "squared, logistic, hinge, quantile, poisson, epsilon"),
    "rate": ("model.rate", "X", "step size (FTRL alpha, passive-aggressive C)"),
    "batch": ("model.batch", "ROWS", "one step along the mean gradient of so many rows (0: one for each row)"),
    "exchange": ("exchange.every", "E", "what a worker learns between exchanges: 256 (rows) or 50ms"),
    "split": ("exchange.split", "S", "rows: replicas that merge; keys: the workers of a node share one sparse model"),
    "place": ("exchange.place", "P", "replica: each rank holds the model; table: each row at its owner, for models too wide"),
    "mode": ("exchange.mode", "M", "bsp, ssp:N, hybrid:N, asp, gossip, local:H, auto: how ranks wait for one another"),
    "codec": ("exchange.codec", "C", "how a dense model's parameters travel: exact, bf16, int8, sign, topk:0.01, auto"),
    "merge": ("exchange.merge", "M", "owner, add, average, touch, conflict"),
    "threads": ("loop.threads", "N", "worker threads of a rank (0: cores over local ranks)"),
    "stall-timeout": ("loop.stall_timeout", "S", "seconds a rank may keep the others waiting"),
    "stop-after": ("loop.stop_after_rows", "ROWS", "stop after so many rows"),
    "checkpoint": ("checkpoint.dir", "DIR", "write checkpoints here"),
    "every": ("checkpoint.every", "E", "a checkpoint every 5000rows or 10s"),
    "mirror": ("checkpoint.mirror", "DIR", "keep a copy of each checkpoint here"),
    "run-dir": ("run.dir", "DIR", "where the run writes (default runs/NNNN; - = nowhere)"),
}
Verb = Callable[[argparse.Namespace, Any], int]
VERBS: dict[str, Verb] = {}


def verb(act: Verb) -> Verb:
    """Registers the function as the verb of its name."""
    VERBS[act.__name__] = act
    return act


@verb
def train(args: argparse.Namespace, guard: Any) -> int:
    from engine.train import train as learn

    config = configured(args)
    summary = learn(config, guard)
    if config.run.json and guard.rank == 0:
        print(json.dumps(summary))
    return 0


@verb
def demo(args: argparse.Namespace, guard: Any) -> int:
    from engine.train import demo as show

    show(configured(args), guard)
    return 0


@verb
def compare(args: argparse.Namespace, guard: Any) -> int:
    from engine.compare import compare as contrast
    from engine.compare import table

    files = [word for word in args.settings if word.endswith(".toml")]
    words = [f"data.source={word}" if "=" not in word.split("?")[0] else word for word in args.settings if word not in files]
    rows = contrast(files, words, guard, args.output)
    if guard.rank == 0:
        print(json.dumps(rows) if args.json else f"{table(rows)}\npicture: {args.output}/compare.html, compare.svg")
    return 0


@verb
def predict(args: argparse.Namespace, guard: Any) -> int:
    from engine.guard import launched
    from engine.train import predict as score

    if launched() > 1:
        raise ConfigError(f"predict runs on one rank, found {launched()}", fix="engine predict CKPT SOURCE, without run -n")
    rows = score(configured(args), guard, args.ckpt, args.output)
    if args.output not in ("", "-"):
        print(f"{rows} predictions in {args.output}")
    return 0


@verb
def inspect(args: argparse.Namespace, guard: Any) -> int:
    from pathlib import Path

    from engine.errors import StoreError
    from engine.store import checkpoint as store
    from engine.store import describe

    folder = Path(args.ckpt)
    if not (folder / "manifest.json").exists():
        newest = store.latest(folder)
        if newest is None:
            raise StoreError("no checkpoint found", where=args.ckpt, fix="give the directory that --checkpoint wrote")
        folder = newest.path
    found = describe.inspect(folder)
    print(json.dumps(found) if args.json else "\n".join(describe.told(found)))
    return 0


@verb
def forecast(args: argparse.Namespace, guard: Any) -> int:
    from engine.cluster.forecast import told

    print("\n".join(told(args.ranks, args.floats, args.per_node, args.latency, args.bandwidth, args.density)))
    return 0


@verb
def profile(args: argparse.Namespace, guard: Any) -> int:
    from dataclasses import replace

    from engine.job import open_source, source_options
    from engine.source import profile as look
    from engine.source.read import head
    from engine.source.text import TextSource

    config = configured(args)
    options = source_options(replace(config, data=replace(config.data, on_bad_rows="skip", missing="nan")))
    source = open_source(config.data.source, **options)
    names = ("", "")
    if isinstance(source, TextSource) and source.plan.format == "csv" and source.paths[0] != "-":
        names = look.marks(source.plan, head(source.paths[0]))
        if any(names) and not (config.time.column or config.time.id):  # neither is a feature
            source = open_source(config.data.source, **options | {"event": (*names, "auto")})
    found = look.profile(source, args.rows) | {name: value for name, value in zip(("time", "id"), names, strict=True) if value}
    print(json.dumps(found) if args.json else look.table(found))
    if args.output:
        with open(args.output, "x") as file:
            file.write(look.starter(found, config.data.source, config.data.target))
        print(f"{args.output}: a configuration to start from; engine train --config {args.output}", file=sys.stderr)
    return 0


@verb
def doctor(args: argparse.Namespace, guard: Any) -> int:
    from engine.doctor import main as examine

    return examine(args.json)


@verb
def shard(args: argparse.Namespace, guard: Any) -> int:
    from engine.table.placement import main as advise

    return advise(configured(args), ranks=args.ranks, per_node=args.per_node, per_rack=args.per_rack, rows=args.rows,
                  as_json=args.json)


@verb
def init(args: argparse.Namespace, guard: Any) -> int:
    from engine.template import SCRIPTS, settings

    text = settings() if args.scheduler == "toml" else SCRIPTS[args.scheduler]
    if args.output:
        try:
            with open(args.output, "x") as file:
                file.write(text)
        except FileExistsError:
            raise ConfigError(f"{args.output} is already there", fix="give another name to -o") from None
    else:
        print(text, end="")
    return 0


@verb
def embed(args: argparse.Namespace, guard: Any) -> int:
    from engine import lib

    for kind in [kind for kind in lib.KINDS if getattr(args, kind)] or lib.KINDS:
        print(lib.text(kind))
    return 0


@verb
def ckpt(args: argparse.Namespace, guard: Any) -> int:
    from engine.survive import archive

    return archive.ckpt(args)


@verb
def audit(args: argparse.Namespace, guard: Any) -> int:
    from engine.survive import archive

    return archive.audit(args)


@verb
def scale(args: argparse.Namespace, guard: Any) -> int:
    from engine.survive import archive

    return archive.scale(args)


def configured(args: argparse.Namespace) -> Any:
    """The resolved configuration of a learning verb."""
    from engine.config import resolve

    given = [f"{key}={getattr(args, flag.replace('-', '_'))}" for flag, (key, _, _) in FLAGS.items()
             if getattr(args, flag.replace("-", "_"), None) is not None]
    words = list(getattr(args, "settings", []) or [])
    source = next((w for w in words if "=" not in w.split("?")[0]), None)
    if source is not None:
        words.remove(source)
        given.append(f"data.source={source}")
    for flag, setting in (("quiet", "run.quiet=true"), ("json", "run.json=true"), ("resume", "checkpoint.resume=auto"),
                          ("follow", "data.follow=true"), ("reproducible", "exchange.virtual=16")):
        if getattr(args, flag, False):
            given.append(setting)
    return resolve(getattr(args, "config", None), overrides=[*given, *words])


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="engine", description="Distributed incremental learning under MPI.",
                 epilog="exit codes: 64 usage, 65 data, 70 bug, 74 I/O, 75 try again, 130 interrupted")
    top.add_argument("--version", action="version", version=f"engine {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    _surviving(verbs)
    run = verbs.add_parser("run", help="start a verb on N ranks: engine run -n 4 train …")
    run.add_argument("-n", type=int, dest="ranks", metavar="N", help="ranks")
    run.add_argument("--mpi", default="", metavar="PATH", help="the mpiexec to use")
    run.add_argument("--timeout", type=float, default=0.0, metavar="S", help="stop the run after S seconds")
    run.add_argument("--supervise", action="store_true", help="start again from node memory when ranks are lost")
    run.add_argument("--on-loss", choices=("same", "shrink", "grow"), default="same", help="ranks after a loss (default same)")
    run.add_argument("--stuck", type=int, default=3, metavar="K", help="give up after K losses in a row without a new step")
    run.add_argument("--restarts", type=int, default=100, metavar="K", help="most starts again (default 100)")
    run.add_argument("rest", nargs=argparse.REMAINDER, metavar="VERB …")
    learn = verbs.add_parser("train", help="learn a source: a file, a directory, a glob, make:…, or - for stdin")
    learn.add_argument("settings", nargs="*", metavar="SOURCE | section.key=value")
    _learning(learn)
    learn.add_argument("--resume", action="store_true", help="go on from the newest good checkpoint")
    learn.add_argument("--follow", action="store_true", help="go on reading what comes into a file or folder [data.follow]")
    sides = verbs.add_parser("compare", help="run several configurations on one stream: one table, one picture")
    sides.add_argument("settings", nargs="+", metavar="A.toml B.toml … SOURCE | section.key=value")
    sides.add_argument("-o", "--output", default="compared", metavar="DIR", help="where the runs and the comparison go")
    sides.add_argument("--json", action="store_true", help="print the table as JSON")
    show = verbs.add_parser("demo", help="learn handwritten digits, then a drifting stream")
    _learning(show)
    score = verbs.add_parser("predict", help="predictions of a checkpoint's model for every row of a source")
    score.add_argument("ckpt")
    score.add_argument("settings", nargs="+", metavar="SOURCE | section.key=value")
    score.add_argument("-o", "--output", default="-")
    seen = verbs.add_parser("profile", help="what is in a stream: types, missing, ranges, drift; -o writes a configuration")
    seen.add_argument("settings", nargs="+", metavar="SOURCE | section.key=value")
    seen.add_argument("--target", metavar="COL", help="target column, by name or number")
    seen.add_argument("--task", metavar="T", help="binary, multiclass or regression")
    seen.add_argument("--rows", type=int, default=200_000, metavar="N", help="rows to look at (default 200000)")
    seen.add_argument("--json", action="store_true")
    seen.add_argument("-o", "--output", default="", metavar="FILE.toml")
    look = verbs.add_parser("inspect", help="what is in a checkpoint")
    look.add_argument("ckpt")
    far = verbs.add_parser("forecast", help="what a dense exchange would cost on N ranks, by codec, from stated constants")
    far.add_argument("ranks", type=int, metavar="N")
    far.add_argument("--floats", type=float, default=1 << 24, metavar="K", help="float32 parameters")
    far.add_argument("--per-node", type=int, default=64, metavar="R", help="ranks of a node")
    far.add_argument("--latency", type=float, default=3.0, metavar="US", help="microseconds a message between nodes")
    far.add_argument("--bandwidth", type=float, default=100.0, metavar="GBIT", help="gigabits a second of a node")
    far.add_argument("--density", type=float, default=0.01, metavar="D", help="share of entries that topk sends")
    check = verbs.add_parser("doctor", help="what this machine has, and what to mend")
    for p in (look, check):
        p.add_argument("--json", action="store_true")
    kit = verbs.add_parser("embed", help="what a C, C++ or Fortran solver is compiled and run with (docs/embed.md)")
    for flag, about in (("cflags", "flags of the compiler"), ("libs", "flags of the linker"), ("env", "environment, for eval"),
                        ("fortran", "the module's source"), ("cmake", "folder of engineConfig.cmake"),
                        ("pkgconfig", "folder of engine.pc")):
        kit.add_argument(f"--{flag}", action="store_true", help=about)
    cut = verbs.add_parser("shard", help="shard plan SOURCE: what to cut the data by and who should own what, with the reasons")
    cut.add_argument("what", choices=("plan",))
    cut.add_argument("settings", nargs="+", metavar="SOURCE | zipf:POWER:KEYS | section.key=value")
    cut.add_argument("--config", metavar="FILE.toml")
    for flag, value, about in (("ranks", 4, "ranks to plan for"), ("per-node", 1, "ranks a node"),
                               ("per-rack", 0, "nodes a rack (0: one rack)"), ("rows", 20_000, "rows to look at")):
        cut.add_argument(f"--{flag}", type=int, default=value, metavar="N", help=f"{about} (default {value})")
    cut.add_argument("--json", action="store_true")
    script = verbs.add_parser("init", help="write a commented job script, or a configuration with every setting (toml)")
    script.add_argument("scheduler", choices=("slurm", "pbs", "toml"))
    script.add_argument("-o", "--output", default="")
    return top


def _surviving(verbs: Any) -> None:
    ckpt = verbs.add_parser("ckpt", help="list, verify, show, roll back, reshard or export checkpoints")
    ckpt.add_argument("act", choices=("ls", "verify", "show", "rollback", "reshard", "export"))
    ckpt.add_argument("ckpt", metavar="DIR", help="a directory of checkpoints, or one of them")
    ckpt.add_argument("--to", default="", metavar="STEP|TIME", help="rollback: the checkpoint to go back to")
    ckpt.add_argument("-n", type=int, default=1, dest="ranks", metavar="N", help="reshard: part files to write")
    ckpt.add_argument("-o", "--output", default="", metavar="FILE|DIR", help="export: .npz or .onnx; reshard: a directory")
    ckpt.add_argument("--mirror", default="", metavar="DIR", help="verify: put right what is damaged from this copy")
    proof = verbs.add_parser("audit", help="replay and verify the journal of a run, in node memory or in a directory")
    proof.add_argument("run", metavar="RUN|DIR")
    grow = verbs.add_parser("scale", help="let a supervised run go on with N ranks")
    grow.add_argument("run", metavar="RUN", help="its checkpoint directory, or its name in node memory")
    grow.add_argument("ranks", type=int, metavar="N")
    for p in (ckpt, proof):
        p.add_argument("--json", action="store_true")


def _learning(p: argparse.ArgumentParser) -> None:
    p.add_argument("--config", metavar="FILE.toml")
    for flag, (key, name, text) in FLAGS.items():
        p.add_argument(f"--{flag}", metavar=name, help=f"{text} [{key}]")
    p.add_argument("--reproducible", action="store_true", help="the same bits on any number of ranks [exchange.virtual=16]")
    p.add_argument("--quiet", action="store_true")
    p.add_argument("--json", action="store_true", help="print the summary as one JSON object")


class Parser(argparse.ArgumentParser):
    """Usage errors leave with 64, as sysexits has it."""

    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        self.exit(64, f"engine: error[E200] {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb as a program; returns its exit code."""
    args = parse(argv)
    from engine.guard import Guard

    guard = Guard()
    try:
        if args.verb == "run":
            return _run(args)
        guard.install()
        code = VERBS[args.verb](args, guard)
        _finalize()
        guard.rest(finished=True)
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (EngineError, KeyboardInterrupt, Exception) as error:
        guard.fail(error)
        return 70


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; settings may stand before, between and after flags."""
    top = parser()
    args, extra = top.parse_known_args(argv)
    odd = [word for word in extra if word.startswith("-") or not hasattr(args, "settings")]
    if odd:
        top.error(f"unrecognized arguments: {' '.join(odd)}")
    if extra:
        args.settings = [*args.settings, *extra]
    return args


def _run(args: argparse.Namespace) -> int:
    from engine.launch import run

    rest = args.rest[1:] if args.rest[:1] == ["--"] else args.rest
    if args.supervise:
        from engine.survive.archive import supervised

        return supervised(args, rest, VERBS, lambda words: configured(parse(words)))
    if not rest or rest[0] not in VERBS:
        raise ConfigError(f"engine run: expected a verb ({', '.join(VERBS)}), found {' '.join(rest[:1]) or 'nothing'}",
                          fix="for example: engine run -n 2 train data.csv")
    if args.ranks is None:
        raise ConfigError("engine run: expected -n N, found no number of ranks", fix="add -n N before the verb")
    parse(rest)
    return run(args.ranks, rest, mpi=args.mpi, timeout_s=args.timeout)


def _finalize() -> None:
    """Ends MPI in good order; only after a run in which every rank has passed the last barrier."""
    if "mpi4py.MPI" in sys.modules:
        from engine.comm import repair
        from engine.comm.world import finish

        if repair.repaired:  # MPI_Finalize hangs after a death
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        finish()
