"""Lock-step sums by the codec and route of the configuration: `exchange.codec`, `exchange.route`."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine import loop
from engine.comm import sync
from engine.errors import ConfigError
from engine.modes.reducer import Reducer
from engine.types import Array, Update
from engine.update.merge import combine

Sum = Callable[[loop.Job, Update, Array], Update]


def plain(job: loop.Job, update: Update, table: Array) -> Update:
    """The exact sum of the updates of all ranks."""
    return sync.total(job.link, update, combine, table[:, 1].astype(int).tolist(), table[:, 0].tolist())


class Coding:
    """Sums of dense float32 updates whose first `model.lossy` values a codec may round; the rest is summed exactly.

    `note(text)` is told why, line by line, once a codec has been taken. What was rounded off stays with this rank and goes
    with a later update; it is not part of a checkpoint.
    """

    def __init__(self, codec: str, route: str, note: Callable[[str], None], explain: bool) -> None:
        self.codec, self.route, self.note, self.explain = codec, route, note, explain
        self.reducer: Reducer | None = None
        self._told = False

    def __call__(self, job: loop.Job, update: Update, table: Array) -> Update:
        model: Any = job.team.models[0]
        lossy = getattr(model, "lossy", 0)
        if update.keys is not None or not lossy:
            raise ConfigError(f"exchange.codec={self.codec}: expected a model of dense parameters, found "
                              f"{type(model).__name__}, whose updates are sums that may not be rounded",
                              fix="exchange.codec=exact")
        flat = update.values.reshape(-1)
        if self.reducer is None:
            self.reducer = Reducer(job.link, lossy, self.codec, route=self.route, name="parameters")
        total = np.concatenate([self.reducer(flat[:lossy]), job.link.allreduce(flat[lossy:], name="counts of the update")])
        if self.reducer.picked and not self._told:
            self._told = True
            if self.codec == "auto" or self.explain:
                for line in self.reducer.lines():
                    self.note(f"exchange: {line}")
        return Update(None, total.reshape(update.values.shape), float(table[:, 0].sum()))


def exchange(total: Sum) -> loop.Exchange:
    """The exchange of lock-step with this sum."""
    def act(job: loop.Job, update: Update, table: Array) -> None:
        job.merged = total(job, update, table)
        job.team.merge(job.merged, job.workers)
    return act
