"""Quantised gradient codecs: block-scaled codes with error feedback, one pass over g and the residual."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import FrameError
from ..kernels import _native
from ..kernels.plain.quant import BITS, key_of, payload_size
from ..types import Array
from .base import Opened, State, floats, register, residual, seal

BLOCKS = {"sign": 2304}  # elements a scale, else 1024: g and e of a block stay in 32 KiB of L1 between its two passes


class Quant:
    """Codes of `mode` with a scale every `block` elements; stochastic modes (`..s`) draw from (seed, step, stream)."""

    def __init__(self, mode: str, block: int = 0, seed: int = 0, stream: int = 0) -> None:
        if mode not in BITS:
            raise ValueError(f"quant: mode {mode}, expected one of {', '.join(BITS)}")
        self.mode, self.block = mode, block or BLOCKS.get(mode, 1024)
        self.seed, self.stream, self.unbiased = seed, stream, mode.endswith("s")

    def init(self, n: int) -> State:
        return {"residual": np.zeros(n, np.float32)}

    def encode(self, g: Array, state: State, step: int) -> bytes:
        x = floats(g)
        e = residual(state, len(x))
        codes, scales = (
            np.empty(payload_size(self.mode, len(x)), np.uint8),
            np.empty(-(-len(x) // self.block), np.float32),
        )
        bad = _native.quant_encode(self.mode, x, e, self.block, codes, scales, key_of(self.seed, step, self.stream))
        return seal("quant", self.mode, g, [codes, scales], block=self.block, seed=self.seed, step=step, bad=bad)

    def decode_add(self, frame: Any, acc: Array) -> None:
        """acc float32 += decoded values; FrameError on a frame of another codec, block or size."""
        opened = Opened(frame, "quant", self.mode, acc.size)
        block = opened.block
        if not 64 <= block <= 4096 or block % 64:
            raise FrameError(f"quant: block {block}, expected a multiple of 64 up to 4096")
        codes = opened.chunk(0, np.uint8, payload_size(self.mode, acc.size))
        scales = opened.chunk(1, np.float32, -(-acc.size // block))
        _native.quant_decode_add(self.mode, codes, scales, block, acc.reshape(-1))

    def ratio(self, n: int) -> float:
        return 4 * n / max(1, payload_size(self.mode, n) + 4 * -(-n // self.block))

    def contraction(self, n: int) -> float:
        """L1 sign and ternary: 1/block. Nearest absmax: the top element is exact, so 1/block. Stochastic: -w."""
        size = max(1, min(n, self.block))
        levels = {8: 127, 4: 7}.get(BITS[self.mode], 1)
        return -(size / 4 / levels**2 if levels > 1 else size) if self.unbiased else 1 / size


class Narrow:
    """bf16, fp16 or fp8 (e4m3) with error feedback."""

    unbiased = False

    def __init__(self, mode: str) -> None:
        self.mode, self.size = mode, 1 if mode == "fp8" else 2

    def init(self, n: int) -> State:
        return {"residual": np.zeros(n, np.float32)}

    def encode(self, g: Array, state: State, step: int) -> bytes:
        x = floats(g)
        codes = np.empty(len(x) * self.size, np.uint8)
        bad = _native.cast_encode(self.mode, x, residual(state, len(x)), codes)
        return seal("quant", self.mode, g, [codes], step=step, bad=bad)

    def decode_add(self, frame: Any, acc: Array) -> None:
        codes = Opened(frame, "quant", self.mode, acc.size).chunk(0, np.uint8, acc.size * self.size)
        _native.cast_decode_add(self.mode, codes, acc.reshape(-1))

    def ratio(self, n: int) -> float:
        return 4 / self.size

    def contraction(self, n: int) -> float:
        """No relative bound below the smallest subnormal or above the largest value, so 0."""
        return 0.0


def _named(kind: type, mode: str) -> Any:
    return lambda **options: kind(mode, **options)


for _mode in BITS:
    register(_mode)(_named(Quant, _mode))
for _mode in ("bf16", "fp16", "fp8"):
    register(_mode)(_named(Narrow, _mode))
