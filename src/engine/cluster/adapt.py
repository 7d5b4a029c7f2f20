"""How much staleness a run allows, from what it measures: a plan. Every rank gets the same figures and decides alike.

Waiting costs rows, staleness may cost loss. A review loosens the bound while ranks wait for one another, and tightens it
when the loss has risen by more than the user's budget since the last review in lock-step; then it holds off for a while.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

WAIT, PATIENT = 0.15, 0.05  # share of time spent waiting: loosen above, content below
MOST, HOLD = 16, 4  # greatest bound; reviews without loosening after the loss has risen


@dataclass(frozen=True, slots=True)
class Review:
    """A point at which all ranks stand alike and look at what they measured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Since the last review, over all ranks: mean share of time waiting, mean loss, measured staleness in rounds."""

    wait: float
    loss: float
    stale: float = 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """`bound` 0 = lock-step. `loss`: at the last review in lock-step; `hold`: reviews left before loosening again."""

    bound: int = 0
    loss: float = float("inf")
    hold: int = 0
    reason: str = "start in lock-step"


def review(pace: Pace, seen: Measured, budget: float) -> Pace:
    """The pace from here on; `reason` says why it changed ("" where it did not)."""
    hold = max(0, pace.hold - 1)
    if pace.bound and seen.loss > pace.loss + budget:
        return replace(pace, bound=pace.bound // 2 if pace.bound > 1 else 0, hold=HOLD,
                       reason=f"loss {seen.loss:.4f} is more than {budget:g} above {pace.loss:.4f} in lock-step")
    loss = seen.loss if not pace.bound else pace.loss
    if seen.wait > WAIT and not hold and pace.bound < MOST:
        bound = max(1, 2 * pace.bound)
        return replace(pace, bound=bound, loss=loss, hold=hold, reason=f"ranks wait {seen.wait:.0%} of the time")
    if pace.bound and seen.wait < PATIENT and seen.stale < 0.5 * pace.bound:
        return replace(pace, bound=pace.bound - 1, loss=loss, hold=max(hold, 1),
                       reason=f"ranks wait {seen.wait:.0%} of the time and reads miss {seen.stale:.1f} rounds")
    return replace(pace, loss=loss, hold=hold, reason="")
