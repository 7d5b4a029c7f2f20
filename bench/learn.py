"""Learning: the linear family beside Vowpal Wabbit, River and scikit-learn: the same rows in the same order, one pass.

Rates are rows per CPU-second on both sides (VW parses in a second thread); wall-clock rates stand beside them.
"""
from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import streams
from bench.launch import engine, import_s
from bench.peers import Peer, peer
from bench.registry import Missing, Setting, case, versus
from bench.row import Row, row
from bench.timing import Sample, alone, cpu_s, spread
from engine.types import Batch

FTRL = {"loss": "logistic", "learner": "ftrl", "rate": 0.15, "beta": 0.5}
SGD = {"loss": "logistic", "learner": "sgd", "rate": 0.5, "power_t": 0.0}


def linear(width: int, **options: Any) -> Any:
    from engine.models.linear import Linear

    return Linear(width, **options)


def timed(make: Callable[[], Any], work: Callable[[Any], Any]) -> Callable[[], Sample]:
    """A round: `make` outside the clock (as a peer's start-up is), `work` inside."""
    def call() -> Sample:
        subject = make()
        wall, cpu = time.perf_counter(), cpu_s()
        result = work(subject)
        return Sample(time.perf_counter() - wall, cpu_s() - cpu, result)
    return call


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench ") as name:
        yield Path(name)


def probability(margin: Any) -> Any:
    return 1 / (1 + np.exp(-margin.astype(np.float64)))


def first_pass(make: Callable[[], Any], batch: Batch) -> float:
    """Progressive log loss of one pass."""
    return streams.logloss(probability(make().learn(batch)), batch.y)


def against_vw(setting: Setting, name: str, ours: Callable[[], Any], n: int, vw: Peer | Missing, label: str,
               **beside: Any) -> Row:
    made = versus(setting, name, label, ours, vw, work=n, unit="rows/cpu s", clock="cpu", **beside)
    if isinstance(vw, Peer):
        made |= {"baseline_version": vw().result["version"]}
    return made


@case("learn", "a9a.memory")
def a9a_memory(setting: Setting) -> Iterator[Row]:
    """FTRL over a9a ten times, CSR in memory, touched rows tracked; VW reads its cache."""
    rows, times = streams.libsvm(setting.file("a9a.libsvm")), 10
    batch, bits = rows.batch(times), 18

    def make() -> Any:
        return linear(1 << bits, tracked=True, **FTRL)

    loss = first_pass(make, rows.batch())
    ours = timed(make, lambda model: model.learn(batch))
    wall = len(batch) / alone(ours, 3, 3).median("wall")
    with folder() as at:
        once, many = rows.write_vw(at / "once.vw"), rows.write_vw(at / "many.vw", times)
        asked = {"ratio": ">= 10", "logloss": "<= 0.3325"}
        for label, extra, bars in (("vw", [], asked), ("vw --ftrl", ["--ftrl"], {})):
            arguments = ["-b", str(bits), "--loss_function", "logistic", *extra]
            with peer("vw", path=str(once), arguments=arguments) as short:
                theirs = short().result["loss"] if isinstance(short, Peer) else None
            with peer("vw", path=str(many), arguments=arguments) as vw:
                yield against_vw(setting, "a9a.memory", ours, len(batch), vw, f"{label} cached", logloss=loss,
                                 baseline_logloss=theirs, rows_per_wall_s=wall, bars=bars)


@case("learn", "a9a.text")
def a9a_text(setting: Setting) -> Iterator[Row]:
    """The same rows from text: libsvm here, VW's own text format there; parsing is inside the clock on both sides."""
    from engine.source.read import open_source

    path, times = setting.file("a9a.libsvm"), 10
    rows = streams.libsvm(path)
    with folder() as at:
        text = at / "many.libsvm"
        text.write_bytes((path.read_bytes().rstrip() + b"\n") * times)

        def work(model: Any) -> int:
            source, n, piece = open_source(str(text), format="libsvm"), 0, 0
            while True:
                read = 0
                for batch in source.read(piece):
                    model.learn(batch)
                    read += len(batch)
                n, piece = n + read, piece + 1
                if not read and (source.pieces is None or piece >= source.pieces):
                    break
            source.close()
            return n

        n = len(rows.y) * times
        ours = timed(lambda: linear(1 << 18, tracked=True, **FTRL), work)
        found = ours().result
        if found != n:
            raise ValueError(f"the source gave {found} rows of {n}")
        arguments = ["-b", "18", "--loss_function", "logistic"]
        with peer("vw", path=str(rows.write_vw(at / "many.vw", times)), arguments=arguments, cached=False) as vw:
            yield against_vw(setting, "a9a.text", ours, n, vw, "vw text", bars={"ratio": ">= 5"})


