"""Learning without forgetting: MNIST in five tasks, and what each update strategy costs and gains."""
from __future__ import annotations

import gzip
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench import streams
from bench.launch import engine
from bench.registry import Setting, case
from bench.row import Row, row
from engine.types import Array, Batch, join

TASKS, SEEDS = 5, 5
CHAINS = {
    "naive": "adam(0.001)",
    "replay": "replay(1000, 64) | adam(0.001)",
    "der": "der(1000, 64, 2, 6) | adam(0.001)",
    "agem": "agem(1000, 64) | sgd(0.1)",
    "lwf": "lwf(2, 2) | sgd(0.05)",
    "si": "si(1) | sgd(0.05)",
}


def mnist(setting: Setting) -> tuple[Batch, Batch]:
    """8 000 rows to learn and 2 000 to test, pixels in [0, 1]."""
    images, labels = (setting.file(f"mnist-t10k-{name}.gz") for name in ("images.idx3", "labels.idx1"))
    x = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 784).astype(np.float32) / 255
    y = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8).astype(np.float32)
    return streams.dense(x[:8000], y[:8000]), streams.dense(x[8000:], y[8000:])


def net(chain: str, seed: int, **more: Any) -> Any:
    """784-256-10 under a chain, mini-batches of 10."""
    from engine.models.dense import Mlp
    from engine.models.graded import Graded
    from engine.update.policy import parse

    more = {"batch": 10, "tracked": False, **more}
    return Graded(lambda: Mlp([784, 256, 10], seed=seed), parse(chain), loss="softmax", width=784, seed=seed, **more)


