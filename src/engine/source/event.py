"""Event time: when rows happened, how far the stream has come, and which rows were there before. No I/O, no MPI.

The *watermark* is the time up to which rows are taken to be complete: the least, over all ranks that have lately had rows,
of the newest time seen, less the lateness allowed. It never goes back. A row before it is late.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from engine.errors import ConfigError
from engine.kernels import _native
from engine.types import NO_TIME, Array

MICRO = 1_000_000
UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}  # microseconds
SLICES = 8  # a memory of ids is forgotten in so many parts


def scale_of(unit: str, sample: float) -> float:
    """Microseconds in a unit of a numeric time; `auto`: the unit in which `sample` lies between 1973 and 5138."""
    if unit != "auto":
        return UNITS[unit]
    return next((UNITS[name] for name, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if abs(sample) < limit), UNITS["ns"])


@dataclass(slots=True)
class Watermark:
    """The same on every rank that feeds it the same figures. Times in microseconds.

    `jump`: a row that is further ahead of what was seen is not believed (a wrong clock) unless most rows of its step are;
    `idle_us`: how long, by its own clock, a rank may bring no rows and hold the others back.
    """

    lateness: int = 0
    jump: int = 86_400 * MICRO
    idle_us: int = 30 * MICRO
    value: int = NO_TIME
    newest: dict[int, int] = field(default_factory=dict)   # of each rank, the newest time believed
    heard: dict[int, int] = field(default_factory=dict)    # and when it last had rows, by the clock of the votes

    def offer(self, time: Array, rank: int) -> tuple[int, int]:
        """(newest time of this rank's rows that is believed, rows that are not believed)."""
        known = time[time != NO_TIME]
        before = self.newest.get(rank, NO_TIME)
        if not len(known):
            return before, 0
        if before == NO_TIME:
            before = int(np.partition(known, len(known) // 2)[len(known) // 2])
        ahead = known > before + self.jump
        if 2 * np.count_nonzero(ahead) > len(known):  # the stream itself has jumped
            before = int(np.partition(known, len(known) // 2)[len(known) // 2])
            ahead = known > before + self.jump
        sound = known[~ahead]
        return max(before, int(sound.max())) if len(sound) else before, int(np.count_nonzero(ahead))

    def hear(self, newest: Array, rows: Array, now_us: int) -> int:
        """All ranks' offers and row counts of a step -> the watermark."""
        for rank, (time, count) in enumerate(zip(newest.tolist(), rows.tolist(), strict=True)):
            if count or rank not in self.heard:
                self.heard[rank] = now_us
            if time != NO_TIME:
                self.newest[rank] = time
        live = [time for rank, time in self.newest.items() if now_us - self.heard[rank] <= self.idle_us]
        waiting = any(rank not in self.newest and now_us - self.heard[rank] <= self.idle_us for rank in range(len(rows)))
        if live and not waiting:
            self.value = max(self.value, min(live) - self.lateness)
        return self.value


class Seen:
    """Ids seen within a horizon, exactly: uint64 hashes (0 = no id) in an open table, each since a slice of the horizon.

    `horizon`: in the unit of `now`, microseconds or rows; an id is remembered for at least that long, at most 9/8 of it.
    Two ids of 2^64 hashes meet with a chance of n^2 / 2^65. 32 to 64 bytes an id that is remembered.
    """

    def __init__(self, horizon: int) -> None:
        self.horizon = max(1, horizon)
        self._name, self._since = np.zeros(1 << 10, np.uint64), np.zeros(1 << 10, np.int64)
        self._used, self._low = 0, NO_TIME

    def has(self, ids: Array) -> Array:
        """Which of `ids` are remembered; bool `(n,)`."""
        fresh = np.empty(len(ids), np.uint8)
        _native.seen(ids, 0, self._low, False, self._name, self._since, self._used, fresh)
        return fresh == 0

    def add(self, ids: Array, now: int) -> Array:
        """Remembers `ids` from now on, and forgets what is older than the horizon; which were not there, bool `(n,)`."""
        part = now * SLICES // self.horizon
        self._low = max(self._low, part - SLICES)
        if 2 * (self._used + len(ids)) > len(self._name):
            self._fit(len(ids))
        fresh = np.empty(len(ids), np.uint8)
        self._used = _native.seen(np.ascontiguousarray(ids), part, self._low, True, self._name, self._since, self._used, fresh)
        return fresh == 1

    def _fit(self, more: int) -> None:
        """A table with room for `more`, without what is forgotten."""
        ids, parts = self.dump()
        room = max(1 << 10, 1 << (4 * (len(ids) + more) - 1).bit_length())
        self._name, self._since, self._used = np.zeros(room, np.uint64), np.zeros(room, np.int64), 0
        self.load(ids, parts)

    def dump(self) -> tuple[Array, Array]:
        """(ids, the slice of each), for a checkpoint."""
        live = np.flatnonzero((self._name != 0) & (self._since >= self._low))
        return self._name[live], self._since[live]

    def load(self, ids: Array, parts: Array) -> None:
        """Remembers what was dumped, or a share of it, beside what is there."""
        if 2 * (self._used + len(ids)) > len(self._name):
            self._fit(len(ids))
        fresh = np.empty(len(ids), np.uint8)
        for part in np.unique(parts).tolist():
            mine = np.ascontiguousarray(ids[parts == part])
            self._used = _native.seen(mine, part, part, True, self._name, self._since, self._used, fresh[: len(mine)])
            self._low = max(self._low, part - SLICES)


def firsts(ids: Array) -> Array:
    """Which rows are the first of their id among `ids`; those without an id (0) all are."""
    _, place = np.unique(ids, return_index=True)
    first = ids == 0
    first[place] = True
    return first


@dataclass(frozen=True, slots=True)
class Panes:
    """Windows as runs of panes of equal length. `size`, `slide` in microseconds, or in rows of the global order (`rows`)."""

    size: int
    slide: int
    rows: bool = False

    @classmethod
    def parse(cls, text: str) -> Panes:
        """`60s` tumbling, `60s/10s` sliding, `1000rows` or `1000rows/100rows` by count."""
        size, _, slide = text.replace(" ", "").partition("/")
        (a, rows), (b, same) = _span(size, text), _span(slide or size, text)
        if rows != same or a % b:
            raise ConfigError(f"time.window: expected a size that is a multiple of the slide, found {text!r}",
                              fix="time.window=60s, 60s/10s or 1000rows")
        return cls(a, b, rows)

    def of(self, place: Array) -> Array:
        """The pane of each time or order."""
        return place // self.slide


def _span(text: str, whole: str) -> tuple[int, bool]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|min|m|h|d|rows)", text)
    scale = {"ms": 1e3, "s": 1e6, "min": 6e7, "m": 6e7, "h": 3.6e9, "d": 8.64e10, "rows": 1}
    if not match or float(match[1]) * scale[match[2]] < 1:
        raise ConfigError(f"time.window: expected a duration or a number of rows, found {whole!r}",
                          fix="time.window=60s, 60s/10s or 1000rows")
    return round(float(match[1]) * scale[match[2]]), match[2] == "rows"
