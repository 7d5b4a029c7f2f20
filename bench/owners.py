"""What a bench of sharded tables runs under MPI: `python -m bench.owners CASE`; rank 0 prints one JSON object at the end."""
from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from engine.comm.world import World, finish
from engine.table.migrate import Mover
from engine.table.shards import Store, open_table

WIDTH = 60  # 256-byte rows
CASES: dict[str, Callable[[World], dict[str, Any]]] = {}


def case(act: Callable[[World], dict[str, Any]]) -> Callable[[World], dict[str, Any]]:
    CASES[act.__name__] = act
    return act


def owned(store: Store, rank: int, count: int) -> Any:
    """So many keys of a rank."""
    keys = np.arange(4 * count * store.table.ranks + 1000, dtype=np.uint64)
    return keys[store.ledger.route(keys) == rank][:count]


def wait(store: Store, name: str) -> None:
    store.remote.barrier(name)


@case
def gather(link: World) -> dict[str, Any]:
    """Rank 0 reads 1024 random rows of the last rank: by the table, and by an MPI_Get each with one flush."""
    from mpi4py import MPI

    store = open_table(link, width=WIDTH, rows=1 << 15, onesided="served", service_mode="thread")
    far = link.size - 1
    keys = owned(store, far, 1 << 14)
    if link.rank == far:
        store.table.inc(keys, np.ones((len(keys), WIDTH), np.float32))
    raw = np.ones(1 << 22, np.uint8)
    window = MPI.Win.Create(raw, 1, MPI.INFO_NULL, link._comm)
    window.Lock_all(MPI.MODE_NOCHECK)
    wait(store, "made")
    ours, theirs = [], []
    out, rows = np.empty((1024, WIDTH), np.float32), np.empty((1024, 256), np.uint8)
    if link.rank == 0:
        draw = np.random.default_rng(1)
        for _ in range(25):
            wanted = draw.choice(keys, 1024)
            began = time.perf_counter()
            for _ in range(8):
                store.table.get(wanted, out)
            ours.append((time.perf_counter() - began) / 8)
            assert (out == 1).all()
            at = (draw.integers(0, 1 << 14, 1024) * 256).tolist()
            began = time.perf_counter()
            for i, offset in enumerate(at):
                window.Get([rows[i], MPI.BYTE], far, (offset, 256, MPI.BYTE))
            window.Flush(far)
            theirs.append(time.perf_counter() - began)
    wait(store, "read")
    window.Unlock_all()
    window.Free()
    store.close()
    return {"ours_us": median(ours) / 1024 * 1e6, "theirs_us": median(theirs) / 1024 * 1e6} if link.rank == 0 else {}


@case
def tear(link: World) -> dict[str, Any]:
    """Rank 0 reads rows that rank 1 stores to with MPI_Get alone: how many are half of one store and half of another."""
    from mpi4py import MPI

    window = MPI.Win.Allocate_shared(256 * 64 if link.rank else 64, 1, comm=link._comm)
    memory = np.frombuffer(window.Shared_query(1)[0], np.uint64).reshape(64, 32)
    window.Lock_all(MPI.MODE_NOCHECK)
    link.barrier(name="made")
    read = torn = 0
    until = time.monotonic() + 3
    buffer = np.empty(32, np.uint64)
    value = 0
    while time.monotonic() < until:
        for _ in range(500):
            if link.rank:
                value += 1
                memory[value % 64] = value
            else:
                window.Get([buffer, MPI.BYTE], 1, (read % 64 * 256, 256, MPI.BYTE))
                window.Flush(1)
                torn += bool((buffer != buffer[0]).any())
                read += 1
    link.barrier(name="read")
    window.Unlock_all()
    window.Free()
    return {"torn": torn, "read": read}


