"""Elastic averaging: replicas held to a centre by a spring, instead of being made equal (EASGD, Zhang et al. 2015)."""
from __future__ import annotations

import numpy as np

from engine.types import Array


class Elastic:
    """One replica's spring. x and the centre are float arrays of one shape; `pull` in (0, 1] is how far they meet a round.

    A round: `force = elastic(x)` moves x towards the centre and returns what the centre gets from this rank; the sum of all
    ranks' forces (an allreduce) goes to `settle`. With P * pull <= 1 the centre stays within the replicas' range; mass
    P * mean(x) + centre changes by nothing but what is learned.
    """

    def __init__(self, centre: Array, pull: float) -> None:
        if not 0 < pull <= 1:
            raise ValueError(f"elastic: expected a pull in (0, 1], found {pull}")
        self.centre, self.pull = centre.astype(np.float64), pull

    def __call__(self, x: Array) -> Array:
        force: Array = self.pull * (x - self.centre)
        x -= force.astype(x.dtype)
        return force

    def settle(self, forces: Array) -> None:
        """The sum of all ranks' forces moves the centre: the same bytes in, the same centre everywhere."""
        self.centre += forces
