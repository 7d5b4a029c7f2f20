"""Chains of codecs, `topk | int8 | pack`: one frame, and error feedback against the value that is finally decoded.

Only pairs that are registered can be joined, and each is fused: `first | dense` codes the values of a sparse or low-rank
codec, whose loss returns to the same residual in the same pass; `any | pack` compresses the chunks without loss.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from ..types import Array
from .base import PACKED, Codec, Opened, Parts, State, register
from .lowrank import Lowrank
from .quant import Dense
from .sparse import Sparse

Join = Callable[[Any, Any], Codec]
FUSED: dict[tuple[type, type], Join] = {}


def fuse(first: type, second: type) -> Callable[[Join], Join]:
    """Function decorator: how a codec of class `first` followed by one of class `second` becomes one codec."""

    def add(made: Join) -> Join:
        FUSED[first, second] = made
        return made

    return add


def join(first: Codec, second: Codec) -> Codec:
    """`first | second`; ValueError says what can follow `first`."""
    for one in type(first).__mro__:
        for two in type(second).__mro__:
            if (one, two) in FUSED:
                return FUSED[one, two](first, second)
    can = sorted({two.__name__.lower() for one, two in FUSED if isinstance(first, one)})
    raise ValueError(f"chain: {second.name or type(second).__name__} cannot follow {first.name}: expected {', '.join(can)}")


@register("pack")
class Pack(Codec):
    """The last stage of a chain: every chunk by zstd, lz4 or lzma where that is shorter. No codec by itself."""

    def __init__(self, codec: str = "zstd", level: int = 1) -> None:
        self.name, self.level, self.by = "pack", level, codec

    def init(self, n: int) -> State:
        raise ValueError("pack: no codec by itself: put it behind one, as in `int8 | pack`")


class Packed(Codec):
    """A codec whose chunks are compressed."""

    def __init__(self, inner: Codec, pack: Pack) -> None:
        self.inner, self.pack = inner, pack
        self.family, self.name, self.seed = inner.family, inner.name, inner.seed
        self.unbiased = inner.unbiased

    def init(self, n: int) -> State:
        return self.inner.init(n)

    def parts(self, g: Array, state: State, step: int, room: list[Array]) -> Parts:
        from .pack import pack_encode

        made = self.inner.parts(g, state, step, [np.empty(size, np.uint8) for size in self.inner.layout(g.size)])
        made.modes, made.items = [0] * len(made.chunks), [0] * len(made.chunks)
        for at, chunk in enumerate(made.chunks):
            packed = pack_encode(chunk, 1, codec=self.pack.by, level=self.pack.level)
            if len(packed) < chunk.nbytes:
                made.modes[at], made.items[at] = PACKED, chunk.nbytes
                made.chunks[at] = memoryview(packed)
        return made

    def add(self, opened: Opened, acc: Array) -> None:
        self.inner.add(opened, acc)

    def ratio(self, n: int) -> float:
        """At least that of the codec behind it."""
        return self.inner.ratio(n)

    def contraction(self, n: int) -> float:
        return self.inner.contraction(n)


@fuse(Sparse, Dense)
@fuse(Lowrank, Dense)
def values(first: Any, second: Dense) -> Codec:
    """Values of `first` coded by `second`: one residual, which takes back what `second` loses."""
    if first.chosen:
        raise ValueError(f"chain: {first.name} has codes for its values already")
    made: Codec = copy(first)
    made.use(second)  # type: ignore[attr-defined]
    return made


@fuse(Codec, Pack)
def packed(first: Codec, second: Pack) -> Codec:
    if isinstance(first, Packed):
        raise ValueError(f"chain: {first.name} is packed already")
    return Packed(first, second)
