"""What the codecs are measured against in this process: `e += g`, and error feedback written in plain NumPy."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.types import Array

BLOCK = 1024


def heavy(n: int, seed: int = 1) -> Array:
    """Heavy-tailed float32 gradients: a gaussian cubed, scaled to about 1e-3."""
    x = np.random.default_rng(seed).standard_normal(n, dtype=np.float32)
    return np.asarray(x * x * x * np.float32(1e-3))


def sign(g: Array, e: Array) -> tuple[Array, Array]:
    """Sign with the mean magnitude of each block; e becomes what was not sent."""
    np.add(e, g, out=e)
    blocks = e.reshape(-1, BLOCK)
    scale = np.abs(blocks).mean(1, dtype=np.float32)
    bits = np.packbits(blocks < 0)
    blocks -= np.copysign(scale[:, None], blocks)
    return bits, scale


def int8(g: Array, e: Array) -> tuple[Array, Array]:
    """Nearest rounding to 8 bits with the largest magnitude of each block as scale."""
    np.add(e, g, out=e)
    blocks = e.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(1) / np.float32(127)
    code = np.rint(blocks / np.maximum(scale, np.float32(1e-30))[:, None]).astype(np.int8)
    blocks -= code * scale[:, None]
    return code, scale


def int8_stochastic(draw: np.random.Generator) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The same with stochastic rounding."""
    def encode(g: Array, e: Array) -> tuple[Array, Array]:
        np.add(e, g, out=e)
        blocks = e.reshape(-1, BLOCK)
        scale = np.abs(blocks).max(1) / np.float32(127)
        scaled = blocks / np.maximum(scale, np.float32(1e-30))[:, None]
        code = np.floor(scaled + draw.random(scaled.shape, dtype=np.float32)).astype(np.int8)
        blocks -= code * scale[:, None]
        return code, scale
    return encode


def topk(g: Array, e: Array, k: int) -> tuple[Array, Array]:
    """The k largest magnitudes by argpartition, with its `e += g` and abs."""
    np.add(e, g, out=e)
    at = np.argpartition(np.abs(e), len(e) - k)[len(e) - k :]
    values = e[at]
    e[at] = 0
    return at, values