def split_tasks(train: Batch, seed: int) -> list[Batch]:
    """Two classes a task, rows in an order of their own."""
    rng = np.random.default_rng(seed)
    return [train.take(rng.permutation(np.flatnonzero(train.y // 2 == t))) for t in range(TASKS)]


def right(model: Any, rows: Batch) -> float:
    return float((model.predict(rows).argmax(axis=1) == rows.y).mean())


def incremental(chain: str, seed: int, train: Batch, test: Batch, ranks: int = 1) -> tuple[float, Array]:
    """Accuracy on all test rows after the last task, and the matrix of accuracies by task. `ranks` exchange each step."""
    from engine.update.merge import combine

    first = net(chain, seed, tracked=ranks > 1, batch=10)
    team = [first, *(first.fork() for _ in range(ranks - 1))]
    parts = [test.take(np.flatnonzero(test.y // 2 == t)) for t in range(TASKS)]
    matrix = np.zeros((TASKS, TASKS))
    for t, rows in enumerate(split_tasks(train, seed)):
        for model in team:
            if t:
                model.begin()
        if ranks == 1:
            first.learn(rows)
        else:
            for at in range(0, len(rows), 10 * ranks):
                for r, model in enumerate(team):
                    low = min(len(rows), at + 10 * r)
                    model.learn(rows.slice(low, min(len(rows), low + 10)))
                total = combine([model.update() for model in team])
                for model in team:
                    model.merge(total, ranks)
        matrix[t] = [right(first, part) for part in parts]
    return right(first, test), matrix


def spread_of(run: Callable[[int], Any], seeds: int = SEEDS) -> list[Any]:
    """What `run(seed)` gives for each seed, one BLAS thread each."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(1) as pool:
        return list(pool.map(run, range(seeds)))


@case("learn", "mnist")
def split(setting: Setting) -> Iterator[Row]:
    """Class-incremental, one epoch, 8 000 rows: mean accuracy on all ten classes over five seeds; --long: more policies."""
    from engine.watch.task import summary

    train, test = mnist(setting)
    means: dict[str, float] = {}
    asked = ("naive", "replay", "der")
    for name in CHAINS if setting.long else asked:
        chain = CHAINS[name]
        began = time.perf_counter()
        found = spread_of(lambda seed, chain=chain: incremental(chain, seed, train, test), SEEDS if name in asked else 2)
        scores = [score for score, _ in found]
        means[name] = float(np.mean(scores))
        figures = summary(np.mean([matrix for _, matrix in found], axis=0))
        bars = {"replay": {"value": ">= 0.85"}, "der": {"ratio": ">= 1"}, "naive": {"value": "<= 0.3"}}.get(name, {})
        base = "replay" if name == "der" else "naive"
        yield row(f"mnist.{name}", means[name], "accuracy", base, means.get(base), spread=float(np.std(scores)),
                  seconds=(time.perf_counter() - began) / len(scores), bars=bars, seeds=len(scores),
                  **{key: value for key, value in figures.items() if np.isfinite(value)})
    four = spread_of(lambda seed: incremental(CHAINS["replay"], seed, train, test, 4)[0], 2)
    one = spread_of(lambda seed: incremental(CHAINS["replay"], seed, train, test)[0], 2)
    gap = float(abs(np.mean(four) - np.mean(one)))
    yield row("mnist.replicas4", float(np.mean(four)), "accuracy", "1 replica, replay", float(np.mean(one)), gap=gap, seeds=2,
              bars={"gap": "<= 0.02"})


@case("learn", "mnist.ranks")
def on_ranks(setting: Setting) -> Iterator[Row]:
    """The same on four real ranks of the whole program, as `engine run` starts them, beside one: replay, default interval.

    `shared_out`: mini-batch, memory and rows recalled are divided by four, so that four ranks take the steps of one.
    """
    from engine import job as jobs

    train, test = mnist(setting)
    means: dict[str, list[float]] = {}
    seeds = SEEDS if setting.long else 2
    with tempfile.TemporaryDirectory(prefix="bench ") as name:
        folder = Path(name)
        for seed in range(seeds):
            order = join(split_tasks(train, seed))
            np.savez(folder / "rows.npz", x=order.x, y=order.y)
            for label, ranks, batch, chain in (("one", 1, 10, "replay(1000, 64) | adam(0.001)"),
                                               ("four", 4, 10, "replay(250, 64) | adam(0.001)"),
                                               ("shared_out", 4, 3, "replay(250, 16) | adam(0.001)")):
                kept = folder / f"{label} {seed}"
                options = ["model.kind=mlp", "mlp.hidden=256", "model.scale=false", "data.task=multiclass", "loop.threads=1",
                           f"run.seed={seed}", f"update.batch={batch}", f"update.chain={chain}", f"checkpoint.dir={kept}"]
                found = engine(ranks, str(folder / "rows.npz"), [*options, *(["exchange.every=3"] if batch == 3 else [])])
                means.setdefault(label, []).append(right(jobs.loaded(str(kept)), test))
                means.setdefault(f"{label}_prequential", []).append(found["accuracy"])
    figures = {key: float(np.mean(values)) for key, values in means.items()}
    four, one = figures.pop("four"), figures.pop("one")
    yield row("mnist.ranks4", four, "accuracy", "1 rank", one, gap=one - four, seeds=seeds,
              shared_out_gap=one - figures["shared_out"], spread=float(np.std(means["four"])),
              bars={"gap": "<= 0.02", "shared_out_gap": "<= 0.02"}, **figures)


@case("learn", "mnist.permuted")
def permuted(setting: Setting) -> Iterator[Row]:
    """Five permutations of the pixels, one epoch each: mean accuracy over the five at the end, with EWC and without."""
    train, test = mnist(setting)

    def run(chain: str, seed: int) -> float:
        orders = [np.random.default_rng(100 * seed + t).permutation(784) if t else np.arange(784) for t in range(TASKS)]
        model = net(chain, seed, batch=20)
        rng = np.random.default_rng(seed)
        for t, order in enumerate(orders):
            rows = train.take(rng.permutation(len(train)))
            rows.x = np.ascontiguousarray(rows.x[:, order])  # type: ignore[index]
            if t:
                model.begin()
            model.learn(rows)
        return float(np.mean([right(model, streams.dense(np.ascontiguousarray(test.x[:, o]), test.y))  # type: ignore[index]
                              for o in orders]))

    seeds = 3 if setting.long else 1
    found = {name: spread_of(lambda seed, chain=chain: run(chain, seed), seeds) for name, chain in
             (("naive", "sgd(0.05)"), ("ewc", "ewc(100, 1, 5) | sgd(0.05)"))}
    yield row("mnist.permuted.ewc", float(np.mean(found["ewc"])), "accuracy", "naive", float(np.mean(found["naive"])),
              spread=float(np.std(found["ewc"])), seeds=seeds, bars={"value": ">= 0.8", "ratio": ">= 1"})


@case("learn", "strategies")
def strategies(setting: Setting) -> Iterator[Row]:
    """Electricity by the whole program on one rank: accuracy, seconds and bytes of each strategy."""
    path = str(setting.file("electricity.csv"))
    common = ["model.learner=pa2", "model.loss=hinge", "model.bias=3", "loop.threads=1"]
    retrain = ["update.strategy=retrain", "update.every=1000"]
    runs = {
        "retrain": engine(1, path, [*common, *retrain]),
        "retrain.window": engine(1, path, [*common, *retrain, "update.window=2000"]),
        "incremental": engine(1, path, common),
        "partition": engine(1, path, [*common, "update.strategy=partition", "update.every=1000"]),
        "drift.retrain": engine(1, path, [*common, "update.drift=adwin", "update.on_drift=retrain"]),
    }
    base = runs["retrain"]
    for name, found in runs.items():
        bars = {"ratio": "<= 0.1", "behind": "<= 0.01"} if name == "incremental" else {}
        yield row(f"strategies.{name}", found["learn_s"], "s of learning", "retrain each 1 000 rows on all", base["learn_s"],
                  bars=bars, accuracy=found["accuracy"], behind=base["accuracy"] - found["accuracy"],
                  bytes_sent=found["bytes_sent"], seconds=found["seconds"], whole_ratio=found["seconds"] / base["seconds"])


@case("learn", "strategies.mnist")
def strategies_mnist(setting: Setting) -> Iterator[Row]:
    """MNIST, rows mixed, one epoch: incremental, partial (last layer of a net that knows the first half), distilled."""
    train, test = mnist(setting)
    mixed = train.take(np.random.default_rng(0).permutation(len(train)))
    half = mixed.slice(0, 4000)

    def timed_run(make: Callable[[], Any], rows: Batch, epochs: int = 1) -> tuple[Any, float]:
        model, began = make(), time.perf_counter()
        for _ in range(epochs):
            model.learn(rows)
        return model, time.perf_counter() - began

    def small(policy: Any) -> Any:
        from engine.models.dense import Mlp
        from engine.models.graded import Graded

        return Graded(lambda: Mlp([784, 24, 10], seed=1), policy, loss="softmax", width=784, batch=10, tracked=False)

    def partial() -> Any:
        model = net("adam(0.001) | only('1')", 0)
        knows = net("adam(0.001)", 0)
        knows.learn(half)
        model.net.theta[:] = knows.net.theta
        model.seen[:] = knows.seen
        return model

    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield from _mnist_rows(timed_run, mixed, test, partial, small)


def _mnist_rows(timed_run: Callable[..., Any], mixed: Batch, test: Batch, partial: Callable[[], Any],
                small: Callable[[Any], Any]) -> Iterator[Row]:
    from engine.update.distill import distill
    from engine.update.policy import chain, parse

    teacher, seconds = timed_run(lambda: net("adam(0.001)", 0), mixed, 3)
    rows = {"retrain": (right(teacher, test), seconds)}
    for name, make in (("incremental", lambda: net("adam(0.001)", 0)), ("partial", partial),
                       ("student alone", lambda: small(parse("adam(0.001)"))),
                       ("distil", lambda: small(chain(distill(teacher, 0.7, 2.0), parse("adam(0.001)"))))):
        model, took = timed_run(make, mixed.slice(4000, 8000) if name == "partial" else mixed)
        rows[name] = (right(model, test), took)
    for name, (score, took) in rows.items():
        base, bars = "student alone" if name == "distil" else "retrain", {}  # what is asked is the table
        yield row(f"strategies.mnist.{name.replace(' ', '_')}", score, "accuracy", base, rows[base][0], bars=bars, seconds=took)
