"""How much staleness a run allows and how often it exchanges, from what it measures: a plan. Every rank decides alike.

Waiting costs rows, and so do exchanges; staleness and long intervals may cost loss, and make news late. A review moves one
thing at a time, and says why: while ranks wait for one another it loosens the bound, while exchanges take much of the time
it lengthens the interval. Where the loss has risen beyond the user's budget since the last review in lock-step at the
user's interval, updates first count by their age and steps shrink with it, then the bound and the interval come back.
Where news is later than the user wants, the interval is shortened, then the bound.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

WAIT, PATIENT = 0.15, 0.05  # share of time spent waiting or exchanging: loosen above, content below
MOST, HOLD = 16, 4  # greatest bound; reviews without loosening after the loss has risen
LONGEST = 4  # doublings of the interval


@dataclass(frozen=True, slots=True)
class Review:
    """A point at which all ranks stand alike and look at what they measured."""


@dataclass(frozen=True, slots=True)
class Budget:
    """`loss` that staleness and long intervals may cost; `fresh_s`: within which an example is to be visible everywhere
    (0 = not asked)."""

    loss: float = 0.005
    fresh_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Since the last review, over all ranks: mean share of time waiting, mean loss, measured staleness in rounds, mean share
    of time exchanging, and the time until an example is visible everywhere, the slowest rank's."""

    wait: float
    loss: float
    stale: float = 0.0
    merge: float = 0.0
    fresh_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """`bound` 0 = lock-step. The interval is the user's times 2^`scale`. `eased`: updates count by age, steps shrink with it.
    `loss`: at the last review in lock-step at the user's interval; `hold`: reviews left before loosening again."""

    bound: int = 0
    scale: int = 0
    eased: bool = False
    loss: float = float("inf")
    hold: int = 0
    reason: str = "start in lock-step"


def review(pace: Pace, seen: Measured, budget: Budget, least: int = 0) -> Pace:
    """The pace from here on; `reason` says why it changed ("" where it did not). `least`: the interval's least `scale`."""
    hold = max(0, pace.hold - 1)
    strict = not pace.bound and pace.scale <= 0
    if not strict and seen.loss > pace.loss + budget.loss:
        return _tighter(replace(pace, hold=HOLD, reason=f"loss {seen.loss:.4f} is more than {budget.loss:g} above "
                                                        f"{pace.loss:.4f} in lock-step"), seen)
    pace = replace(pace, hold=hold, loss=seen.loss if strict else pace.loss, eased=pace.eased and pace.bound > 0)
    late = budget.fresh_s and seen.fresh_s > budget.fresh_s
    if late and (pace.scale > least or pace.bound):
        why = f"an example is visible everywhere after {1e3 * seen.fresh_s:.3g} ms, {1e3 * budget.fresh_s:.3g} asked"
        if pace.scale > least:
            return replace(pace, scale=pace.scale - 1, reason=why)
        return replace(pace, bound=pace.bound // 2, reason=why)
    if seen.wait > WAIT and not hold and pace.bound < MOST and not late:
        return replace(pace, bound=max(1, 2 * pace.bound), reason=f"ranks wait {seen.wait:.0%} of the time")
    roomy = not budget.fresh_s or 2 * seen.fresh_s < budget.fresh_s
    if seen.merge > WAIT and not hold and pace.scale < LONGEST and roomy:
        return replace(pace, scale=pace.scale + 1, reason=f"exchanges take {seen.merge:.0%} of the time")
    if pace.bound and seen.wait < PATIENT and seen.stale < 0.5 * pace.bound:
        return replace(pace, bound=pace.bound - 1, hold=max(hold, 1),
                       reason=f"ranks wait {seen.wait:.0%} of the time and reads miss {seen.stale:.1f} rounds")
    if pace.scale > 0 and seen.merge < PATIENT / 2:
        return replace(pace, scale=pace.scale - 1, reason=f"exchanges take {seen.merge:.1%} of the time")
    return replace(pace, reason="")


def _tighter(pace: Pace, seen: Measured) -> Pace:
    """The least change that may bring the loss back."""
    if pace.bound and seen.stale > 0 and not pace.eased:
        return replace(pace, eased=True)
    if pace.bound:
        return replace(pace, bound=pace.bound // 2 if pace.bound > 1 else 0)
    return replace(pace, scale=pace.scale - 1)
