"""What runs on the ranks of `freshness` and `weak`: printed by rank 0 as JSON. `python -m bench.fresh ROUNDS | constants`"""
from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.wire import timed
from engine import guard
from engine import job as jobs
from engine.cluster.clock import Rules
from engine.comm import sync
from engine.comm.world import World, finish
from engine.config import resolve
from engine.models.linear import Linear
from engine.modes.reducer import measure_wires
from engine.modes.stale import MADE, Stale
from engine.types import Array, Batch, Schema, Update
from engine.update.merge import combine

WIDTH, NNZ = 1 << 16, 20  # 1 MiB of rows


def made(rows: int, width: int, seed: int, nnz: int = NNZ) -> Batch:
    rng = np.random.default_rng(seed)
    keys = np.sort(rng.integers(0, width, (rows, nnz)), axis=1).astype(np.uint32)
    y = (rng.random(rows) < 0.5).astype(np.float32)
    return Batch(y, np.arange(rows), np.concatenate([[np.nan], y[:-1]]).astype(np.float32), indptr=np.arange(rows + 1) * nnz,
                 keys=keys.ravel(), values=np.ones(rows * nnz, np.float32))


class Rows:
    """One row a take, `rounds` times: what is measured is the way of a single example."""

    def __init__(self, batch: Batch, rounds: int) -> None:
        self.batch, self.rounds, self.at = batch, rounds, 0

    @property
    def left(self) -> bool:
        return self.at < self.rounds

    def take(self, k: int) -> Batch | None:
        if not self.left:
            return None
        self.at += 1
        low = self.at * k % (len(self.batch) - k)
        return self.batch.slice(low, low + k)


class Watched(Stale):
    """Notes, for each round of the other rank, the time from its learning to this rank's refreshed view."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.open: list[float] = []
        self.ages: list[float] = []
        refresh = self.replica.refresh

        def noted(**options: Any) -> None:
            refresh(**options)
            now = time.monotonic()
            self.ages += [now - made for made in self.open]
            self.open = []

        self.replica.refresh = noted  # type: ignore[method-assign]

    def _enter(self, rank: int, letter: Any) -> None:
        if rank != self.board.rank:
            self.open.append(float(letter.ticket[MADE]))
        super()._enter(rank, letter)


def freshness(link: World, rounds: int) -> dict[str, Any]:
    config = resolve(env={}, overrides=["exchange.every=8", "loop.threads=1", "exchange.mode=ssp:1"])
    job = jobs.assemble(config, link, Schema(WIDTH, True, "binary", ("0", "1")), Rows(made(4096, WIDTH, link.rank), rounds))
    job.rules = Rules(report_s=1e9)
    job.clock = type(job.clock)(report_rows=1 << 62)
    run = Watched(job, 1)
    for _ in run.run():
        pass
    every = link.gather(run.ages[20:], name="ages") or []
    ages = np.concatenate([np.asarray(a) for a in every]) if every else np.zeros(1)
    counts = job.counts.values
    return {"p50_ms": 1e3 * float(np.quantile(ages, 0.5)), "p99_ms": 1e3 * float(np.quantile(ages, 0.99)), "rounds": len(ages),
            "model_bytes": WIDTH * 16, "staleness": counts["stale_sum"] / counts["stale_reads"]}


def constants(link: World) -> dict[str, Any]:
    """Seconds a row learned and a row exchanged, piece by piece as `sync.total` takes them, as many ranks at a time as there are
    cores; of a message and a byte; and a whole step of all ranks, to hold the model to. Every piece sees new rows."""
    width, rows, turns = 1 << 22, 4096, 12
    cores = len(os.sched_getaffinity(0))
    model, batch = Linear(width, learner="ftrl"), made(rows * (2 * turns + 3), width, link.rank)
    parts = iter([batch.slice(k * rows, (k + 1) * rows) for k in range(2 * turns + 2)])
    spent: dict[str, list[float]] = {name: [] for name in ("learn", "take", "fold", "put")}

    def piece(name: str, act: Callable[[], Any], per: float) -> Any:
        for turn in range(-(-link.size // cores)):
            if link.size > cores or name == "learn":  # else one after the other, as in a step: who has just waited runs longer
                link.barrier(name=name)
            if link.rank // cores == turn:
                began = time.perf_counter()
                found = act()
                spent[name].append((time.perf_counter() - began) / per)
        return found

    def take() -> tuple[Update, Array]:
        update = model.update()
        packed = sync.pack(update)
        return update, np.concatenate([packed[: len(packed) // 2].ravel(), packed[len(packed) // 2 :].ravel()])

    def whole(part: Batch) -> None:
        model.learn(part)
        if link.size == 1:
            return
        mine = model.update()
        table = sync.vote(link, [len(part), len(mine.values)], name="step")
        total = sync.total(link, mine, combine, table[:, 1].astype(int).tolist(), table[:, 0].tolist())
        model.merge(total, link.size)

    step = []
    for _ in range(turns + 1):
        part = next(parts)
        piece("learn", lambda part=part: model.learn(part), rows)
        update, out = piece("take", take, 1)
        count = len(update.values)
        spent["take"][-1] /= count
        words = 1 + update.values.shape[1]
        theirs = link.relay(out, target=(link.rank + 1) % link.size, source=(link.rank - 1) % link.size, name="rows")
        halves = [out[: count // 2 * words], theirs[: len(theirs) // words // 2 * words]]
        both = [h.reshape(-1, words) for h in halves]
        packed = piece("fold", lambda both=both: sync.pack(combine([sync.unpack(h, 0.0) for h in both])), sum(map(len, both)))
        other = sync.unpack(theirs.reshape(-1, words), float(rows))
        sums = sync.pack(combine([update, other]))
        whole_sums = [sums[: len(packed)], sums[len(packed) :]]
        piece("put", lambda found=whole_sums: model.merge(sync.unpack(np.concatenate(found), 2.0 * rows), 2), len(sums))
        part = next(parts)
        step.append(timed(link, lambda part=part: whole(part)))
        if link.size == 1:
            model.merge(model.update(), 1)
    wires = measure_wires(link)
    mine = np.array([np.quantile(times[1:], 0.25) for times in (*spent.values(), step)])  # the quieter turns, of all alike
    found = dict(zip((*spent, "step"), link.allreduce(mine, op="max", name="constants").tolist(), strict=True))
    way = wires["far" if len(set(link.nodes)) > 1 else "near"]
    return {"row_s": found["learn"], **{f"{name}_s": found[name] for name in ("take", "fold", "put", "step")}, "rows": rows,
            "touched": float(count), "crowd": max(1.0, link.size / cores), "latency_s": way.latency_s, "byte_s": way.byte_s}


def main() -> None:
    guard.keep_memory()  # as a job does
    link = World(timeout_s=120)
    found = constants(link) if sys.argv[1] == "constants" else freshness(link, int(sys.argv[1]))
    if link.rank == 0:
        print(json.dumps(found), flush=True)
    link.barrier(name="end")
    link.close()
    finish()


if __name__ == "__main__":
    main()
