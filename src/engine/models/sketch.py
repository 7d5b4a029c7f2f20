"""Sketches that merge by adding: quantiles to a relative error, counts of keys to a share of all.

Sources: DDSketch (Masson, Rim and Lee 2019), count-min (Cormode and Muthukrishnan 2005).  Both are arrays of int64 counts.
"""
from __future__ import annotations

import numpy as np

from engine.errors import ConfigError, DataError
from engine.types import Array

U = np.uint64


class Quantiles:
    """`quantile(q)` is within `error` of the value of rank q, relative; values of magnitude 1e-9 to 1e12, else the nearest."""

    LOW, HIGH = 1e-9, 1e12

    def __init__(self, error: float = 0.01) -> None:
        if not 0 < error < 1:
            raise ConfigError(f"quantiles: expected 0 < error < 1, found {error}")
        self.error = error
        self._log = np.log((1 + error) / (1 - error))
        self._first = int(np.ceil(np.log(self.LOW) / self._log))
        self.side = int(np.ceil(np.log(self.HIGH) / self._log)) - self._first + 1
        self.counts = np.zeros(2 * self.side + 1, np.int64)  # negative (largest magnitude first), zero, positive

    def add(self, values: Array) -> None:
        """Counts finite values; DataError where one is not."""
        v = np.asarray(values, np.float64).ravel()
        if not np.isfinite(v).all():
            raise DataError("quantiles: expected finite values, found NaN or infinity")
        size = np.clip(np.abs(v), self.LOW, self.HIGH)
        place = np.clip(np.ceil(np.log(size) / self._log).astype(np.int64) - self._first, 0, self.side - 1) + 1
        place[np.abs(v) < self.LOW] = 0
        np.add.at(self.counts, self.side + np.where(v < 0, -place, place), 1)

    def quantile(self, q: float) -> float:
        """The value of rank q in [0, 1]; NaN before the first."""
        total = int(self.counts.sum())
        if not total:
            return float("nan")
        at = int(np.searchsorted(np.cumsum(self.counts), q * (total - 1), side="right")) - self.side
        if at == 0:
            return 0.0
        size = 2 * np.exp(self._log * (abs(at) - 1 + self._first)) / (1 + np.exp(self._log))
        return float(np.sign(at) * size)

    def merge(self, counts: Array) -> None:
        """Adds another sketch's counts, of the same error."""
        self.counts += counts


class Counts:
    """`estimate(keys)` is at least the true count, and too high by more than 2 N / `width` with chance 2^-`rows` at most."""

    def __init__(self, width: int = 1 << 14, rows: int = 5, seed: int = 0) -> None:
        if width < 2 or rows < 1:
            raise ConfigError(f"counts: expected width >= 2 and rows >= 1, found {width} and {rows}")
        self.counts = np.zeros((rows, width), np.int64)
        self._salt = np.random.default_rng(seed).integers(1, 2**63, rows, dtype=np.uint64)

    def _places(self, keys: Array) -> Array:
        v = np.asarray(keys).astype(np.uint64)[None, :] * U(0x9E3779B97F4A7C15) + self._salt[:, None]
        v = (v ^ (v >> U(30))) * U(0xBF58476D1CE4E5B9)
        v = (v ^ (v >> U(27))) * U(0x94D049BB133111EB)
        return ((v ^ (v >> U(31))) % U(self.counts.shape[1])).astype(np.int64)

    def add(self, keys: Array, amount: int | Array = 1) -> None:
        """Counts keys, each `amount` times."""
        for row, places in zip(self.counts, self._places(keys), strict=True):
            np.add.at(row, places, amount)

    def estimate(self, keys: Array) -> Array:
        """Counts int64 `(n,)`."""
        places = self._places(keys)
        return np.asarray(np.take_along_axis(self.counts, places, 1).min(axis=0))

    def merge(self, counts: Array) -> None:
        """Adds another sketch's counts, of the same width, rows and seed."""
        self.counts += counts
