"""Shards: routing beside hash formulas, resizing, balance of Zipf load, access to rows, live migration."""
from __future__ import annotations

import ctypes
import heapq
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import ROOT
from bench.registry import Missing, Setting, case
from bench.row import Row, row
from bench.timing import alone, paired
from engine.kernels import _native
from engine.shard import balance
from engine.shard.heavy import Heavy
from engine.shard.ledger import Ledger, bits_for
from engine.types import Array

FLAGS = ("-O3", "-std=c++17", "-Wall", "-Wextra", "-ffp-contract=off", "-shared", "-fPIC")
BITS, NODES, KEYS = 20, 10_000, 1 << 16


@cache
def formulas() -> ctypes.CDLL:
    """bench/peers/place.cpp, built with the flags of our kernels."""
    folder = Path(tempfile.mkdtemp(prefix="engine-bench-"))
    try:
        subprocess.run(["g++", *FLAGS, str(ROOT / "bench/peers/place.cpp"), "-o", str(folder / "place.so")],
                       check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise Missing(f"g++ could not build the hash formulas: {error}") from None
    return ctypes.CDLL(str(folder / "place.so"))


def keys(n: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(0, 1 << 63, n, dtype=np.uint64)


def by_formula(name: str, data: Array, nodes: int) -> Callable[[], Any]:
    call = getattr(formulas(), name)
    out = np.empty(len(data), np.int32)
    given = (ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(len(data)), ctypes.c_int32(nodes),
             ctypes.c_void_p(out.ctypes.data))
    return lambda: (call(*given), out)


def routing(name: str, isa: str, bar: float) -> None:
    @case("shard", name)
    def rows(setting: Setting) -> Iterator[Row]:
        """Nanoseconds a key through 2^20 slots to 10 000 ranks, beside jump hash, a ring of 256 points a node, rendezvous."""
        ledger = Ledger(BITS, NODES)
        live = ledger.live()
        ledger.assign(live, np.random.default_rng(3).integers(0, NODES, len(live)))
        data, out = keys(KEYS), np.empty(KEYS, np.int32)
        formulas().ring_make(NODES, 256)

        def ours() -> None:
            _native.route(data, ledger.owner, ledger.forks, BITS, out, isa=isa)

        for label, formula, n in (("jump hash", "jump", KEYS), ("ring-256", "ring_find", KEYS), ("rendezvous", "rendezvous", 256)):
            pair = paired(ours, by_formula(formula, data[:n], NODES), setting.rounds, setting.seconds / 3)
            mine, other = pair.ours.median() / KEYS * 1e9, pair.theirs.median() / n * 1e9
            yield row(name, mine, "ns/key", label, other, mine / other, pair.spread(), {"value": f"<= {bar}"},
                      slots=1 << BITS, nodes=NODES, best_ns=min(pair.ours.seconds("wall")) / KEYS * 1e9)


routing("route.scalar", "base", 2)
routing("route.batch", "", 1)


@case("shard", "resize")
def resize(setting: Setting) -> Iterator[Row]:
    """Share of the keys that move when a rank joins or leaves, over 1/P; jump hash moves 1/P too, a modulus nearly all."""
    data = keys(1 << 20)
    for before, after in ((64, 65), (65, 64), (1000, 1001), (1001, 1000)):
        ledger = Ledger(16, max(before, after))
        ledger.assign(ledger.live(), np.arange(1 << 16) * before >> 16)
        old = ledger.route(data)
        ledger.assign(*balance.resize(ledger.owner[: 1 << 16].copy(), before, after))
        moved = float(np.mean(ledger.route(data) != old))
        formula = [by_formula("jump", data, n)()[1].copy() for n in (before, after)]
        load = np.bincount(ledger.route(data), minlength=after)[:after]
        yield row("resize", moved * min(before, after), "moved x P", "jump hash",
                  float(np.mean(formula[0] != formula[1])) * min(before, after), bars={"value": "<= 1.05"},
                  ranks=f"{before} to {after}", modulo=float(np.mean(data % before != data % after)) * min(before, after),
                  imbalance=float(load.max() / load.mean()))


def zipf(many: int, ranks: int, bits: int, accesses: int = 64_000_000) -> tuple[balance.Load, Callable[[balance.Plan], float]]:
    """Zipf 1.0: slot counters of a window, hot keys by a sketch of a sixteenth of it; and the true imbalance after a plan."""
    draw = np.random.default_rng(0)
    weight = 1 / np.arange(1, many + 1)
    weight /= weight.sum()
    key = draw.permutation(many).astype(np.uint64)
    ledger = Ledger(bits, ranks)
    slot = ledger.slots(key)
    load = np.bincount(slot, draw.poisson(weight * accesses), 1 << bits)
    sketch = Heavy(1 << (16 * ranks - 1).bit_length())
    sketch.count(key[np.minimum(np.searchsorted(np.cumsum(weight), draw.random(accesses // 16)), many - 1)])
    hot, share, _ = sketch.top(0.04 / ranks)
    owner = ledger.owner[: 1 << bits].astype(np.int64)
    made = balance.Load(load, owner, np.bincount(slot, minlength=1 << bits) * 256.0, hot, ledger.slots(hot).astype(np.int64),
                        share * load.sum())

    def true(plan: balance.Plan) -> float:
        copied = np.isin(key, plan.replicate)
        whole = np.bincount(slot, np.where(copied, 0, weight), 1 << bits)
        carried = np.bincount(owner, whole, ranks) + weight[copied].sum() / ranks
        for move in plan.moves:
            carried[move.target] += whole[move.slot] / (1 << move.bits)
            carried[move.source] -= whole[move.slot] / (1 << move.bits)
        return float(carried.max() * ranks)
    return made, true


def packed(load: balance.Load, ranks: int) -> float:
    """Imbalance of the best packing of whole slots, heaviest first, without copies of hot keys."""
    total = [0.0] * ranks
    for one in np.sort(load.slot)[::-1].tolist():
        heapq.heapreplace(total, total[0] + one)
    return max(total) * ranks / sum(total)


@case("shard", "balance.zipf")
def balance_zipf(setting: Setting) -> Iterator[Row]:
    """Fullest rank over the mean, Zipf 1.0 over 10 M keys, 1024 simulated ranks, judged by the true shares, not the counters."""
    load, true = zipf(10_000_000, 1024, bits_for(1024))
    cluster = balance.Cluster.even(1024, per_node=8, per_rack=16)
    series = alone(lambda: balance.plan(load, cluster), setting.rounds, 5)
    made = series.result
    yield row("balance.zipf", true(made), "max / mean", "packing, no copies", packed(load, 1024), bars={
        "value": "<= 1.05", "moved_share": "<= 0.005", "plan_ms": "<= 50"}, moved_share=made.moved_share,
        plan_ms=series.median() * 1e3, hashed=made.before, imbalance=true(made), replicated=len(made.replicate),
        moves=len(made.moves), slots=len(load.slot))


import bench.access  # noqa: E402, F401  (its cases are of this bench)
import bench.wide  # noqa: E402, F401