@case
def add(link: World) -> dict[str, Any]:
    """Rank 0 adds 1 MiB of float32 to rows of the last rank: owner-applies, and MPI_Accumulate."""
    from mpi4py import MPI

    store = open_table(link, width=1020, rows=1 << 10, onesided="served", service_mode="thread")
    far = link.size - 1
    keys = owned(store, far, 256)
    items = np.ones((256, 1020), np.float32)
    raw, sent = np.zeros(1 << 18, np.float32), np.ones(1 << 18, np.float32)
    window = MPI.Win.Create(raw, 4, MPI.INFO_NULL, link._comm)
    window.Lock_all(MPI.MODE_NOCHECK)
    wait(store, "made")
    ours, theirs = [], []
    if link.rank == 0:
        for turn in range(6):
            began = time.perf_counter()
            store.table.inc(keys, items)
            ours.append(time.perf_counter() - began)
            if turn % 2 == 0:
                began = time.perf_counter()
                window.Accumulate([sent, MPI.FLOAT], far, (0, 1 << 18, MPI.FLOAT), MPI.SUM)
                window.Flush(far)
                theirs.append(time.perf_counter() - began)
    wait(store, "added")
    window.Unlock_all()
    window.Free()
    store.close()
    return {"ours_gbs": items.nbytes / median(ours) / 1e9, "theirs_gbs": raw.nbytes / median(theirs) / 1e9} if link.rank == 0 else {}


@case
def combine(link: World) -> dict[str, Any]:
    """Zipf adds of 64 rows by ranks of two nodes of two, with and without one queue a node: requests, rows a second."""
    link.node = link.rank // 2 * 2
    draw, items, rounds = np.random.default_rng(link.rank), np.ones((64, 16), np.float32), 5
    batches = [draw.zipf(1.2, 64) % 5000 for _ in range(80)]
    stores = [open_table(link, width=16, rows=20000, combine=rows, combine_s=1.0, service_mode="thread") for rows in (2048, 0)]
    took: list[list[float]] = [[], []]
    for _ in range(rounds):
        for store, times in zip(stores, took, strict=True):
            wait(store, "begin")
            began = time.perf_counter()
            for i, keys in enumerate(batches):
                store.table.inc(keys, items)
                if i % 8 == 7:
                    store.table.clock()
                    store.table.wait(1)
            wait(store, "added")
            times.append(time.perf_counter() - began)
    sent = link.vote(np.array([store.remote.sent for store in stores], np.int64), name="sent").sum(axis=0)
    for store in stores:
        store.close()
    rows = link.size * len(batches) * 64
    return {"ours": rows / median(took[0]), "theirs": rows / median(took[1]), "bytes": float(sent[0] / sent[1])}


@case
def latency(link: World) -> dict[str, Any]:
    """Rank 0 reads one row of the last rank while that computes outside MPI; what the compute keeps."""
    store = open_table(link, width=WIDTH, rows=1 << 12, onesided="served", service_mode="thread")
    far = link.size - 1
    keys = owned(store, far, 64)

    def compute(seconds: float) -> float:
        x, done, began = np.random.default_rng(0).random((256, 256)), 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            x = np.sin(x)
            done += 1
        return done / (time.perf_counter() - began)

    took, kept = [], []
    for _ in range(5):
        alone = compute(0.4) if link.rank == far else 0.0
        wait(store, "alone")
        if link.rank == far:
            kept.append(compute(1.2) / alone)
        elif link.rank == 0:
            until = time.perf_counter() + 1.0
            while time.perf_counter() < until:
                began = time.perf_counter()
                store.table.get(keys[:1])
                took.append(time.perf_counter() - began)
                time.sleep(0.002)
        wait(store, "measured")
    told = link.gather(median(kept) if kept else 0.0, name="kept")
    store.close()
    if link.rank:
        return {}
    return {"p50_ms": float(np.percentile(took, 50)) * 1e3, "p95_ms": float(np.percentile(took, 95)) * 1e3, "kept": told[far],
            "reads": len(took)}


@case
def migrate(link: World) -> dict[str, Any]:
    """64 MiB from rank 0 to the last rank while rank 1, on rank 0's host, writes 50 000 rows a second; and stop-and-copy."""
    rows, rate = 1 << 18, 50_000
    store = open_table(link, width=WIDTH, rows=rows, service_mode="thread", slots_bits=12)
    table, far = store.table, link.size - 1
    slots = store.ledger.owned(0)
    keys = owned(store, 0, rows)
    weights = np.random.default_rng(7).normal(size=(rows, WIDTH)).astype(np.float32) * np.float32(0.1)
    if link.rank == 0:
        table.inc(keys, weights)
    stop = np.zeros(1)
    made: list[dict[str, float]] = []
    for turn in range(4):
        plain = turn == 3
        wait(store, "begin")
        if link.rank == 1:
            write(store, link, keys, rate, weights)
        elif link.rank == 0:
            time.sleep(0.15)
            made.append(moved(store, slots, far, plain))
            time.sleep(0.1)
            link._side.send(1, 1, 99)
        wait(store, "moved")
        if link.rank == far:
            assert len(store.ledger.owned(far)) >= len(slots)
            assert Mover(store, slots, 0, tell=[1]).run(short_s=0.5).phase == "done"
        wait(store, "back")
    if link.rank == 1:
        right = bool(np.array_equal(table.get(keys), weights))
    told = link.gather(right if link.rank == 1 else None, name="identical")
    wait(store, "checked")
    stop[:] = 1
    store.close()
    if link.rank:
        return {}
    live, size = made[:3], rows * 256
    return {"freeze_ms": max(m["freeze_s"] for m in live) * 1e3, "freeze_median_ms": median(m["freeze_s"] for m in live) * 1e3,
            "mbs": median(m["bytes"] / m["seconds"] for m in live) / 1e6, "bytes": median(m["wire"] for m in live) / size,
            "rows": median(m["bytes"] for m in live) / size, "wire_mbs": median(m["wire"] / m["seconds"] for m in live) / 1e6,
            "seconds": median(m["seconds"] for m in live), "stop_ms": made[3]["freeze_s"] * 1e3, "identical": bool(told[1]),
            "slots": len(slots)}


