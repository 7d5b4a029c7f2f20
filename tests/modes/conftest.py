"""Jobs on logical ranks: a stream of sparse rows dealt in blocks, and a way to run every rank in a thread."""
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine import job as jobs
from engine.comm.local import group
from engine.config import resolve
from engine.types import Batch, Schema

WIDTH, NNZ = 60, 6


@pytest.fixture(scope="session")
def made():
    """This module."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def rows():
    """2000 rows of the hidden model."""
    return batch(2000)


def batch(rows, seed=3):
    """A hidden logistic model over sparse rows."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=WIDTH) * 2
    keys = np.sort(np.argsort(rng.random((rows, WIDTH)), axis=1)[:, :NNZ], axis=1).astype(np.uint32)
    y = (rng.random(rows) < 1 / (1 + np.exp(-truth[keys].sum(1)))).astype(np.float32)
    previous = np.concatenate([[np.nan], y[:-1]]).astype(np.float32)
    return Batch(y, np.arange(rows), previous, indptr=np.arange(rows + 1) * NNZ, keys=keys.ravel(),
                 values=np.ones(rows * NNZ, np.float32))


class Dealt:
    """Blocks of `k` rows go to the ranks in turn; `hold(rank, round)` is called before each take."""

    def __init__(self, rows, link, hold=None):
        self.rows, self.link, self.at, self.hold, self.done = rows, link, 0, hold, 0

    def take(self, k):
        if self.hold:
            self.hold(self.link.rank, self.at)
        low = min(len(self.rows), self.done + self.link.rank * k)
        self.at, self.done = self.at + 1, self.done + self.link.size * k
        part = self.rows.slice(low, min(len(self.rows), low + k))
        return part if len(part) else None

    @property
    def left(self):
        return self.done < len(self.rows)


def make(link, rows, *settings, hold=None):
    """A job of one thread over `rows`, exchange every 8 rows unless told otherwise."""
    config = resolve(env={}, overrides=["exchange.every=8", "loop.threads=1", "model.bias=0", *settings])
    return jobs.assemble(config, link, Schema(WIDTH, True, "binary", ("0", "1")), Dealt(rows, link, hold))


def everywhere(size, work, **options):
    """`work(link)` on every rank of an in-process group, results in rank order."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, group(size, timeout_s=20, **options)))


def weights(job):
    return job.team.models[0].state()["model/linear"].data.tobytes()
