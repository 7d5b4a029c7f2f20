"""Access to rows of a sharded table: in shared memory here, over emulated hosts, under writers; part of `bench shard`."""
from __future__ import annotations

import ctypes
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import ROOT
from bench.net import hosts, ranks
from bench.registry import Missing, Setting, case, versus
from bench.row import Row, row
from engine.comm import probe
from engine.comm.local import Alone
from engine.kernels import _native
from engine.table.shards import open_table

FLAGS = ("-O3", "-std=c++17", "-Wall", "-Wextra", "-ffp-contract=off", "-shared", "-fPIC")
WIDTH = 60


def vendor() -> str:
    return probe.vendor(probe.launcher())


@case("shard", "gather.shared")
def gather_shared(setting: Setting) -> Iterator[Row]:
    """Nanoseconds a row of 256 bytes, hot, read through the table from Python; beside NumPy's own `take` of the same rows."""
    table = open_table(Alone(), width=WIDTH, rows=1 << 13).table
    keys = np.random.default_rng(0).permutation(1 << 12).astype(np.uint64)
    table.inc(keys, np.ones((len(keys), WIDTH), np.float32))
    out, plain = np.empty((len(keys), WIDTH), np.float32), np.ones((len(keys), 64), np.float32)
    copy, at = np.empty_like(plain), keys.astype(np.int64)
    made = versus(setting, "gather.shared", "np.take", lambda: table.get(keys, out), lambda: np.take(plain, at, 0, copy),
                  work=len(keys) * 1e-9, unit="rows/ns")
    made["value"], made["baseline_value"], made["unit"] = 1 / made["value"], 1 / made["baseline_value"], "ns/row"
    yield row("gather.shared", made["value"], "ns/row", "np.take", made["baseline_value"], spread=made["spread"],
              bars={"value": "<= 100"})


@case("shard", "add.shared")
def add_shared(setting: Setting) -> Iterator[Row]:
    """Gigabytes of items a second that the owner adds to rows of 4 KiB, beside `rows += items` without any table."""
    table = open_table(Alone(), width=1020, rows=1 << 10).table
    keys, items = np.arange(1 << 9, dtype=np.uint64), np.ones((1 << 9, 1020), np.float32)
    table.inc(keys, items)
    plain = np.zeros_like(items)
    yield versus(setting, "add.shared", "rows += items", lambda: table.inc(keys, items), lambda: np.add(plain, items, out=plain),
                 work=items.nbytes / 1e9, unit="GB/s", bars={"value": ">= 8"})


