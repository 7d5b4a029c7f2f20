"""Drift detectors on a stream of errors or losses: one row at a time, or `count` rows with the sum `total` at once.

All ranks feed the same sums (they travel with the step's vote), so all find the same drift at the same step.
Sources: ADWIN (Bifet and Gavalda 2007), DDM (Gama et al. 2004), Page-Hinkley (Page 1954), KSWIN (Raab et al. 2020).
"""
from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Protocol

import numpy as np

from engine.errors import ConfigError
from engine.types import Array


class Detector(Protocol):
    """`add` says whether there is a drift to more errors now; `state` is one float64 array that `load` takes."""

    def add(self, count: float, total: float) -> bool: ...
    def state(self) -> Array: ...
    def load(self, data: Array) -> None: ...


DETECTORS: dict[str, Callable[[], Detector]] = {}


def make(name: str) -> Detector:
    """A new detector by name; ConfigError names the nearest."""
    if name not in DETECTORS:
        near = difflib.get_close_matches(name, DETECTORS, 1)
        raise ConfigError(f"drift: expected one of {', '.join(DETECTORS)}, found {name!r}",
                          fix=f"did you mean {near[0]!r}?" if near else "")
    return DETECTORS[name]()


class Adwin:
    """Drops the older part of an adaptive window where its mean differs from the rest by more than chance `delta` allows.

    The window is kept as buckets of rows and sums; of buckets with about the same number of rows the two oldest join
    where there are more than `most`. The test is made every `clock` rows.
    """

    def __init__(self, delta: float = 0.002, most: int = 5, clock: int = 32, least: int = 5) -> None:
        self.delta, self.most, self.clock, self.least = delta, most, clock, least
        self._buckets: list[tuple[float, float]] = []  # oldest first: rows, sum
        self._waiting = 0.0

    @property
    def width(self) -> float:
        return sum(n for n, _ in self._buckets)

    @property
    def mean(self) -> float:
        return sum(s for _, s in self._buckets) / max(self.width, 1e-300)

    def add(self, count: float, total: float) -> bool:
        """True where the window was cut and the mean has risen."""
        self._buckets.append((count, total))
        self._compress()
        self._waiting += count
        if self._waiting < self.clock:
            return False
        self._waiting = 0
        before, cut = self.mean, False
        while self._cut():
            cut = True
        return cut and self.mean > before

    def _compress(self) -> None:
        """Joins the two oldest of a size class that is too full, from the newest class to the oldest."""
        sizes = [int(np.log2(max(n, 1))) for n, _ in self._buckets]
        level = sizes[-1]
        while sizes.count(level) > self.most:
            first = sizes.index(level)
            second = next((i for i in range(first + 1, len(sizes)) if sizes[i] == level), len(sizes) - 1)
            if second != first + 1:
                break
            (na, sa), (nb, sb) = self._buckets[first : second + 1]
            self._buckets[first : second + 1] = [(na + nb, sa + sb)]
            sizes[first : second + 1] = [int(np.log2(max(na + nb, 1)))]
            level = sizes[first]

    def _cut(self) -> bool:
        """Drops the oldest bucket where any cut of the window parts two different means."""
        if len(self._buckets) < 2:
            return False
        n, s = np.array(self._buckets).T
        n0, s0 = np.cumsum(n)[:-1], np.cumsum(s)[:-1]
        rows, total = n.sum(), s.sum()
        n1, s1 = rows - n0, total - s0
        mean = total / rows
        spread = max(mean * (1 - mean), 1e-12)
        trust = np.log(2 * np.log(max(rows, 3)) / self.delta)
        shared = 1 / (1 / np.maximum(n0 - self.least + 1, 1) + 1 / np.maximum(n1 - self.least + 1, 1))
        bound = np.sqrt(2 / shared * spread * trust) + 2 / 3 / shared * trust
        apart = np.abs(s0 / n0 - s1 / n1) > bound
        if not (apart & (n0 >= self.least) & (n1 >= self.least)).any():
            return False
        del self._buckets[0]
        return True

    def state(self) -> Array:
        return np.array([(self._waiting, 0.0), *self._buckets])

    def load(self, data: Array) -> None:
        self._waiting = float(data[0, 0])
        self._buckets = [(float(n), float(s)) for n, s in data[1:]]


class Ddm:
    """Rate of errors p with deviation s: a drift where p + s passes the least seen by `out` deviations."""

    def __init__(self, out: float = 3.0, least: int = 30) -> None:
        self.out, self.least = out, least
        self._data = np.array([0.0, 0.0, np.inf, np.inf])  # rows, errors, p and s at the least p + s

    def add(self, count: float, total: float) -> bool:
        d = self._data
        d[:2] += (count, total)
        p = d[1] / d[0]
        s = np.sqrt(max(p * (1 - p), 0) / d[0])
        if d[0] < self.least:
            return False
        if p + s <= d[2] + d[3]:
            d[2:] = p, s
        if p + s > d[2] + self.out * d[3] and d[3] > 0:
            self._data = np.array([0.0, 0.0, np.inf, np.inf])
            return True
        return False

    def state(self) -> Array:
        return self._data.copy()

    def load(self, data: Array) -> None:
        self._data = data.astype(float).copy()


class PageHinkley:
    """The sum of what passes the mean so far by `slack`, against its least: a drift beyond `limit`."""

    def __init__(self, limit: float = 50.0, slack: float = 0.005, least: int = 30) -> None:
        self.limit, self.slack, self.least = limit, slack, least
        self._data = np.zeros(4)  # rows, sum, cumulative, least cumulative

    def add(self, count: float, total: float) -> bool:
        d = self._data
        d[:2] += (count, total)
        d[2] += total - count * (d[1] / d[0] + self.slack)
        d[3] = min(d[3], d[2])
        if d[0] >= self.least and d[2] - d[3] > self.limit:
            self._data = np.zeros(4)
            return True
        return False

    def state(self) -> Array:
        return self._data.copy()

    def load(self, data: Array) -> None:
        self._data = data.astype(float).copy()


class Kswin:
    """Kolmogorov-Smirnov test of the last `recent` values against as many drawn from the `window` before; means of adds."""

    def __init__(self, alpha: float = 0.0001, window: int = 300, recent: int = 60) -> None:
        self.alpha, self.window, self.recent = alpha, window, recent
        self._values: list[float] = []
        self._step = 0

    def add(self, count: float, total: float) -> bool:
        self._values.append(total / count)
        self._step += 1
        if len(self._values) < self.window:
            return False
        self._values = self._values[-self.window :]
        old, new = np.array(self._values[: -self.recent]), np.sort(self._values[-self.recent :])
        rng = np.random.Generator(np.random.Philox(key=977, counter=self._step))
        old = np.sort(rng.choice(old, self.recent, replace=False))
        grid = np.concatenate([old, new])
        far = np.abs(np.searchsorted(old, grid, side="right") - np.searchsorted(new, grid, side="right")).max() / self.recent
        worse = new.mean() > old.mean()
        # Smirnov's bound: P(D > d) <= 2 exp(-d^2 n m / (n + m)), twice; n = m = recent.
        if far > np.sqrt(-np.log(self.alpha / 2) / self.recent):
            self._values = self._values[-self.recent :]
            return bool(worse)
        return False

    def state(self) -> Array:
        return np.array([float(self._step), *self._values])

    def load(self, data: Array) -> None:
        self._step, self._values = int(data[0]), [float(v) for v in data[1:]]


DETECTORS |= {"adwin": Adwin, "ddm": Ddm, "page-hinkley": PageHinkley, "kswin": Kswin}
