"""What goes around a codec: EF21, two-sided feedback, momentum correction, and the elastic residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..types import Array
from .base import Codec, Opened, State, floats
from .frame import decode_frame
from .sparse import Rows, Sparse

Range = tuple[int, int]


class Ef21(Codec):
    """EF21 (Richtarik et al. 2021, alg. 2): sends C(g - h), then h += C(g - h) on both ends.

    `state["estimate"]` float32 `(n,)` is h, and so is the receiver's `acc`, which starts at 0.
    """

    def __init__(self, inner: Codec) -> None:
        self.inner, self.family, self.name, self.seed = inner, inner.family, inner.name, inner.seed

    def init(self, n: int) -> State:
        return self.inner.init(n) | {"estimate": np.zeros(n, np.float32)}

    def encode(self, g: Array, state: State, step: int) -> bytes:
        return advance(self.inner, g, state, step)

    def decode_add(self, frame: Any, acc: Array) -> None:
        self.inner.decode_add(frame, acc)

    def ratio(self, n: int) -> float:
        return self.inner.ratio(n)

    def contraction(self, n: int) -> float:
        return self.inner.contraction(n)


class Momentum(Codec):
    """Momentum correction (Lin et al. 2018, eq. 4): velocity = momentum velocity + g is what is compressed.

    Behind a sparse codec the velocity is zeroed where it was sent (their factor masking, sec. 3.2): what waits keeps its
    momentum, what went does not push twice.
    """

    def __init__(self, inner: Codec, momentum: float = 0.9) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: {momentum} not in [0, 1)")
        self.inner, self.momentum = inner, momentum
        self.family, self.name, self.seed = inner.family, inner.name, inner.seed

    def init(self, n: int) -> State:
        return self.inner.init(n) | {"velocity": np.zeros(n, np.float32)}

    def encode(self, g: Array, state: State, step: int) -> bytes:
        velocity = state["velocity"]
        x = floats(g)
        correct(np.where(np.isfinite(x), x, np.float32(0)), velocity, self.momentum)
        frame = self.inner.encode(velocity.reshape(g.shape), state, step)
        velocity[sent(self.inner, frame, g.size)] = 0
        return frame

    def decode_add(self, frame: Any, acc: Array) -> None:
        self.inner.decode_add(frame, acc)

    def ratio(self, n: int) -> float:
        return self.inner.ratio(n)

    def contraction(self, n: int) -> float:
        return self.inner.contraction(n)


def sent(codec: Codec, frame: Any, n: int) -> Array:
    """Index of every element that the frame of a sparse codec (packed or not) carries; empty for a dense one."""
    codec = getattr(codec, "inner", codec)
    if not isinstance(codec, Sparse):
        return np.empty(0, np.uint32)
    opened = Opened(decode_frame(frame), codec.family, codec.name, n)
    if not isinstance(codec, Rows):
        return codec.indices(opened, n)
    row = codec.indices(opened, n // codec.width).astype(np.int64)
    return (row[:, None] * codec.width + np.arange(codec.width)).reshape(-1)


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
        frame = codec.encode(floats(g) - h, fresh, step)
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


def spread(total: Mapping[Range, Array], ranks: int, *, before: int = 0) -> list[dict[Range, Array]]:
    """The summed residual to `ranks` new ranks, each its own contiguous share: the sum stays, no element is doubled.

    Where updates are averaged over ranks, give the number of ranks `before`: the sum then grows by ranks / before, so
    that the averaged iterate x - (rate / ranks) sum(e) is what it was.
    """
    if ranks < 1 or before < 0:
        raise ValueError(f"spread: expected at least one rank, found {ranks}, before {before}")
    scale = ranks / before if before else 1.0
    made: list[dict[Range, Array]] = [{} for _ in range(ranks)]
    for (start, stop), e in total.items():
        edge = [(stop - start) * r // ranks for r in range(ranks + 1)]
        for rank in range(ranks):
            share = np.zeros(stop - start, np.float32)
            share[edge[rank] : edge[rank + 1]] = e[edge[rank] : edge[rank + 1]] * scale
            made[rank][start, stop] = share
    return made