@case("shard", "commit")
def commit(setting: Setting) -> Iterator[Row]:
    """Optimistic transactions a second (read, change, commit one row) and a lock taken and given back, in native code."""
    folder = Path(tempfile.mkdtemp(prefix="engine-bench-"))
    sources = [str(ROOT / "bench/peers/lock.cpp"), *map(str, sorted((ROOT / "csrc/table").glob("*.cpp")))]
    try:
        subprocess.run(["g++", *FLAGS, f"-I{ROOT / 'csrc'}", *sources, "-o", str(folder / "lock.so")], check=True,
                       capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise Missing(f"g++ could not build the lock bench: {error}") from None
    native = ctypes.CDLL(str(folder / "lock.so"))
    native.lock_ns.restype = native.commit_ns.restype = ctypes.c_double
    locks = sorted(native.lock_ns(ctypes.c_ulong(200_000)) for _ in range(15))
    commits = sorted(native.commit_ns(ctypes.c_ulong(100_000), ctypes.c_ulong(512), ctypes.c_ulong(WIDTH)) for _ in range(15))
    yield row("commit", 1e3 / commits[7], "M/s", "none", bars={"value": ">= 1"}, best=1e3 / commits[0])
    yield row("lock", locks[7] / 1e3, "us", "none", bars={"value": "<= 0.2"}, best=locks[0] / 1e3)


def _store(path: str, seconds: float, queue: Any) -> None:
    """Rewrites 64 hot rows as fast as it can."""
    slab, keys = _native.Slab(np.memmap(path, np.uint8, "r+")), np.arange(64, dtype=np.uint64)
    rows, versions, n = np.empty((64, WIDTH), np.float32), np.full(64, 2, np.uint32), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        rows[:] = np.float32(n % 1000003)
        versions += np.uint32(2)
        slab.stage(2, keys, versions, versions, rows)
        n += 1
    queue.put(n * 64)


@case("shard", "torn")
def torn(setting: Setting) -> Iterator[Row]:
    """Torn rows among those read under a writer of another process; 10^8 with --long, else 2 10^7. Beside: raw MPI_Get."""
    wanted = 10**8 if setting.long else 2 * 10**7
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/slab"
        memory = np.memmap(path, np.uint8, "w+", shape=_native.slab_bytes(256, WIDTH, 8))
        _native.slab_make(memory, 256, WIDTH, 8, 1)
        slab, init = _native.Slab(memory), np.zeros(WIDTH, np.float32)
        keys, twos = np.arange(64, dtype=np.uint64), np.full(64, 2, np.uint32)
        slab.stage(0, keys, twos, twos, np.zeros((64, WIDTH), np.float32))
        spawn = multiprocessing.get_context("spawn")
        queue = spawn.Queue()
        child = spawn.Process(target=_store, args=(path, 90.0, queue))
        child.start()
        many = np.tile(keys, 64)
        out, versions = np.empty((len(many), WIDTH), np.float32), np.empty(len(many), np.uint32)
        read = bad = 0
        began = time.monotonic()
        while read < wanted and time.monotonic() - began < 80:
            count, _ = slab.gather(many, init, out, versions)
            bad += int((out[:count] != out[:count, :1]).any(axis=1).sum())
            read += count
        child.terminate()
        child.join(10)
    try:
        raw = ranks([], [2], "bench.owners", "tear", timeout_s=60)
    except (Missing, RuntimeError) as why:
        raw = {"note": str(why)}
    yield row("torn", float(bad), "rows", "raw MPI_Get", raw.get("torn"), bars={"value": "<= 0"}, read=read,
              raw_read=raw.get("read"), note=raw.get("note"))


@case("shard", "gather.tcp")
def gather_tcp(setting: Setting) -> Iterator[Row]:
    """Microseconds a row of 256 bytes, 1024 a request, 10 Gb/s between hosts; beside an MPI_Get each with one flush."""
    with hosts(2, "10gbit") as names:
        found = ranks(names, [1, 1], "bench.owners", "gather")
    yield row("gather.tcp", found["ours_us"], "us/row", "MPI_Get a row", found["theirs_us"], bars={"ratio": f"<= {1 / 30:.4f}"},
              mpi=vendor())


@case("shard", "add.tcp")
def add_tcp(setting: Setting) -> Iterator[Row]:
    """Gigabytes of float32 a second added at their owner, 1 MiB a request, 10 Gb/s; beside MPI_Accumulate."""
    with hosts(2, "10gbit") as names:
        found = ranks(names, [1, 1], "bench.owners", "add")
    bars = {"ratio": ">= 100"} if vendor() == "openmpi" else {}
    yield row("add.tcp", found["ours_gbs"], "GB/s", "MPI_Accumulate", found["theirs_gbs"], bars=bars, mpi=vendor())


@case("shard", "add.combined")
def add_combined(setting: Setting) -> Iterator[Row]:
    """Rows a second that four ranks of two logical nodes add to each other's tables, eight batches of 64 a clock, combined a node."""
    found = ranks([], [4], "bench.owners", "combine", timeout_s=90)
    yield row("add.combined", found["ours"], "rows/s", "each rank by itself", found["theirs"], bars={"ratio": ">= 1"},
              bytes=found["bytes"], mpi=vendor())


@case("shard", "latency")
def latency(setting: Setting) -> Iterator[Row]:
    """Milliseconds until a row of a rank that computes outside MPI is here; and what its compute keeps."""
    with hosts(2, "10gbit") as names:
        found = ranks(names, [1, 1], "bench.owners", "latency")
    bars = {"p95_ms": "<= 5", "kept": ">= 0.97"} | ({"value": "<= 0.25"} if vendor() == "mpich" else {})
    yield row("latency", found["p50_ms"], "ms", "none", bars=bars, p95_ms=found["p95_ms"], kept=found["kept"],
              reads=found["reads"], mpi=vendor())


@case("shard", "migrate.live")
def migrate_live(setting: Setting) -> Iterator[Row]:
    """64 MiB over 1 Gb/s under 50 000 updates a second: longest freeze of three; beside stop-and-copy."""
    with hosts(2, "1gbit") as names:
        found = ranks(names, [2, 1], "bench.owners", "migrate")
    yield row("migrate.live", found["freeze_ms"], "ms", "stop and copy", found["stop_ms"], bars={
        "freeze_p99_ms": "<= 1", "line_rate": ">= 0.9", "bytes": "<= 1.15", "identical": ">= 1"}, freeze_p99_ms=found["freeze_ms"],
        freeze_median_ms=found["freeze_median_ms"], line_rate=found["mbs"] * 8e6 / 1e9, bytes=found["bytes"],
        rows=found["rows"], wire_rate=found["wire_mbs"] * 8e6 / 1e9,
        identical=int(found["identical"]), seconds=found["seconds"], slots=found["slots"], mpi=vendor())


@case("shard", "resplit")
def resplit(setting: Setting) -> Iterator[Row]:
    """Most memory beyond source and target while rows of 4 ranks become columns of 3: 4 GiB with --long, else 512 MiB."""
    size = 4096 if setting.long else 512
    found = ranks([], [4], "bench.owners", "resplit", str(size), timeout_s=110)
    yield row("resplit", found["extra_mib"], "MiB", "none", bars={"value": "<= 64"}, seconds=found["seconds"], size_mib=size)
