"""MPICH's word of a death, by which ranks of other hosts hear of it before they miss the heartbeats of a host.

Its process manager sends a signal (`guard.words`) and then says which ranks of the start are dead.
"""
from __future__ import annotations

import time

from engine import guard
from engine.comm import repair

LOOK_S = 0.005  # between two questions to the process manager


class Word:
    """What has been said since this was made. Asked in waits, by the thread that calls MPI."""

    def __init__(self) -> None:
        self._heard, self._said, self._next_s = guard.words[0], "", 0.0
        self._known = set(repair.failed()) if self._heard else set()

    def why(self) -> str:
        """Which ranks of the start have died, or ""."""
        now = time.monotonic()
        if not self._said and guard.words[0] > self._heard and now >= self._next_s:
            self._next_s = now + LOOK_S
            if dead := set(repair.failed()) - self._known:
                self._said = f"rank {', '.join(map(str, sorted(dead)))} of the start died"
        return self._said
