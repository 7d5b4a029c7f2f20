"""Dense gradient codecs: block-scaled codes, narrow floats and shared-scale integers, one pass over g and the residual."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import FrameError
from ..kernels.plain.quant import BITS, SMALLEST, key_of, payload_size
from ..kernels.table import ops
from ..types import Array
from .base import Codec, Opened, Parts, State, codec, register, residual, source

BLOCKS = {"sign": 2304}  # elements a scale, else 1024: g and e of a block stay in 32 KiB of L1 between its two passes
LEVELS = {8: 127, 4: 7, 2: 1}


class Dense(Codec):
    """Codes of every element. `codes` and `add_codes` also serve a sparse or low-rank codec for its values."""

    def layout(self, n: int) -> list[int]:
        """Bytes of each chunk of n elements: known before they are coded, so a frame is written in place."""
        raise NotImplementedError

    def codes(self, g: Array | None, e: Array, step: int, room: list[Array]) -> Parts:
        """C(g + e), or C(e) where g is None, into `room`, uint8 of that layout; e becomes the difference."""
        raise NotImplementedError

    def rooms(self, n: int) -> list[Array]:
        return [np.empty(size, np.uint8) for size in self.layout(n)]

    def add_codes(self, opened: Opened, at: int, acc: Array) -> None:
        """acc += values of the chunks from number `at` on."""
        raise NotImplementedError

    def bits(self, n: int) -> float:
        """Payload bits of n elements."""
        raise NotImplementedError

    def parts(self, g: Array, state: State, step: int, room: list[Array]) -> Parts:
        return self.codes(source(g), residual(state, g.size), step, room)

    def add(self, opened: Opened, acc: Array) -> None:
        self.add_codes(opened, 0, acc)

    def ratio(self, n: int) -> float:
        return 32 * n / max(1.0, self.bits(n))


class Valued(Codec):
    """A codec whose values are coded by a dense codec, `default` where none is chosen; a chain can still choose."""

    default = "f32"
    word = ""  # the name without that of the values

    def __init__(self, values: str | Dense | None) -> None:
        self.use(values or self.default)
        self.chosen = values is not None

    def use(self, values: str | Dense) -> None:
        made = codec(values) if isinstance(values, str) else values
        if not isinstance(made, Dense):
            raise ValueError(f"{self.word}: values {values}: expected a dense codec such as f32, bf16, fp8 or int8")
        self.values, self.chosen = made, True
        self.name = f"{self.word}.{made.name}"


class Quant(Dense):
    """Codes of `mode` with a scale every `block` elements; stochastic modes (`..s`) draw from (seed, step, stream)."""

    def __init__(self, mode: str, block: int = 0, seed: int = 0, stream: int = 0) -> None:
        if mode not in BITS:
            raise ValueError(f"quant: mode {mode}, expected one of {', '.join(BITS)}")
        block = block or BLOCKS.get(mode, 1024)
        if not 64 <= block <= 4096 or block % 64:
            raise ValueError(f"quant: block {block}, expected a multiple of 64 up to 4096")
        self.name = self.mode = mode
        self.block, self.seed, self.stream, self.unbiased = block, seed, stream, mode.endswith("s")

    def layout(self, n: int) -> list[int]:
        return [payload_size(self.mode, n), 4 * -(-n // self.block)]

    def codes(self, g: Array | None, e: Array, step: int, room: list[Array]) -> Parts:
        key = key_of(self.seed, step, self.stream) if self.unbiased else 0
        bad = ops.quant_encode(self.mode, g, e, self.block, room[0], room[1].view(np.float32), key)
        return Parts(room, block=self.block, bad=bad)

    def add_codes(self, opened: Opened, at: int, acc: Array) -> None:
        block = opened.block
        if not 64 <= block <= 4096 or block % 64:
            raise FrameError(f"quant: block {block}, expected a multiple of 64 up to 4096")
        codes = opened.chunk(at, np.uint8, payload_size(self.mode, acc.size))
        scales = opened.chunk(at + 1, np.float32, -(-acc.size // block))
        if not np.isfinite(scales).all():
            raise FrameError(f"quant: scale {scales[~np.isfinite(scales)][0]}")
        ops.quant_decode_add(self.mode, codes, scales, block, acc)

    def bits(self, n: int) -> float:
        return 8 * payload_size(self.mode, n) + 32 * -(-n // self.block)

    def contraction(self, n: int) -> float:
        """With m elements a block and L levels.

        sign: |x|_1^2 / (m |x|_2^2) >= 1/m (Karimireddy et al. 2019, def. 3).  ternary: 1 / (m + 6), as what is left out
        weighs at most .7 of the mean.  Nearest: no element grows and the greatest is exact, 1/m; each error is at most half
        a step, 1 - m / (4 L^2).  Stochastic: w = min(m / (4 L^2), sqrt(m) / L) (Alistarh et al. 2017, lemma 3.1).
        """
        m = max(1, min(n, self.block))
        if self.mode in ("sign", "ternary"):
            return 1 / m if self.mode == "sign" else 1 / (m + 6)
        levels = LEVELS[BITS[self.mode]]
        if self.unbiased:
            return -min(m / 4 / levels**2, m**0.5 / levels)
        return max(1 / m, 1 - m / 4 / levels**2)


class Narrow(Dense):
    """bf16, fp16 or fp8 (e4m3), nearest even, saturating."""

    def __init__(self, mode: str) -> None:
        self.name = self.mode = mode
        self.size = 1 if mode == "fp8" else 2

    def layout(self, n: int) -> list[int]:
        return [n * self.size]

    def codes(self, g: Array | None, e: Array, step: int, room: list[Array]) -> Parts:
        return Parts(room, bad=ops.cast_encode(self.mode, g, e, room[0]))

    def add_codes(self, opened: Opened, at: int, acc: Array) -> None:
        ops.cast_decode_add(self.mode, opened.chunk(at, np.uint8, acc.size * self.size), acc)

    def bits(self, n: int) -> float:
        return 8 * self.size * n

    def contraction(self, n: int) -> float:
        """bf16: half an ulp of 8 bits, for elements of 2^-126 or more. Else none: small ones vanish, large ones saturate."""
        return 1 - 2.0**-16 if self.mode == "bf16" else 0.0


@register("f32")
class Whole(Dense):
    """float32 as it is: the identity of the chains."""

    name = "f32"

    def layout(self, n: int) -> list[int]:
        return [4 * n]

    def codes(self, g: Array | None, e: Array, step: int, room: list[Array]) -> Parts:
        index, value = np.empty(64, np.uint32), np.empty(64, np.float32)
        bad = ops.threshold_encode(g, e, 0, np.inf, index, value)[2] if g is not None else 0
        room[0].view(np.float32)[:] = e
        e[:] = 0
        return Parts(room, bad=bad)

    def add_codes(self, opened: Opened, at: int, acc: Array) -> None:
        ops.add(opened.chunk(at, np.float32, acc.size), acc)

    def bits(self, n: int) -> float:
        return 32 * n

    def contraction(self, n: int) -> float:
        return 1.0


@register("shared")
class Shared(Dense):
    """Integers of `bits` at one scale for all `ranks`, so that a native MPI_SUM of the codes is the sum of the values.

    Each rank: `top = allreduce(peak(g, state), max)`, `integers(g, state, top)`, allreduce(sum), `add_sum(total, top, acc)`.
    `encode` alone uses its own peak, or `state["top"]` float32 `(1,)` where that is positive.
    """

    def __init__(self, bits: int = 8, ranks: int = 1) -> None:
        if bits not in (8, 16, 32) or ranks < 1:
            raise ValueError(f"shared: expected 8, 16 or 32 bits and at least one rank, found {bits} and {ranks}")
        self.width, self.ranks = bits, ranks
        self.levels = {8: 127, 16: 32767, 32: 1 << 21}[bits] // (ranks if bits < 32 else -(-ranks // 1023))
        if self.levels < 1:
            raise ValueError(f"shared: {bits} bits hold no sum of {ranks} ranks: use {2 * bits} bits")
        self.name = f"shared{bits}"

    def init(self, n: int) -> State:
        return {"residual": np.zeros(n, np.float32), "top": np.zeros(1, np.float32)}

    def peak(self, g: Array, state: State) -> float:
        """Greatest finite |g + residual|: the maximum over ranks of it is the common `top`."""
        return float(ops.shared_peak(source(g), residual(state, g.size)))

    def integers(self, g: Array, state: State, top: float) -> Array:
        """int8, int16 or int32 `(n,)`, at most `levels` each; the residual keeps the rest."""
        codes = np.empty(g.size, f"i{self.width // 8}")
        ops.shared_encode(source(g), residual(state, g.size), top, self.levels, codes.view(np.uint8), self.width)
        return codes

    def add_sum(self, total: Array, top: float, acc: Array) -> None:
        ops.shared_add(total.view(np.uint8), step_of(top, self.levels), acc, self.width)

    def parts(self, g: Array, state: State, step: int, room: list[Array]) -> Parts:
        top = float(state["top"][0]) or self.peak(g, state)
        bad = ops.shared_encode(source(g), residual(state, g.size), top, self.levels, room[0], self.width)
        room[1].view(np.float32)[0] = top
        return Parts(room, block=self.levels, bad=bad)

    def layout(self, n: int) -> list[int]:
        return [n * self.width // 8, 4]

    def codes(self, g: Array | None, e: Array, step: int, room: list[Array]) -> Parts:
        return self.parts(np.zeros(len(e), np.float32) if g is None else g, {"residual": e, "top": np.zeros(1)}, step, room)

    def add_codes(self, opened: Opened, at: int, acc: Array) -> None:
        codes = opened.chunk(at, np.uint8, acc.size * self.width // 8)
        top = float(opened.chunk(at + 1, np.float32, 1)[0])
        if opened.block < 1 or not np.isfinite(top):
            raise FrameError(f"shared: {opened.block} levels up to {top}")
        ops.shared_add(codes, step_of(top, opened.block), acc, self.width)

    def bits(self, n: int) -> float:
        return self.width * n + 32


def step_of(top: float, levels: int) -> float:
    """The value of one level."""
    return float(np.float32(top) / np.float32(levels)) if top >= SMALLEST else 0.0


def _named(kind: type, mode: str) -> Any:
    return lambda **options: kind(mode, **options)


for _mode in BITS:
    register(_mode)(_named(Quant, _mode))
for _mode in ("bf16", "fp16", "fp8"):
    register(_mode)(_named(Narrow, _mode))
