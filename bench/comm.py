"""How ranks agree: compressed sums over slow links, the planner, rails, merge rules, staleness, stragglers, scaling.

Rows over emulated links need root and namespaces; rows with more ranks than cores run as logical replicas in one process
and say so. Times are the slowest rank's, from a common start.
"""
from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bench import net, replicas, streams
from bench.registry import Setting, case
from bench.row import Row, row
from bench.timing import spread
from engine.cluster import route as plan
from engine.types import Batch

GRADIENT = 1 << 24  # float32: 64 MiB
FTRL = {"loss": "logistic", "learner": "ftrl", "rate": 0.15, "beta": 0.1}


def against(times: dict[str, list[float]], name: str, other: str = "dense") -> tuple[float, float, float, float]:
    """Medians of both, the median of the paired ratios baseline / ours, and its spread."""
    ratios = [b / a for a, b in zip(times[name], times[other], strict=True)]
    return float(np.median(times[name])), float(np.median(times[other])), float(np.median(ratios)), spread(ratios)


def lower(ratios: list[float]) -> float:
    """Lower end of the 95 % interval of their median (sign test): above a bar means beyond the noise."""
    n, tail, at = len(ratios), 0.0, 0
    while tail + math.comb(n, at) / 2**n <= 0.025:
        tail, at = tail + math.comb(n, at) / 2**n, at + 1
    return sorted(ratios)[max(0, at - 1)]


def sums(setting: Setting, label: str, name: str, bar: float) -> Iterator[Row]:
    for rate in ("1gbit", "10gbit"):
        rounds = 15 if setting.long else 5
        with net.hosts(2, rate):
            times = net.spread(2, "bench.wire", "allreduce", str(GRADIENT), str(rounds), name)["times"]
        mine, theirs, ratio, wide = against(times, name)
        yield row(f"allreduce.{label}", mine, "s", f"Allreduce of the same MPI, {rate}", theirs, ratio, wide,
                  {"ratio": f">= {bar:g}"}, n=GRADIENT, ranks=2, rounds=rounds)


@case("comm", "allreduce.sparse.1%")
def sparse_time(setting: Setting) -> Iterator[Row]:
    """Top 1 % with error feedback, to owners and back, end to end; ratio = dense time / ours."""
    yield from sums(setting, "sparse.1%", "topk:0.01", 3)


@case("comm", "allreduce.int8")
def int8_time(setting: Setting) -> Iterator[Row]:
    """int8 with error feedback on both sides, chunk by chunk, end to end; ratio = dense time / ours."""
    yield from sums(setting, "int8", "int8", 2)


@case("comm", "delta.adam")
def delta_adam(setting: Setting) -> Iterator[Row]:
    """A step of Adam on 2^24 float32 from one host to another at .4 GB/s, made, sent and applied piece by piece; ratio = time
    of the baseline / ours, through the same pipeline."""
    with net.hosts(2, "3200mbit"):
        found = net.spread(2, "bench.stepped", str(GRADIENT), "15" if setting.long else "7")
    times, size = found["times"], found["bytes"]
    for name, label, bar in (("raw", "raw", 2), ("xor", "XOR + blosc2-zstd", 1.25)):
        mine, theirs, ratio, wide = against(times, "delta", name)
        yield row("delta.adam", mine, "s", f"{label}, 0.4 GB/s", theirs, ratio, wide, {"ratio": f">= {bar:g}"},
                  shrink=size["raw"] / size["delta"], baseline_shrink=size["raw"] / size[name], n=GRADIENT, piece=1 << 18)


@case("comm", "sparse.volume")
def sparse_volume(setting: Setting) -> Iterator[Row]:
    """Words received a rank, over 6 k (P - 1) / P, and the fullest rank over the mean; 8 logical ranks, skewed indices."""
    from engine.comm.sparse import Sparse

    n, density, ranks = 1 << 20, 0.01, 8
    slope = np.linspace(3, 0.1, n, dtype=np.float32)

    def work(link: Any) -> list[float]:
        made, words = Sparse(link, n, density), []
        for step in range(4):
            before = link.received
            made(np.random.default_rng(link.rank * 9 + step).standard_t(2, n).astype(np.float32) * slope)
            words.append((link.received - before) / 4)
        return words

    loads = np.array(replicas.everywhere(ranks, work))
    bound = 6 * round(n * density) * (ranks - 1) / ranks
    yield row("sparse.volume", float(loads.max() / bound), "of 6k(P-1)/P words", bars={"value": "<= 1", "imbalance": "<= 1.2"},
              imbalance=float((loads.max(axis=0) / loads.mean(axis=0)).max()), ranks=ranks, link="logical replicas")


