"""What goes around a codec: EF21, two-sided feedback, momentum correction, and the elastic residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..types import Array
from .base import Codec, State

Range = tuple[int, int]


def correct(g: Array, velocity: Array, momentum: float, sent: Array | None = None) -> Array:
    """Momentum before compression (Lin et al. 2018, eq. 4): momentum * velocity + g, zero where last sent."""
    if sent is not None:
        velocity[sent] = 0
    velocity *= np.float32(momentum)
    velocity += g
    return velocity


def advance(codec: Codec, g: Array, state: State, step: int) -> bytes:
    """EF21 (Richtarik et al. 2021, alg. 2): sends C(g - h), h += C(g - h); `state["estimate"]` float32 is h."""
    h = state["estimate"]
    fresh = {name: value for name, value in state.items() if name != "estimate"}
    fresh["residual"][:] = 0
    with np.errstate(invalid="ignore"):
        frame = codec.encode(g - h, fresh, step)
    codec.decode_add(frame, h)
    return frame


def relay(codec: Codec, frames: Sequence[Any], state: State, step: int) -> bytes:
    """The second side: decode what ranks sent, sum in rank order, encode the sum with the owner's own residual."""
    total = np.zeros_like(state["residual"])
    for frame in frames:
        codec.decode_add(frame, total)
    return codec.encode(total, state, step)


def gather(parts: Sequence[Mapping[Range, Array]]) -> dict[Range, Array]:
    """Sum over ranks of residuals keyed by parameter range [start, stop): what a checkpoint keeps, float64, O(n)."""
    total: dict[Range, Array] = {}
    for part in parts:
        for where, e in part.items():
            if len(e) != where[1] - where[0]:
                raise ValueError(f"residual of {where}: found {len(e)} elements")
            total[where] = total[where] + e if where in total else e.astype(np.float64)
    return total


def spread(total: Mapping[Range, Array], ranks: int) -> list[dict[Range, Array]]:
    """The summed residual to `ranks` new ranks, each its own contiguous share: the sum stays, no element is doubled."""
    if ranks < 1:
        raise ValueError(f"spread: expected at least one rank, found {ranks}")
    made: list[dict[Range, Array]] = [{} for _ in range(ranks)]
    for (start, stop), e in total.items():
        edge = [(stop - start) * r // ranks for r in range(ranks + 1)]
        for rank in range(ranks):
            share = np.zeros(stop - start, np.float32)
            share[edge[rank] : edge[rank + 1]] = e[edge[rank] : edge[rank + 1]]
            made[rank][start, stop] = share
    return made
