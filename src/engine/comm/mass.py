"""Push-sum as accounts: who gave how much to whom in all, so that lost, late and doubled messages and deaths lose no mass.

A member holds (x w, w) and what it has given to and taken from each other member since the start, as sums. What is under way
from a to b is given(a, b) - taken(a, b), whoever has forgotten which message; so any set of snapshots is worth the same mass,
if each giver's is as new as what its takers have of it. A rank may play several members: its own, and those it took over.
"""
from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from engine.types import Array

Pair = tuple[int, int]  # from member, to member


class Account:
    """What one rank holds. Vectors are float64 `(n + 1,)`: sums of x w, then w.

    Between `open` and `close` all its mass is in `held`; otherwise it is the caller's estimate x times `mass`.
    """

    def __init__(self, n: int) -> None:
        self.mass = 1.0
        self.held = np.zeros(n + 1)
        self.given: dict[Pair, Array] = {}
        self.taken: dict[Pair, Array] = {}

    def open(self, x: Array) -> None:
        self.held += worth(x, self.mass)
        self.mass = 0.0

    def give(self, pair: Pair) -> None:
        """Half of what is held is given, to be told by `given[pair]` whenever it can be."""
        self.held *= 0.5
        self.given[pair] = self.given.get(pair, 0.0) + self.held

    def hear(self, pair: Pair, total: Array) -> None:
        """`total` is what was given in all as the message left; w only grows, so the same again or an older one is known."""
        known = self.taken.get(pair)
        if known is None or total[-1] > known[-1]:
            self.held += total - (0.0 if known is None else known)
            self.taken[pair] = total

    def close(self) -> Array:
        """The estimate, float64 `(n,)`."""
        self.mass = float(self.held[-1])
        x = self.held[:-1] / self.mass
        self.held[:] = 0.0
        return x

    def inherit(self, x: Array, mass: float, given: dict[Pair, Array], taken: dict[Pair, Array]) -> None:
        """Plays from here on whoever held this as well (between `open` and `close`)."""
        self.held += worth(x, mass)
        self.given |= given
        self.taken |= taken


def worth(x: Array, mass: float) -> Array:
    """An estimate as the mass it stands for."""
    return np.append(x.astype(np.float64) * mass, mass)


def under_way(given: Iterable[tuple[Pair, Array]], taken: dict[Pair, Array]) -> Array | float:
    """What was given and is not taken yet, over pairs whose taker has `taken`."""
    return sum((total - taken.get(pair, 0.0) for pair, total in given), 0.0)
