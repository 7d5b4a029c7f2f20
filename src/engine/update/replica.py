"""A rank's view under staleness: the committed state, which all ranks share, and on top of it what is known beyond.

The committed state takes rounds whole and in order, so it is the same bytes on every rank. The view that learns is the
committed state with every update that has arrived since, this rank's own among them, merged by the same rule: nobody
waits for a round to be whole before its rows are used.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.types import Array, Update
from engine.update.merge import combine, distinct


class Replica:
    """`models`: the workers of this rank, all with the same state, which becomes the committed state.

    Models have `update`, `merge`, `fork`, and either `follow(leader, keys)` or `load`.  `workers`: of the whole job.
    `eager` False: the view is the committed state alone, as lock-step has it.
    """

    def __init__(self, models: Sequence[Any], workers: int, *, eager: bool = True) -> None:
        self.models, self.workers, self.eager = list(models), workers, eager
        self.committed = models[0].fork()
        self.pending: dict[int, dict[int, Update]] = {}
        self._dirty: list[Array | None] = []  # keys by which a view may differ from the committed state

    def add(self, number: int, rank: int, update: Update) -> None:
        """Round `number` of `rank` is here."""
        self.pending.setdefault(number, {})[rank] = update

    def commit(self, number: int) -> Update:
        """Round `number` is whole: it becomes part of the committed state; the sum that was merged."""
        parts = self.pending.pop(number)
        total = combine([parts[rank] for rank in sorted(parts)])
        self.take(total)
        return total

    def take(self, total: Update) -> None:
        """A sum over all ranks becomes part of the committed state at once."""
        self._dirty.append(total.keys)
        self.committed.merge(total, self.workers)

    def learned(self, update: Update) -> None:
        """The view has learned this since it was refreshed."""
        self._dirty.append(update.keys)

    def refresh(self, *, settled: bool = False) -> None:
        """Every worker: the committed state, then all that is pending; `settled`: the committed state alone."""
        keys = _union(self._dirty)
        self._dirty = []
        early = [parts[rank] for _, parts in sorted(self.pending.items()) for rank in sorted(parts)]
        total = combine(early) if early and self.eager and not settled else None
        for model in self.models:
            if keys is not None and hasattr(model, "follow"):
                model.follow(self.committed, keys)
            else:
                model.load(self.committed.state())
            if total is not None:
                model.merge(total, self.workers)
        if total is not None:
            self._dirty.append(total.keys)


def _union(parts: Sequence[Array | None]) -> Array | None:
    """All keys, ascending; None = every row."""
    known = [p for p in parts if p is not None]
    if len(known) < len(parts):
        return None
    return distinct(known)


def damp(update: Update, age: float, power: float) -> Update:
    """An update computed `age` rounds ago counts (1 + age)^-power: weight, sums and changes alike, counts kept.

    The last column counts ranks. Power 0 leaves it as it is; 1 is the usual choice of asynchronous SGD (Zhang et al. 2016).
    """
    if not power or not age:
        return update
    values = update.values.copy()
    values[:, :-1] *= np.float32((1 + age) ** -power)
    return Update(update.keys, values, update.weight)