@case("comm", "planner")
def planner(setting: Setting) -> Iterator[Row]:
    """The automatic choice beside dense and beside the best fixed choice, each timed in turns."""
    rounds, n = 31, 1 << 22
    for rate in ("loopback", "1gbit", "10gbit"):
        words = ("bench.wire", "planner", str(n), str(rounds))
        if rate == "loopback":
            found = net.local(2, *words)
        else:
            with net.hosts(2, rate):
                found = net.spread(2, *words)
        times = found["times"]
        mine, theirs, _, _ = against(times, "auto", "dense.beside")
        ratios = [a / b for a, b in zip(times["auto"], times["dense.beside"], strict=True)]
        fixed = {name: float(np.median(t)) for name, t in times.items() if name not in ("auto", "dense.beside")}
        best = min(fixed, key=lambda name: fixed[name])
        regret = fixed[found["picked"]] / fixed[best] - 1
        yield row("planner", mine, "s", f"dense, {rate}", theirs, float(np.median(ratios)), spread(ratios),
                  {"ratio_low": "<= 1.02", "regret": "<= 0.05"}, ratio_low=lower(ratios), regret=regret, picked=found["picked"],
                  best=best, steps_tried=found["tries"], rounds=rounds, n=n)


@case("comm", "rails")
def rails(setting: Setting) -> Iterator[Row]:
    """64 MiB over the socket Link, one rail and two of 1 Gb/s each; ratio = one rail's time / two rails'."""
    with net.hosts(2, "1gbit", rails=2):
        found = net.spread(2, "bench.wire", "rails", str(1 << 26), "7" if setting.long else "4")
    mine, theirs, ratio, wide = against(found["times"], "two", "one")
    yield row("rails", mine, "s", "one rail", theirs, ratio, wide, {"ratio": ">= 1.9"},
              gbit_s=8 * (1 << 26) / mine / 1e9, share=max(found["rails"].values()) / sum(found["rails"].values()))


@case("comm", "merge")
def merge(setting: Setting) -> Iterator[Row]:
    """a9a, FTRL, one pass, one setting for all cells; logical replicas over the in-process Link, real updates and merges."""
    rows = streams.libsvm(setting.file("a9a.libsvm"))
    batch, width = rows.batch(), 124
    alone = replicas.progressive(batch, width, 1, len(batch), **FTRL)
    bars = {(4, 8): alone + 0.001, (16, 8): alone + 0.003, (64, 8): 0.347, (64, 32): 0.375}
    for (ranks, interval), bar in bars.items():
        found = {rule: replicas.progressive(batch, width, ranks, interval, merge=rule, **FTRL)
                 for rule in ("owner", "add", "average", "touch", "conflict")}
        yield row("merge", found["owner"], "log loss", "1 rank", alone, bars={"value": f"<= {bar:.4f}"},
                  cell=f"{ranks}x{interval}", excess=found["owner"] - alone, add=found["add"], average=found["average"],
                  touch=found["touch"], conflict=found["conflict"], link="logical replicas", **FTRL)


@case("comm", "staleness")
def staleness(setting: Setting) -> Iterator[Row]:
    """electricity, PA-I, labels applied in blocks of D; the step follows the measured staleness, the fixed step beside."""
    from engine.models.linear import Linear
    from engine.update.ease import Ease

    x, y = streams.electricity(setting.file("electricity.csv"))
    batch = streams.dense(x, y)

    def accuracy(late: int, eased: bool) -> float:
        model, ease, scores = Linear(8, scale=True, tracked=False, loss="hinge", learner="pa1"), Ease(), np.empty(len(y), np.float32)
        for at in range(0, len(y), late):
            part = batch.slice(at, min(len(y), at + late))
            scores[at : at + late] = model.predict(part)
            ease.seen((len(part) - 1) / 2)
            if eased:
                model.pace(ease.factor)
            model.learn(part)
        return float(((scores > 0) == (y > 0)).mean())

    for late, bar in ((1, 0.92), (2, 0.90), (4, 0.88), (10, 0.86), (48, 0.80), (100, 0.765)):
        yield row("staleness", accuracy(late, True), "accuracy", "fixed step", accuracy(late, False),
                  bars={"value": f">= {bar}"}, late=late)


def job_rows(rows: int = 20_000, width: int = 200, nnz: int = 8) -> Batch:
    """Sparse rows of a hidden logistic model."""
    rng = np.random.default_rng(4)
    truth, keys = rng.normal(size=width) * 1.5, rng.integers(0, width, (rows, nnz)).astype(np.uint32)
    keys.sort(axis=1)
    y = (rng.random(rows) < 1 / (1 + np.exp(-truth[keys].sum(1)))).astype(np.float32)
    previous = np.concatenate([[np.nan], y[:-1]]).astype(np.float32)
    return Batch(y, np.arange(rows), previous, indptr=np.arange(rows + 1) * nnz, keys=keys.ravel(),
                 values=np.ones(rows * nnz, np.float32))


