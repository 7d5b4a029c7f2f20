"""Deltas of two versions: what XOR + blosc2-zstd makes of an Adam step, and the memory speed it is held to."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.peers import Peer, peer
from bench.registry import Setting, case
from bench.row import Row, row
from bench.timing import alone, paired
from engine.types import Array

LARGE = 1 << 24


def adam_step(n: int, rate: float, seed: int = 3) -> tuple[Array, Array]:
    """Two successive float32 versions of n weights under Adam near convergence: base, and base after one step."""
    draw = np.random.default_rng(seed)
    base = draw.standard_normal(n, dtype=np.float32) * np.float32(0.03)
    first = draw.standard_normal(n, dtype=np.float32)
    second = np.abs(draw.standard_normal(n, dtype=np.float32)) + np.float32(0.5)
    return base, base - np.float32(rate) * np.float32(0.3) * first / second


@case("delta", "adam1e-5")
def adam(setting: Setting) -> Iterator[Row]:
    """XOR + blosc2-zstd, encode and decode, as the figures to beat; the native delta has no kernel in this build."""
    base, new = adam_step(LARGE, 1e-5)
    note = "the native delta is not in this build"
    copy = np.empty_like(base)
    for name, direction in (("adam1e-5", "encode"), ("adam1e-5.decode", "decode")):
        with peer("xor", n=LARGE, rate=1e-5, direction=direction) as xor:
            if not isinstance(xor, Peer):
                yield row(name, None, "s", "xor + blosc2-zstd", note=f"{note}; {xor}")
                continue
            pair = paired(lambda: np.copyto(copy, new), xor, 3, setting.seconds)
            yield row(name, None, "s", "xor + blosc2-zstd", pair.theirs.median(), note=note,
                      spread=pair.theirs.spread(), memcpy_s=pair.ours.median(),
                      baseline_size_ratio=4 * LARGE / pair.theirs.result["bytes"])


@case("delta", "memcpy")
def memcpy(setting: Setting) -> Iterator[Row]:
    """The copy of n float32, read and written."""
    base, copy = np.ones(LARGE, np.float32), np.empty(LARGE, np.float32)
    series = alone(lambda: np.copyto(copy, base), setting.rounds, 4)
    yield row("memcpy", 8 * LARGE / series.median() / 1e9, "GB/s", "none", spread=series.spread())