def write(store: Store, link: World, keys: Any, rate: int, copy: Any) -> None:
    """`rate` updates a second, steps of a learner, to random rows until rank 0 says stop; `copy` is updated alike."""
    draw, began, done = np.random.default_rng(link.rank), time.perf_counter(), 0
    steps = (draw.normal(size=(50, WIDTH)) * 1e-3).astype(np.float32)
    while not link._side.Iprobe(0, 99):
        if done < (time.perf_counter() - began) * rate:
            at = draw.integers(0, len(keys), 50)
            store.table.inc(keys[at], steps)
            np.add.at(copy, at, steps)
            done += 50
        else:
            time.sleep(0.0005)
    link._side.recv(source=0, tag=99)


def moved(store: Store, slots: Any, target: int, plain: bool) -> dict[str, float]:
    """One migration; `plain`: writers wait from the first byte to the last."""
    mover, began = Mover(store, slots, target, tell=[1]), time.perf_counter()
    if not plain:
        end = mover.run()
        if end.phase != "done":
            raise RuntimeError(end.why)
        return {"freeze_s": mover.frozen_s, "seconds": time.perf_counter() - began, "bytes": end.sent_bytes,
                "wire": mover.parcels.wire_bytes}
    with store.table.closed():
        for rows in store.table.rows(mover.wanted, batch_rows=2048):
            store.table.put(target, rows)
        mover._flip()
        store.ledger.apply(mover.changes)
        store.table.slab.bump(2)
    took = time.perf_counter() - began
    mover._tell()
    mover._drop(False)
    return {"freeze_s": took, "seconds": took, "bytes": 0.0, "wire": 0.0}


@case
def resplit(link: World) -> dict[str, Any]:
    """`bench.owners resplit MIB`: so many MiB of float32 from 4 ranks' rows to 3 ranks' columns; memory beyond both, at most."""
    from engine.shard import resplit as layout

    columns = 1 << 10
    rows = int(sys.argv[2]) * (1 << 20) // 4 // columns
    have, want = layout.by_rows(rows, columns, 4, link.size), layout.by_columns(rows, columns, 3, link.size)
    a, b, *_ = have[link.rank]
    data = np.repeat(np.arange(a, b, dtype=np.float32)[:, None], columns, 1)
    goal = want[link.rank]
    out = np.zeros((goal[1] - goal[0], goal[3] - goal[2]), np.float32)
    out[:] = -1
    link.barrier(name="made")
    before, began = peak(), time.perf_counter()
    layout.resplit(link, data, have, want, out=out)
    took, extra = time.perf_counter() - began, peak() - before
    assert (out == np.arange(rows, dtype=np.float32)[:, None]).all()
    found = link.vote(np.array([extra, took]), name="extra")
    return {"extra_mib": float(found[:, 0].max()) / 2**20, "seconds": float(found[:, 1].max()), "mib": int(sys.argv[2])}


def peak() -> int:
    """Most bytes of memory this process has held."""
    with open("/proc/self/status") as file:
        return next(int(text.split()[1]) * 1024 for text in file if text.startswith("VmHWM"))


def main() -> None:
    link = World(timeout_s=60.0)
    found = CASES[sys.argv[1]](link)
    if link.rank == 0:
        print(json.dumps(found), flush=True)
    link.close()
    finish()


if __name__ == "__main__":
    main()
