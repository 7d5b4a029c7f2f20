"""Who reads which feed, and who learns how many of the rows that one rank deals: pure plans, the same on every rank."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from engine.errors import DataError
from engine.types import Array

LEAST_ROWS = 1000  # of work on the fullest rank: below, nobody is late enough for a move to pay
GAIN, STEP = 0.8, 0.98  # the latest rank is left with so much of its work at most, by all moves together and by each


class Held(NamedTuple):
    """What a rank tells: rows a second it learns (0: it has learned none), and rows of work of each feed it could give away;
    `fixed`: work of the others."""

    pace: float
    feeds: Mapping[str, float]
    fixed: float = 0.0


class Move(NamedTuple):
    name: str
    source: int
    target: int


def speeds(pace: Array) -> Array:
    """Paces with the mean of those known where one is not."""
    pace = np.asarray(pace, np.float64)
    pace = np.where(pace > 0, np.maximum(pace, 1e-3), 0)
    known = pace[pace > 0]
    return np.where(pace > 0, pace, known.mean() if len(known) else 1.0)


def shares(rows: int, pace: Array, most: int) -> list[int]:
    """Boundaries of consecutive shares of `rows` in proportion to `pace`, none above `most`."""
    weight = speeds(pace)
    share = np.minimum(np.floor(rows * weight / weight.sum()), most).astype(np.int64)
    left = rows - int(share.sum())
    for rank in np.argsort(-weight, kind="stable").tolist():
        more = min(left, most - int(share[rank]))
        share[rank] += more
        left -= more
    return [0, *np.cumsum(share).tolist()]


def moves(held: Sequence[Held]) -> list[Move]:
    """Feeds that go from the rank with most work for its pace to the one with least, while the most gets clearly less.

    DataError where two ranks say that they read one feed: rows would be learned twice.
    """
    owner: dict[str, int] = {}
    for rank, one in enumerate(held):
        for name in one.feeds:
            if name in owner:
                raise DataError(f"expected one reader of the feed, found ranks {owner[name]} and {rank}", where=name,
                                fix="a defect: start the run again from its checkpoint")
            owner[name] = rank
    pace = speeds(np.array([one.pace for one in held]))
    work = np.array([sum(one.feeds.values()) + one.fixed for one in held], np.float64)
    load = {name: held[rank].feeds[name] for name, rank in owner.items()}
    found: list[Move] = []
    first, most = float((work / pace).max()), float(work.max())
    while True:
        late = work / pace
        full = int(late.argmax())
        best = min(((max((work[full] - load[name]) / pace[full], (work[to] + load[name]) / pace[to]), name, to)
                    for name in sorted(owner) if owner[name] == full and load[name] > 0
                    for to in range(len(held)) if to != full), default=None)
        if best is None or best[0] > STEP * late[full]:
            break
        _, name, to = best
        work[full] -= load[name]
        work[to] += load[name]
        owner[name] = to
        found = [move for move in found if move.name != name] + [Move(name, _first(found, name, full), to)]
    if first == 0 or float((work / pace).max()) > GAIN * first or most < LEAST_ROWS:
        return []
    return [move for move in found if move.source != move.target]


def _first(found: Sequence[Move], name: str, now: int) -> int:
    """The rank that reads the feed before any of the moves."""
    return next((move.source for move in found if move.name == name), now)
