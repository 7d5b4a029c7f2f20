"""Schedules: factors on a change, behind an optimiser."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from engine.types import Policy, State, Step
from engine.update.policy import need, nothing, policy


def _factor(of: Callable[[Step], float]) -> Policy:
    def update(step: Step, state: State) -> None:
        step.g = step.g * np.float32(of(step))

    return Policy(nothing, update)


@policy
def constant(factor: float) -> Policy:
    """The same factor at each step."""
    return _factor(lambda step: factor)


@policy
def inverse(steps: float, power: float = 0.5) -> Policy:
    """(1 + t / steps) ^ -power at step t."""
    need(steps > 0, f"inverse: expected steps > 0, found {steps}")
    return _factor(lambda step: (1 + step.number / steps) ** -power)


@policy
def cosine(steps: int, floor: float = 0.0, restart: bool = False) -> Policy:
    """Half a cosine from 1 to `floor` over `steps`, then `floor`, or from 1 again."""
    need(steps > 0 and 0 <= floor <= 1, "cosine: expected steps > 0 and 0 <= floor <= 1")

    def factor(step: Step) -> float:
        at = (step.number % steps if restart else min(step.number, steps)) / steps
        return floor + (1 - floor) * (1 + math.cos(math.pi * at)) / 2

    return _factor(factor)


@policy
def warm(steps: int) -> Policy:
    """From 0 to 1 over the first steps."""
    need(steps > 0, f"warm: expected steps > 0, found {steps}")
    return _factor(lambda step: min(1.0, (step.number + 1) / steps))


@policy
def stale(scale: float = 256.0) -> Policy:
    """1 / (1 + age / scale): the further the other workers have gone on since the base, the smaller the step."""
    need(scale > 0, f"stale: expected scale > 0, found {scale}")
    return _factor(lambda step: 1 / (1 + step.age / scale))
