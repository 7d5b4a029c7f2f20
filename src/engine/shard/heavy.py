"""Which keys are hot: a SpaceSaving sketch of sampled accesses (Metwally, Agrawal and El Abbadi, ICDT 2005)."""
from __future__ import annotations

import numpy as np

from engine.errors import ConfigError
from engine.kernels import _native
from engine.types import Array


class Heavy:
    """Counts keys in `room` counters (a power of two): every key with more than 1 / room of the accesses is in it.

    A count is at most `error` too high and never too low. `sample`: one access in so many is counted.

    >>> sketch = Heavy(8)
    >>> sketch.count(np.array([5, 5, 5, 9], np.uint64))
    >>> sketch.top(0.5)[0].tolist()
    [5]
    """

    def __init__(self, room: int = 4096, *, sample: int = 1) -> None:
        if room < 1 or room & (room - 1) or sample < 1:
            raise ConfigError(f"heavy: expected a power of two of counters and a sample of at least 1, found {room}, {sample}")
        self.room, self.sample, self.used, self.total, self._skip = room, sample, 0, 0, 0
        self._key, self._count, self._error = (np.zeros(room, np.uint64) for _ in range(3))
        self._heap, self._where = (np.zeros(room, np.uint32) for _ in range(2))
        self._place = np.zeros(2 * room, np.uint32)

    def count(self, keys: Array) -> None:
        """Accesses in order; with `sample` > 1 every so many-th of them, on through the calls."""
        part = keys if self.sample == 1 else np.ascontiguousarray(keys[self._skip :: self.sample])
        self._skip = (self._skip - len(keys)) % self.sample
        self.total += len(part)
        self.used = _native.heavy_count(part, 1, self._key, self._count, self._error, self._heap, self._where,
                                        self._place, self.used)

    def add(self, keys: Array, counts: Array) -> None:
        """What another sketch counted: sketches of several ranks merge into one whose errors add up."""
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            self.used = _native.heavy_count(np.array([key], np.uint64), int(count), self._key, self._count, self._error,
                                            self._heap, self._where, self._place, self.used)
        self.total += int(counts.sum())

    def top(self, share: float) -> tuple[Array, Array, Array]:
        """(keys, share of the accesses, most it may be too high) of keys above `share`, most asked for first."""
        count = self._count[: self.used].astype(np.float64) / max(1, self.total)
        order = np.argsort(-count, kind="stable")
        order = order[count[order] > share]
        return self._key[order], count[order], self._error[order] / max(1, self.total)
