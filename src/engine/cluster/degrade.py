"""What is shed, in which order, where side work costs more than its budget or ranks are short: a plan.

Never shed: rows, votes, the merge, the steps kept in node memory and at partners, and the checkpoints that were asked for.
One measure is taken (or given back) a review, so that the effect of each is seen before the next.
"""
from __future__ import annotations

from dataclasses import dataclass

ORDER = ("report", "replicas", "compression", "traffic")
MEANING = {
    "report": "lines and live views come a quarter as often", "replicas": "every fourth checkpoint is mirrored",
    "compression": "row numbers of increments are written as they are", "traffic": "older checkpoints are not read back",
}
EASE = 0.5  # of the budget: below it a measure is given back
PATIENCE = 3  # reviews in a row that must be below
SHORT = 2  # measures taken at least while ranks are short


@dataclass(frozen=True, slots=True)
class Strain:
    """Since the last review: share of the time that went into side work; ranks there are, and were asked for."""

    side: float
    ranks: int = 1
    asked: int = 1


@dataclass(frozen=True, slots=True)
class Shed:
    """The first `level` measures of `ORDER` are taken; `calm`: reviews in a row with time to spare."""

    level: int = 0
    calm: int = 0
    reason: str = ""

    def has(self, measure: str) -> bool:
        return ORDER.index(measure) < self.level


def review(shed: Shed, seen: Strain, budget: float) -> Shed:
    """What is shed from here on; `reason` says why a measure was taken or given back ("" where none was).

    `budget`: the greatest share of the time for side work; 0 = any.
    """
    least = SHORT if seen.ranks < seen.asked else 0
    if budget and seen.side > budget and shed.level < len(ORDER):
        return Shed(max(shed.level + 1, least), 0, f"side work takes {seen.side:.0%} of the time, {budget:.0%} are allowed")
    if shed.level < least:
        return Shed(least, 0, f"{seen.ranks} ranks of {seen.asked}")
    calm = shed.calm + 1 if not budget or seen.side < EASE * budget else 0
    if shed.level > least and calm >= PATIENCE:
        why = f"side work takes {seen.side:.0%} of the time" if budget else f"{seen.ranks} ranks of {seen.asked}"
        return Shed(shed.level - 1, 0, why)
    return Shed(shed.level, calm)
