"""The cost of keeping each step safe, measured inside ranks: `mpiexec -n N python -m bench.keep MEBIBYTES SHARE STEPS DIR SET…`.

A stand-in model of so many MiB a rank has SHARE of its rows changed a step; a step otherwise sleeps, between commit and vote as
a job learns. Rank 0 prints one JSON object: medians of commit and vote handling, CPU of its process in the sleep, bytes a
step and rank that are sent, bytes a rank that are held for others, and the stall and write time of a checkpoint beside the job. SET: settings, such as `fault.parity=3+1`.
"""
from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine import loop
from engine.comm.world import World
from engine.config import resolve
from engine.survive.protect import Protection
from engine.types import Array, Block, Schema, Update
from engine.watch.meter import Meter


class Stand:
    """A model of `rows` rows w, a, n and a scratch column, laid out as the linear learner's."""

    def __init__(self, rows: int) -> None:
        self.block = np.random.default_rng(1).random((rows, 4), np.float32)
        self.options = {"width": 0}

    def view(self) -> dict[str, Block]:
        return {"model/linear": Block(self.block[:, :3], (("w", "owner"), ("a", "owner"), ("n", "owner")))}

    state = view

    def changed(self, total: Update) -> dict[str, Array]:
        assert total.keys is not None
        return {"model/linear": total.keys}


class Members:
    def __init__(self, model: Stand) -> None:
        self.models = [model]


class Nowhere:
    """A stream that stands nowhere."""


def main(megabytes: float, share: float, steps: int, folder: str, *settings: str) -> None:
    link = World(timeout_s=60)
    rows = int(megabytes * 2**20 / 12) * link.size
    model = Stand(rows)
    meter = Meter("binary")
    given = [f"checkpoint.dir={folder}/ck", "checkpoint.every=1000000rows", "fault.ranks_per_node=1", "fault.frozen=30", *settings]
    config = resolve(overrides=given, env={})
    schema = Schema(rows, True, "binary", ("0", "1"))
    job = loop.Job(link, Members(model), meter, Nowhere(), 1)  # type: ignore[arg-type]
    shield = Protection(config, link, Path(folder) / "memory")
    shield.begin(job, schema)
    job.keeper = shield
    spent: list[float] = []
    cpu: list[float] = []
    whole_s, beside_s, sent = time.process_time(), 0.0, 0
    rng = np.random.default_rng(3)
    draws = [np.flatnonzero(rng.random(rows) < share).astype(np.uint32) for _ in range(4)]
    values = np.zeros((1, 6), np.float32)
    for step in range(steps):
        keys = draws[step % 4]
        model.block[keys] += 1
        job.merged = Update(keys, values, 1.0)
        job.clock = loop.Clock(step=step + 1, rows=step + 1)
        link.barrier(name="step")
        began, used, before = time.perf_counter(), time.thread_time(), link.sent
        shield.commit(job)
        sent += link.sent - before
        kept, used_kept, beside = time.perf_counter() - began, time.thread_time() - used, time.process_time()
        time.sleep(0.1)  # the next step is learned
        beside_s += time.process_time() - beside
        began, used = time.perf_counter(), time.thread_time()
        pledge = shield.pledge()
        kept, used_kept = kept + time.perf_counter() - began, used_kept + time.thread_time() - used
        table = link.vote(np.array(pledge), name="vote")  # the job's own vote carries these; its time is not counted
        began, used = time.perf_counter(), time.thread_time()
        shield.heard(table)
        spent.append(kept + time.perf_counter() - began)
        cpu.append(used_kept + time.thread_time() - used)
    whole_s = time.process_time() - whole_s
    link.barrier(name="steps done")
    held = {role: sum(path.stat().st_blocks * 512 for path in (Path(folder) / "memory").glob(f"epoch-*/node-*/{role}-*/*"))
            for role in ("own", "copy", "parity")}
    began = time.perf_counter()
    shield.save(job)
    stall = time.perf_counter() - began
    shield.settle(job)
    found: dict[str, Any] = {"commit_s": statistics.median(spent), "mean_s": statistics.fmean(spent), "rows": len(draws[0]),
                             "cpu_s": statistics.median(cpu), "cpu_mean_s": statistics.fmean(cpu),
                             "sent": sent / steps, "held": (held["copy"] + held["parity"]) / link.size, "own": held["own"] / link.size,
                             "all_cpu_s": whole_s / steps, "beside_s": beside_s / steps, "stall_s": stall, "write_s": shield.flush.write_s if shield.flush else 0.0}
    shield.close(done=False)
    link.barrier(name="end")
    if link.rank == 0:
        print(json.dumps(found))
        shutil.rmtree(Path(folder) / "memory", ignore_errors=True)
    from mpi4py import MPI

    MPI.Finalize()  # a launcher takes an end without it for a crash, and kills the others


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
