"""What one-sided access really does on this MPI, measured at start in some 30 ms: the attribute that MPI does not tell.

Rank 0 and a rank as far away as there is put and get while the target computes outside MPI and while it waits in MPI, and
count with atomics. The answer picks the path to ranks of other nodes: `rma` where a Put to a computing target completes and
atomics add up and a batch of Gets is quicker than a request and its reply; else `served`. Inside a node it is `shared`.
"""
from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.comm.world import World

ROWS, ROW_BYTES, COMPUTE_S, COUNTS = 128, 256, 0.003, 40


@dataclass(frozen=True)
class Onesided:
    """`free_running`: a Put completes while its target computes; seconds of a Put, of a row got, of a small message there and
    back; bytes a second of Gets; whether fetch-and-add and compare-and-swap counted right."""

    free_running: bool
    put_s: float
    row_s: float
    reply_s: float
    rate: float
    atomics: bool
    same_node: bool

    @property
    def path(self) -> str:
        if self.same_node:
            return "shared"
        quick = self.row_s * ROWS < 2 * self.reply_s + ROWS * ROW_BYTES / max(self.rate, 1.0)
        return "rma" if self.free_running and self.atomics and quick else "served"

    def said(self) -> str:
        """One line for a reader."""
        running = "completes" if self.free_running else "waits for the target"
        right = "right" if self.atomics else "WRONG"
        return (f"{self.path}: a Put to a computing target {running} ({self.put_s * 1e6:.0f} us), "
                f"a row {self.row_s * 1e6:.2f} us, "
                f"{self.rate / 1e9:.2f} GB/s, a reply {self.reply_s * 1e6:.0f} us, atomics {right}")


def measure(link: World) -> Onesided | None:
    """Collective; the same answer on every rank, None on one rank. The target is a rank of another node where there is one."""
    if link.size == 1:
        return None
    from mpi4py import MPI

    nodes = link.vote(np.array([link.node]), name="nodes")[:, 0]
    away = np.flatnonzero(nodes != nodes[0])
    target = int(away[0]) if len(away) else link.size - 1
    memory = np.zeros(ROWS * ROW_BYTES, np.uint8)
    window = MPI.Win.Create(memory, 1, MPI.INFO_NULL, link._comm)
    window.Lock_all(MPI.MODE_NOCHECK)
    link.barrier(name="probe begins")
    put_s = _while_computing(link, window, target)
    figures = np.zeros(3)
    if link.rank == 0:
        figures[0], figures[1] = _rows(window, target)
    link.barrier(name="probe of rows")
    figures[2] = _reply(link, target)
    atomics = _counted(link, window, target)
    window.Unlock_all()
    window.Free()
    row_s, rate, reply_s = link.bcast(figures.tolist(), name="probe figures")
    put_s = link.bcast(put_s, name="probe of Put")
    return Onesided(put_s < COMPUTE_S / 2, put_s, row_s, reply_s, rate, atomics, not len(away))


def _while_computing(link: World, window: Any, target: int) -> float:
    """Seconds of a Put and its flush to a target that is outside MPI; the median of three."""
    from mpi4py import MPI

    took, one = [], np.ones(8, np.uint8)
    for _ in range(3):
        link.barrier(name="probe of Put")
        began = time.perf_counter()
        if link.rank == target:
            while time.perf_counter() - began < COMPUTE_S:
                pass
        elif link.rank == 0:
            time.sleep(COMPUTE_S / 10)
            began = time.perf_counter()
            window.Put([one, MPI.BYTE], target, (0, 8, MPI.BYTE))
            window.Flush(target)
            took.append(time.perf_counter() - began)
    return sorted(took)[1] if took else 0.0


def _rows(window: Any, target: int) -> tuple[float, float]:
    """(seconds a row in a batch of Gets, bytes a second of one large Get) from a target that waits in MPI."""
    from mpi4py import MPI

    rows, whole = np.empty((ROWS, ROW_BYTES), np.uint8), np.empty(ROWS * ROW_BYTES, np.uint8)
    batch, large = [], []
    for _ in range(3):
        began = time.perf_counter()
        for i, row in enumerate(rows):
            window.Get([row, MPI.BYTE], target, (i * ROW_BYTES, ROW_BYTES, MPI.BYTE))
        window.Flush(target)
        batch.append((time.perf_counter() - began) / ROWS)
        began = time.perf_counter()
        window.Get([whole, MPI.BYTE], target, (0, len(whole), MPI.BYTE))
        window.Flush(target)
        large.append(len(whole) / (time.perf_counter() - began))
    return min(batch), max(large)


def _reply(link: World, target: int) -> float:
    """Seconds of a small message there and back."""
    small, took = np.zeros(64, np.uint8), []
    for _ in range(20):
        began = time.perf_counter()
        if link.rank == 0:
            link._side.Send(small, target, 31)
            link._side.Recv(small, target, 31)
        elif link.rank == target:
            link._side.Recv(small, 0, 31)
            link._side.Send(small, 0, 31)
        took.append(time.perf_counter() - began)
    return sorted(took)[10]


def _counted(link: World, window: Any, target: int) -> bool:
    """Whether fetch-and-add by all ranks and a compare-and-swap by each leave what they must."""
    from mpi4py import MPI

    one, found = np.ones(1, np.int64), np.zeros(1, np.int64)
    link.barrier(name="probe of atomics")
    for _ in range(COUNTS):
        window.Fetch_and_op([one, MPI.INT64_T], [found, MPI.INT64_T], target, 64, MPI.SUM)
        window.Flush(target)
    mine, none = np.array([link.rank + 1], np.int64), np.zeros(1, np.int64)
    window.Compare_and_swap([mine, MPI.INT64_T], [none, MPI.INT64_T], [found, MPI.INT64_T], target, 128)
    window.Flush(target)
    winners = int(link.vote(np.array([found[0] == 0], np.int64), name="probe of swap").sum())
    total = np.zeros(1, np.int64)
    if link.rank == 0:
        window.Fetch_and_op([none, MPI.INT64_T], [total, MPI.INT64_T], target, 64, MPI.NO_OP)
        window.Flush(target)
    link.barrier(name="probe of counts")
    return bool(link.bcast(int(total[0]), name="probe count") == COUNTS * link.size and winners == 1)
