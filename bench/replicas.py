"""Logical replicas of one process over the in-process Link, and jobs on them: for rows with more ranks than cores."""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench import streams
from engine.comm import sync
from engine.comm.local import Local, group
from engine.models.linear import Linear
from engine.types import Batch
from engine.update.merge import combine


def everywhere(size: int, work: Callable[[Local], Any], **options: Any) -> list[Any]:
    """`work(link)` on every rank of a group, a thread each; results in rank order."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, group(size, timeout_s=120, **options)))


def progressive(batch: Batch, width: int, ranks: int, interval: int, **options: Any) -> float:
    """Log loss of one pass, rows dealt in blocks of `interval` to `ranks` replicas that exchange after each block.

    Only the link is in process: updates, their sum and the merge are those of a job.
    """
    scores = np.empty(len(batch), np.float32)

    def work(link: Local) -> None:
        model = Linear(width, **options)
        for start in range(0, len(batch), ranks * interval):
            low = min(len(batch), start + link.rank * interval)
            high = min(len(batch), low + interval)
            if high > low:
                scores[low:high] = model.learn(batch.slice(low, high))
            if ranks > 1:
                update = model.update()
                table = sync.vote(link, [high - low, len(update.keys) if update.keys is not None else 0], name="step")
                total = sync.total(link, update, combine, table[:, 1].astype(int).tolist(), table[:, 0].tolist())
                model.merge(total, ranks)

    everywhere(ranks, work)
    return streams.logloss(1 / (1 + np.exp(-scores.astype(np.float64))), batch.y)


class Paced:
    """A stream of ready rows for one rank: `k` of its own rows a take, each taking `row_s` of simulated work."""

    def __init__(self, batch: Batch, rank: int, size: int, work_s: Callable[[int, int], float], rounds: Sequence[int]) -> None:
        self.batch, self.rank, self.size, self.work_s, self.rounds, self.at = batch, rank, size, work_s, rounds, 0
        self.begun_s = time.perf_counter()

    @property
    def left(self) -> bool:
        return self.at < self.rounds[self.rank]

    def take(self, k: int) -> Batch | None:
        if not self.left:
            return None
        low = ((self.at * self.size + self.rank) * k) % (len(self.batch) - k)
        time.sleep(self.work_s(self.rank, self.at))
        self.at += 1
        part = self.batch.slice(low, low + k)
        part.order = np.arange(k) + (self.at * self.size + self.rank) * k
        part.previous = part.previous.copy()
        return part
