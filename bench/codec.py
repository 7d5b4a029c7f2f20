"""Gradient codecs with error feedback, one thread, float32 heavy-tailed, beside `e += g` on the same core.

Ratios are our time over the baseline's: 1.0 beside `e += g` means that compressing costs what adding costs.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import numpy as np

from bench import yardstick
from bench.machine import available
from bench.peers import Peer, peer
from bench.registry import Missing, Setting, case, versus
from bench.row import Row, row
from bench.timing import paired
from engine.kernels import _native

LARGE = 1 << 24
BLOCKS = {"sign": 2304}  # elements a scale; 1024 for the others
MODES = {"ef.sign": ("sign", 1), "ef.int4": ("int4", 4), "ef.int8": ("int8", 8), "ef.int8.stochastic": ("int8s", 8)}
LIMITS = {"ef.sign": 1.25, "ef.int4": 1.25, "ef.int8": 1.25, "ef.int8.stochastic": 1.5}
SIZES = {"ef.sign": 31.5, "ef.int4": 7.8, "ef.int8": 3.95}


class Encoder:
    """One error-feedback quantiser over n elements: its gradient, residual and payload, and what adding costs."""

    def __init__(self, name: str, n: int = LARGE, seed: int = 1) -> None:
        if not hasattr(_native, "quant_encode"):
            raise Missing("the native quantisers are not in this build")
        self.mode, self.bits = MODES[name]
        self.n, self.step, self.block = n, 0, BLOCKS.get(self.mode, yardstick.BLOCK)
        self.g, self.e = yardstick.heavy(n, seed), np.zeros(n, np.float32)
        self.twin, self.acc = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self.out = np.empty(-(-n // 64) * 8 * self.bits, np.uint8)
        self.scales = np.empty(-(-n // self.block), np.float32)

    def encode(self) -> None:
        self.step += 1
        _native.quant_encode(self.mode, self.g, self.e, self.block, self.out, self.scales, self.step)

    def decode(self) -> None:
        _native.quant_decode_add(self.mode, self.out, self.scales, self.block, self.acc)

    def add(self) -> None:
        _native.add(self.g, self.twin)

    @property
    def size_ratio(self) -> float:
        return 4 * self.n / (self.out.nbytes + self.scales.nbytes)


def quantiser(name: str) -> Callable[[Setting], Iterator[Row]]:
    """Encoding beside `e += g`, with its size and the link speed below which encode + decode pays."""
    def rows(setting: Setting) -> Iterator[Row]:
        made = Encoder(name)
        bars = {"ratio": f"<= {LIMITS[name]}"} | ({"size": f">= {SIZES[name]}"} if name in SIZES else {})
        yield versus(setting, name, "e += g", made.encode, made.add, bars=bars, size=made.size_ratio,
                     elements=made.n)
        both = paired(made.encode, made.decode, 5, 4)
        seconds = both.ours.median() + both.theirs.median()
        saved = 4 * made.n * 8 * (1 - 1 / made.size_ratio)
        yield row(f"{name}.break-even", saved / seconds / 1e9, "Gb/s a core", "none", bars={"value": ">= 50"},
                  encode_s=both.ours.median(), decode_s=both.theirs.median())
        if name == "ef.int8.stochastic":
            small = Encoder(name, 1 << 20)
            yield versus(setting, f"{name}.L3", "e += g", small.encode, small.add, bars={"ratio": "<= 2.5"})
    return rows


for known in MODES:
    case("codec", known)(quantiser(known))


def numpy_rows(name: str, theirs: Callable[[Any, Any], Any], bar: str) -> None:
    @case("codec", f"{name}.numpy")
    def rows(setting: Setting) -> Iterator[Row]:
        made = Encoder(name)
        yield versus(setting, name, "numpy", made.encode, lambda: theirs(made.g, made.twin), bars={"ratio": bar})


numpy_rows("ef.sign", yardstick.sign, "<= 0.0714")
numpy_rows("ef.int8", yardstick.int8, "<= 0.0714")
numpy_rows("ef.int8.stochastic", yardstick.int8_stochastic(np.random.default_rng(2)), "<= 0.025")


@case("codec", "quant.int8.nearest")
def quant_nearest(setting: Setting) -> Iterator[Row]:
    """Plain 8-bit affine quantisation with given parameters, no error feedback: both sides do the same work."""
    if not hasattr(_native, "quantise"):
        raise Missing("the native quantisers are not in this build")
    g, out = yardstick.heavy(LARGE), np.empty(LARGE, np.uint8)
    inverse = 255 / float(g.max() - g.min())
    with peer("arrays", operation="piquant_int8", n=LARGE, seed=1, fit=False) as piquant:
        yield versus(setting, "quant.int8.nearest", "pypiquant", lambda: _native.quantise(g, inverse, 128.0, out),
                     piquant, bars={"ratio": "<= 1.1"})


@case("codec", "decode_add.int8")
def decode_add(setting: Setting) -> Iterator[Row]:
    """Bandwidth on the 9 bytes an element that decoding moves, beside the 12 of `e += g`."""
    made = Encoder("ef.int8")
    made.encode()
    pair = paired(made.decode, made.add, setting.rounds, setting.seconds)
    ours, theirs = 9 * made.n / pair.ours.median() / 1e9, 12 * made.n / pair.theirs.median() / 1e9
    yield row("decode_add.int8", ours, "GB/s", "e += g", theirs, 0.75 / pair.ratio(), pair.spread(),
              {"ratio": ">= 0.85"})


@case("codec", "ef.int8.small")
def small(setting: Setting) -> Iterator[Row]:
    """A message of 4096 elements, seconds a call from Python."""
    made = Encoder("ef.int8", 4096)
    yield versus(setting, "ef.int8.small", "e += g", made.encode, made.add, bars={"value": "<= 3e-6"})


@case("codec", "ef.sign.cores")
def cores(setting: Setting) -> Iterator[Row]:
    """All cores at once, each on its own arrays: what memory leaves of the speed, against all-core `e += g`."""
    count = available()
    made = [Encoder("ef.sign", LARGE, seed) for seed in range(count)]

    def every(calls: list[Callable[[], None]]) -> None:
        threads = [Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    yield versus(setting, "ef.sign.cores", f"e += g, {count} threads", lambda: every([one.encode for one in made]),
                 lambda: every([one.add for one in made]), work=12 * LARGE * count / 1e9, unit="GB/s",
                 bars={"ratio": ">= 0.9"})


def selection(name: str, share: float) -> None:
    @case("codec", name)
    def rows(setting: Setting) -> Iterator[Row]:
        """Exact top-k; where this build has no kernel for it, what the baselines take."""
        k = int(LARGE * share)
        g, e = yardstick.heavy(LARGE), np.zeros(LARGE, np.float32)
        with peer("arrays", operation="topk", n=LARGE, k=k, seed=1) as torch:
            if isinstance(torch, Peer):
                pair = paired(lambda: yardstick.topk(g, e, k), torch, 3, setting.seconds)
                for label, series in (("torch.topk", pair.theirs), ("np.argpartition", pair.ours)):
                    yield row(name, None, "s", label, series.median(), spread=series.spread(),
                              note="the native top-k is not in this build")
            else:
                yield row(name, None, "s", "torch.topk", note=str(torch))


selection("ef.topk.1%", 0.01)
selection("ef.topk.0.1%", 0.001)