@case("learn", "zipf.memory")
def zipf_memory(setting: Setting) -> Iterator[Row]:
    """2^24 hashed keys, 40 a row: the weights do not fit a cache. VW with its default learner and the same bits."""
    rows = streams.zipf(1_000_000 if setting.long else 200_000)
    batch, bits = rows.batch(), 24

    def make() -> Any:
        return linear(1 << bits, tracked=True, **FTRL)

    loss = first_pass(make, batch)
    ours = timed(make, lambda model: model.learn(batch))
    with folder() as at:
        arguments = ["-b", str(bits), "--loss_function", "logistic"]
        with peer("vw", path=str(rows.write_vw(at / "zipf.vw")), arguments=arguments) as vw:
            theirs = vw().result["loss"] if isinstance(vw, Peer) else None
            bars = {"ratio": ">= 3"} | ({} if theirs is None else {"logloss": f"<= {theirs}"})
            yield against_vw(setting, "zipf.memory", ours, len(batch), vw, "vw cached", logloss=loss,
                             baseline_logloss=theirs, bars=bars)


def saved(at: Path, x: Any, y: Any) -> str:
    """The dense rows where a peer reads them."""
    path = at / "dense.npz"
    np.savez(path, x=x, y=y)
    return str(path)


@case("learn", "electricity.pa")
def electricity_pa(setting: Setting) -> Iterator[Row]:
    """Passive-aggressive, 8 columns standardised online, each row scored before scaler and model learn it."""
    x, y = streams.electricity(setting.file("electricity.csv"))
    batch = streams.dense(x, y)

    def make() -> Any:
        return linear(8, loss="hinge", learner="pa1", scale=True)

    series = alone(timed(make, lambda model: model.learn(batch)), 3, 3)
    accuracy = float(((series.result.ravel() > 0) == (y > 0)).mean())
    same = float((y[1:] == y[:-1]).mean())
    beside = {"no_change": same, "kappa_temporal": (accuracy - same) / (1 - same),
              "rows_per_cpu_s": len(y) / series.median("cpu")}
    options = {"model": "pa", "settings": {"C": 1.0, "mode": 1}, "scale": True}
    with folder() as at, peer("river", path=saved(at, x, y), **options) as river:
        theirs = None
        if isinstance(river, Peer):
            other = river()
            theirs = other.result["accuracy"]
            note = {"baseline_rows_per_cpu_s": len(y) / other.cpu, "baseline_version": other.result["version"]}
        else:
            note = {"note": str(river)}
        yield row("electricity.pa", accuracy, "accuracy", "river PA-I, scaled", theirs, bars={"value": ">= 0.9228"},
                  **beside, **note)


@case("learn", "learn_one")
def learn_one(setting: Setting) -> Iterator[Row]:
    """Row by row from Python, 8 dense features: predict, then learn; River's dicts are built outside the clock."""
    x, y = streams.electricity(setting.file("electricity.csv"))
    pairs = [(np.ascontiguousarray(one), float(label)) for one, label in zip(x, y, strict=True)]
    for scale in (False, True):
        def make(scale: bool = scale) -> Any:
            return linear(8, scale=scale, **SGD)

        def work(model: Any) -> None:
            learn = model.learn_one
            for one, label in pairs:
                learn(one, label)

        label = "river LogisticRegression" + (", scaled" if scale else "")
        options = {"model": "logistic", "settings": {"lr": 0.5}, "scale": scale}
        with folder() as at, peer("river", path=saved(at, x, y), **options) as river:
            yield versus(setting, "learn_one" + (".scaled" if scale else ""), label, timed(make, work), river,
                         work=len(y), unit="rows/cpu s", clock="cpu", bars={"ratio": ">= 2"})