def paced(ranks: int, mode: str, work_s: Any, rounds: list[int], batch: Batch, *settings: str) -> tuple[float, float]:
    """(rows learned a second until the quickest ranks have ended, log loss) of a job whose rounds take `work_s(rank, round)`."""
    from engine import job as jobs
    from engine import loop, modes
    from engine.config import resolve
    from engine.types import Schema

    config = resolve(env={}, overrides=["exchange.every=32", "loop.threads=1", f"exchange.mode={mode}", *settings])

    def work(link: Any) -> tuple[float, int, Any]:
        job = jobs.assemble(config, link, Schema(200, True, "binary", ("0", "1")),
                            replicas.Paced(batch, link.rank, link.size, work_s, rounds))
        job.rules = type(job.rules)(report_s=1e9)
        job.clock = type(job.clock)(report_rows=1 << 62)
        began = time.perf_counter()
        for _ in modes.run(job, config):
            pass
        meter = loop.merged_meter(job)
        return time.perf_counter() - began, job.clock.rows, None if meter is None else meter.summary()["logloss"]

    found = replicas.everywhere(ranks, work)
    return found[0][1] / max(seconds for seconds, *_ in found), found[0][2]


def bursts(count: int, ranks: int, lengths: tuple[int, ...]) -> set[tuple[int, int]]:
    """(rank, round) that take 4 units: bursts of so many rounds, each of some rank, a fifth of the time of lock-step."""
    rng, slow, at = np.random.default_rng(8), set[tuple[int, int]](), 10
    while at < count:
        rank, k = int(rng.integers(ranks)), int(rng.choice(lengths))
        slow |= {(rank, at + i) for i in range(k)}
        at += int(rng.integers(14 * k, 20 * k + 1))  # 4 k units of the 20 k that 17 k rounds take
    return slow


def ideal(count: int, ranks: int, slow: set[tuple[int, int]], bound: int) -> float:
    """The rate that a bound on staleness leaves where messages and merges take no time: a rank begins round c once all have
    ended round c - bound - 1."""
    ended = np.zeros((ranks, count + 1))
    for c in range(count):
        gate = ended[:, c - bound].max() if c >= bound else 0.0
        ended[:, c + 1] = np.maximum(ended[:, c], gate) + [4 if (r, c) in slow else 1 for r in range(ranks)]
    return float(count / ended[:, count].max())


