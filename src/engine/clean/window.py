"""Stages over the rows before: lags, rolling statistics. After an exchange every rank goes on from the newest rows of all."""
from __future__ import annotations

from typing import ClassVar

import numpy as np

from engine.clean.fitted import Fitted, labels_of, widened
from engine.clean.pipeline import stage
from engine.errors import ConfigError
from engine.kernels import _native
from engine.types import Array, Schema


class Window(Fitted):
    """`k` rows of the columns, oldest first, behind a row of stamps: the newest of all ranks win as a whole."""

    rules: ClassVar = {"rows": "newest"}

    def __init__(self, k: int, columns: str) -> None:
        super().__init__(columns)
        if not 1 <= k < 4096:
            raise ConfigError(f"{self.name}: expected 1 to 4095 rows, found {k}")
        self.k = k

    def ready(self, d: int) -> None:
        rows = np.full((1 + self.k, d), np.nan)
        rows[0] = -1
        self.arrays = {"rows": rows}

    def keep(self, ring: Array, order: Array) -> None:
        rows = self.arrays["rows"]
        rows[0], rows[1:] = order[-1], ring


@stage("lag")
class Lag(Window):
    """Appends the columns of the 1, 2, … `k` rows before (missing where there are none: impute after it)."""

    def __init__(self, k: int = 1, columns: str = "", fill: float = 0.0) -> None:
        super().__init__(k, columns)
        self._fill = np.float32(fill)

    def bound(self, schema: Schema, d: int) -> Schema:
        self.ready(d)
        self.arrays["rows"][1:] = self._fill
        return widened(schema, [f"{name}@{lag + 1}" for lag in range(self.k) for name in labels_of(schema, self.at)])

    def apply(self, x: Array, fit: bool, order: Array) -> tuple[Array, Array | None]:
        ring = self.arrays["rows"][1:].astype(np.float32)
        out = np.empty((len(x), x.shape[1] * (1 + self.k)), np.float32)
        _native.clean_lag(x, self.k, ring, fit, out)
        if fit and len(x):
            self.keep(ring, order)
        return out, None


@stage("rolling")
class Rolling(Window):
    """Appends mean and standard deviation of the columns over the `window` rows before."""

    def __init__(self, window: int = 10, columns: str = "") -> None:
        super().__init__(window, columns)

    def bound(self, schema: Schema, d: int) -> Schema:
        self.ready(d)
        names = labels_of(schema, self.at)
        return widened(schema, [*(f"mean({n})" for n in names), *(f"sd({n})" for n in names)])

    def apply(self, x: Array, fit: bool, order: Array) -> tuple[Array, Array | None]:
        ring = self.arrays["rows"][1:].astype(np.float32)  # rows never seen are NaN and count for nothing
        out = np.empty((len(x), x.shape[1] * 3), np.float32)
        seen = _native.clean_rolling(x, self.k, ring, self.k, out)
        if fit and len(x):
            self.keep(np.roll(ring, -(seen % self.k), 0), order)
        return out, None