@case("learn", "learn_many")
def learn_many(setting: Setting) -> Iterator[Row]:
    """The same in calls of 1000 rows, exact per example; River learns one by one, scikit-learn batches of 100."""
    x, y = streams.electricity(setting.file("electricity.csv"))
    batch = streams.dense(x, y)
    parts = [batch.slice(start, min(start + 1000, len(y))) for start in range(0, len(y), 1000)]

    def make() -> Any:
        return linear(8, **SGD)

    ours = timed(make, lambda model: [model.learn(part) for part in parts])
    peers: list[tuple[str, str, dict[str, Any], dict[str, str]]] = [
        ("river LogisticRegression", "river", {"model": "logistic", "settings": {"lr": 0.5}, "scale": False},
         {"ratio": ">= 6"}),
        ("sklearn SGD, batches of 100", "sklearn_sgd", {"batch": 100, "settings": {"loss": "log_loss"}}, {})]
    with folder() as at:
        path = saved(at, x, y)
        for label, script, options, bars in peers:
            with peer(script, path=path, **options) as other:
                yield versus(setting, "learn_many", label, ours, other, work=len(y), unit="rows/cpu s", clock="cpu",
                             bars=bars)


@case("learn", "a9a.ranks4")
def a9a_ranks(setting: Setting) -> Iterator[Row]:
    """Four ranks that exchange every 8 rows, against one rank: what distribution costs in log loss."""
    path = str(setting.file("a9a.libsvm"))
    options = ["model.learner=ftrl", "exchange.every=8", "loop.threads=1"]
    one, four = (engine(ranks, path, options) for ranks in (1, 4))
    yield row("a9a.ranks4", four["logloss"], "log loss", "1 rank", one["logloss"],
              excess=four["logloss"] - one["logloss"], bars={"excess": "<= 0.001"}, rows=four["rows"])


@case("learn", "speedup")
def speedup(setting: Setting) -> Iterator[Row]:
    """A Zipf click stream on 2 ranks, and on 1 rank with 2 threads, against 1 x 1; the runs interleave, wall-clock.

    The workers share one model, split by keys: replicas of a model this wide are bound by what they exchange.
    """
    n = 10_000_000
    spec = f"make:zipf?rows={n}"
    shapes = {"1x1": (1, 1), "2 ranks": (2, 1), "1 rank x 2 threads": (1, 2)}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in shapes}
    for _ in range(3 if setting.long else 2):
        for name, (ranks, threads) in shapes.items():
            split = "rows" if ranks * threads == 1 else "keys"
            options = ["model.learner=ftrl", f"loop.threads={threads}", f"exchange.split={split}"]
            found[name].append(engine(ranks, spec, options))
    base = found.pop("1x1")
    for name, runs in found.items():
        ratios = [run["rows_s"] / other["rows_s"] for run, other in zip(runs, base, strict=True)]
        excess = runs[-1]["logloss"] - base[-1]["logloss"]
        value, other = (float(np.median([run["rows_s"] for run in side])) for side in (runs, base))
        yield row("speedup", value, "rows/s", f"1 x 1 (ours: {name})", other, float(np.median(ratios)), spread(ratios),
                  {"ratio": ">= 1.7", "excess": "<= 0.001"}, excess=excess, logloss=runs[-1]["logloss"], rows=n)


@case("learn", "cold")
def cold(setting: Setting) -> Iterator[Row]:
    """How long a user waits for nothing: `engine --help` and `import engine`, beside Python's own start."""
    bare = import_s("pass")
    for name, arguments in (("cold.help", ["-m", "engine", "--help"]),
                            ("cold.import", ["-c", "import engine, sys; sys.exit('mpi4py.MPI' in sys.modules)"])):
        series = import_s(arguments)
        yield row(name, series.median(), "s", f"{Path(sys.executable).name} -c pass", bare.median(),
                  spread=series.spread(), bars={"value": "<= 0.2"})
