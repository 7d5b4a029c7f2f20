"""What runs on the ranks of `freshness` and `weak`: printed by rank 0 as JSON. `python -m bench.fresh ROUNDS | constants`"""
from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from bench.wire import timed
from engine import job as jobs
from engine.cluster.clock import Rules
from engine.comm import sync
from engine.comm.world import World, finish
from engine.config import resolve
from engine.models.linear import Linear
from engine.modes.reducer import measure_wires
from engine.modes.stale import MADE, Stale
from engine.types import Batch, Schema
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
    """Seconds a row, a merged key, a message and a byte; and a whole step of two ranks, to hold the model to."""
    width, rows = 1 << 22, 4096
    model, batch = Linear(width, learner="ftrl"), made(rows * 8, width, link.rank)
    model.learn(batch)
    model.merge(model.update(), 1)
    learn, merge, step = [], [], []
    for k in range(8):
        part = batch.slice(k * rows, (k + 1) * rows)
        began = time.perf_counter()
        model.learn(part)
        learn.append(time.perf_counter() - began)
        began = time.perf_counter()
        update = model.update()
        count = len(update.values)
        held = sync.unpack(sync.pack(update), update.weight)
        model.merge(combine([update, held]), 2)
        merge.append((time.perf_counter() - began) / (2 * count))

        def whole(part: Batch = part) -> None:
            model.learn(part)
            mine = model.update()
            table = sync.vote(link, [len(part), len(mine.values)], name="step")
            total = sync.total(link, mine, combine, table[:, 1].astype(int).tolist(), table[:, 0].tolist())
            model.merge(total, link.size)

        step.append(timed(link, whole))
    wires = measure_wires(link)
    mine = np.array([np.median(learn) / rows, np.median(merge), np.median(step)])
    row_s, merge_s, step_s = link.allreduce(mine, op="max", name="constants").tolist()
    way = wires["far" if len(set(link.nodes)) > 1 else "near"]
    return {"row_s": row_s, "merge_s": merge_s, "step_s": step_s, "rows": rows, "touched": float(count),
            "latency_s": way.latency_s, "byte_s": way.byte_s}


def main() -> None:
    link = World(timeout_s=120)
    found = constants(link) if sys.argv[1] == "constants" else freshness(link, int(sys.argv[1]))
    if link.rank == 0:
        print(json.dumps(found), flush=True)
    link.barrier(name="end")
    link.close()
    finish()


if __name__ == "__main__":
    main()