@case("comm", "straggler")
def straggler(setting: Setting) -> Iterator[Row]:
    """8 logical ranks, rounds of 20 ms (slept, so that cores are free); one is 4 x slower. Rates over the mode's own calm rate.

    Bursts: a fifth of the time some one rank is in a burst of 3 clocks, or of 1 to 3. `ideal`: what the bound leaves where nothing
    else costs. For good: rank 3 always; rates are over the calm rate by the sum of all ranks' speeds, 7.25 of 8. Modes are
    measured next to their calm run.
    """
    ranks, unit, count = 8, 0.02, 600 if setting.long else 240
    batch, even = job_rows(), [count] * ranks

    def calm(rank: int, number: int) -> float:
        return unit

    def always(rank: int, number: int) -> float:
        return unit * (4 if rank == 3 else 1)

    own: dict[str, tuple[float, float]] = {}
    for mode, bound in (("bsp", 0), ("ssp:4", 4), ("asp", count)):
        own[mode] = paced(ranks, mode, calm, even, batch)
        for lengths, said in (((3,), "bursts of 3"), ((1, 2, 3), "bursts of 1 to 3")):
            slow = bursts(count, ranks, lengths)
            rate, loss = paced(ranks, mode, lambda rank, number, slow=slow: unit * (4 if (rank, number) in slow else 1), even, batch)
            yield row("straggler", rate, "rows/s", f"calm, {mode}", own[mode][0], when=said, mode=mode, logloss=loss,
                      bars={"ratio": ">= 0.9"} if mode == "ssp:4" else None, ideal=ideal(count, ranks, slow, bound),
                      calm_logloss=own[mode][1], link="logical replicas")
    for mode in ("bsp", "ssp:4", "ssp:4, balanced", "asp"):
        rounds = [count // (4 if r == 3 else 1) for r in range(ranks)] if mode == "asp" else even
        if mode.endswith("balanced"):
            rate, loss = shared(ranks, "ssp:4", unit, count, batch)
        else:
            rate, loss = paced(ranks, mode, always, rounds, batch)
        wanted, calm_loss = own[mode.partition(",")[0]]
        yield row("straggler", rate, "rows/s", f"calm x 7.25 / 8, {mode.partition(',')[0]}", wanted * (ranks - 0.75) / ranks,
                  bars={"asp": {"ratio": ">= 0.97"}, "ssp:4, balanced": {"ratio": ">= 0.9"}}.get(mode), when="for good", mode=mode,
                  logloss=loss, calm_logloss=calm_loss, link="logical replicas")


def shared(ranks: int, mode: str, unit: float, count: int, batch: Batch) -> tuple[float, float]:
    """As `paced`, for good, where a round takes time by its rows: 32 rows a unit, four units on rank 3."""
    class Stream(replicas.Paced):
        def take(self, k: int) -> Batch | None:
            if not self.left:
                return None
            time.sleep(unit * k / 32 * (4 if self.rank == 3 else 1))
            return super().take(k)

    kept, replicas.Paced = replicas.Paced, Stream  # type: ignore[misc]
    try:
        return paced(ranks, mode, lambda rank, number: 0.0, [count] * ranks, batch, "exchange.balance=true")
    finally:
        replicas.Paced = kept  # type: ignore[misc]


@case("comm", "freshness")
def freshness(setting: Setting) -> Iterator[Row]:
    """SSP 1, 1 MB of model, 2 ranks of one node: from an example learned to its rows in every rank's view."""
    found = net.local(2, "bench.fresh", "2000" if setting.long else "600")
    yield row("freshness", found["p50_ms"], "ms, p50", bars={"value": "<= 1", "p99_ms": "<= 10"}, p99_ms=found["p99_ms"],
              rounds=found["rounds"], model_bytes=found["model_bytes"], ranks=2, staleness=found["staleness"])


@case("comm", "weak")
def weak(setting: Setting) -> Iterator[Row]:
    """Weak scaling of 2^22 sparse parameters from constants measured here, 1 to 10^4 ranks; then the model against runs.

    Simulated: the 64 ranks of a node share one model (exchange.split=keys), nodes exchange twice a second over
    100 Gb/s with 3 us a message; learning, extraction and merging per row and key are this machine's.
    """
    found = net.local(2, "bench.fresh", "constants")
    fabric = plan.Wire(3e-6, 1 / 12.5e9)
    near = plan.Wire(found["latency_s"], found["byte_s"])
    wide = plan.Fit(near, fabric, per_node=64)
    interval = 0.5
    scale = replace(pieces(found), rows=round(interval / found["row_s"]), shared=True,
                    touched=2.0**22 * (1 - np.exp(-interval / found["row_s"] * 20 / 2.0**22)))
    for ranks, efficiency in plan.weak(wide, scale, (1, 2, 64, 128, 10**3, 10**4)):
        yield row("weak", efficiency, "efficiency", "1 rank", 1.0, bars={"value": ">= 0.85"}, ranks=ranks, simulated=True,
                  interval_s=interval, rows=scale.rows, row_us=1e6 * scale.row_s, take_ns=1e9 * scale.take_s,
                  fold_ns=1e9 * scale.fold_s, put_ns=1e9 * scale.put_s, touched=scale.touched,
                  assumed="uniform keys; 64 ranks a node share a model; 100 Gb/s, 3 us a message between nodes")
    yield from _model(net.local(1, "bench.fresh", "constants"), 1, "this host")
    yield from _model(found, 2, "this host")
    for count in (2, 4):
        with net.hosts(count, "1gbit"):
            far = net.spread(count, "bench.fresh", "constants")
        yield from _model(far, count, f"{count} hosts of 1 Gb/s")


def pieces(found: dict[str, Any]) -> plan.Scale:
    """The model's constants as `bench.fresh` found them."""
    return plan.Scale(found["rows"], found["row_s"], found["touched"], 2.0**22, take_s=found["take_s"], fold_s=found["fold_s"],
                      put_s=found["put_s"], crowd=found["crowd"])


def _model(found: dict[str, Any], ranks: int, where: str) -> Iterator[Row]:
    """A step as predicted from its constants beside the step as measured."""
    wire = plan.Wire(found["latency_s"], found["byte_s"])
    learn, exchange = plan.step_s(plan.Fit(wire, wire, per_node=1), pieces(found), ranks)
    yield row("weak.model", learn + exchange, "s a step", f"measured, {ranks} ranks, {where}", found["step_s"],
              bars={"error": "<= 0.15"}, error=abs((learn + exchange) / found["step_s"] - 1), learn_s=learn, exchange_s=exchange,
              crowd=found["crowd"])
