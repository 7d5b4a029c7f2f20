"""Local steps: H intervals between exchanges, and at each a step of an outer optimiser (DiLoCo, Douillard et al. 2023)."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine import loop
from engine.errors import ConfigError
from engine.modes.coding import Coding, Sum, plain
from engine.types import Array, Block, State, Update


class Outer:
    """An exchange of lock-step whose merged change goes through Nesterov's momentum: v = m v + d, x = x + d + m v.

    d is what the merge changed in w and in the learner's accumulator, row by row; n (sums of squares) is left as merged.
    Momentum 0 is the plain exchange. The state is the same on every rank, since all do the same to the same bytes.
    """

    def __init__(self, model: Any, momentum: float, total: Sum = plain) -> None:
        self.total = total
        if momentum and not hasattr(model, "put"):
            raise ConfigError(f"exchange.momentum: expected a linear model, found {type(model).__name__}",
                              fix="exchange.momentum=0")
        self.momentum = np.float32(momentum)
        self.anchor: Array | None = model._block[:, :2].copy() if momentum else None
        self.speed = np.zeros_like(self.anchor) if self.anchor is not None else None

    def recall(self, job: loop.Job) -> None:
        """Goes on from what a checkpoint had of it."""
        state = job.recalled
        if self.speed is not None and "speed" in state and state["speed"].data.shape == self.speed.shape:
            self.speed[:] = state.pop("speed").data

    def fold(self, job: loop.Job) -> tuple[State, dict[str, tuple[int, int, int]]]:
        """The outer momentum, the same on every rank; and what the codec keeps."""
        state, parts = self.total.fold(job) if isinstance(self.total, Coding) else ({}, {})
        return state | ({} if self.speed is None else {"speed": Block(self.speed.copy())}), parts

    def view(self) -> State:
        """What node memory keeps of it, live: the outer momentum, the same on every rank."""
        return {} if self.speed is None else {"speed": Block(self.speed)}

    def __call__(self, job: loop.Job, update: Update, table: Array) -> None:
        total = self.total(job, update, table)
        job.merged = total
        job.team.merge(total, job.workers)
        if self.anchor is None or self.speed is None or total.keys is None:
            return
        models: list[Any] = list(job.team.models)
        rows = total.keys[: np.searchsorted(total.keys, len(self.anchor))]
        values = models[0]._block[rows, :3].copy()
        self.speed[rows] = self.momentum * self.speed[rows] + (values[:, :2] - self.anchor[rows])
        values[:, :2] += self.momentum * self.speed[rows]
        for model in models:
            model.put(rows, values)
        self.anchor[rows] = models[0]._block[rows, :2]
