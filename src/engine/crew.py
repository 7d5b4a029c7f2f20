"""A crew: workers of one node over one model, each the owner of a share of the keys (`exchange.split = "keys"`).

Every worker sees all rows but only its keys; scores of a lot of `exchange.every` rows are summed over the workers in
shared memory (csrc/learn/split.h). Nothing is merged and no replica exists, so wide sparse models scale with the cores
of a node; the model is stale by one lot. The result does not depend on how many workers there are, but for rounding.
"""
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from engine.comm.slab import slab
from engine.errors import ConfigError, PeerError
from engine.kernels import _native
from engine.models.linear import Linear
from engine.types import Array, Batch, Link, Schema, Update


class Crew:
    """The workers of this rank, `threads` of `link.size * threads` in all. The interface of `loop.Team`."""

    def __init__(self, link: Link, make: Callable[..., Linear], threads: int, *, lot: int, limit_s: float) -> None:
        """`make(block=…)` builds a model over a given block; every rank calls this (collective)."""
        self._link, self.threads, self.size = link, threads, link.size * threads
        shape = make(block=None, measure=True)
        desk = _native.desk_bytes(self.size, lot, shape.classes)
        desk += -desk % 4096
        memory = slab(link, desk + shape.rows * 16, name="exchange.split=keys")
        block = memory[desk:].view(np.float32).reshape(shape.rows, 4)
        self.models = [make(block=block) for _ in range(threads)]
        for thread, model in enumerate(self.models):
            model.sit(memory[:desk], link.rank * threads + thread, self.size, lot, limit_s)
        self._pool = ThreadPoolExecutor(threads, "learn") if threads > 1 else None
