"""Gradient codecs with error feedback, one thread, float32 heavy-tailed, beside `e += g` on the same core.

Ratios are our time over the baseline's: 1.0 beside `e += g` means that compressing costs what adding costs.  No kernel that
reads g and reads and writes e can be faster than that: where a bar against another baseline asks for more than `e += g`
itself would reach on this machine, the row says so in `floor`.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import numpy as np

from bench import device, yardstick
from bench.machine import available
from bench.peers import peer
from bench.registry import Missing, Setting, case, versus
from bench.row import Bars, Row, row
from bench.timing import Pair, Series, alone, paired, sample
from engine import codec
from engine.codec.sparse import collect, topk_encode
from engine.kernels import _native

LARGE, L3 = 1 << 24, 1 << 20
BLOCKS = {"sign": 2304}  # elements a scale; 1024 for the others
MODES = {"ef.sign": ("sign", 1), "ef.int4": ("int4", 4), "ef.int8": ("int8", 8), "ef.int8.stochastic": ("int8s", 8)}
LIMITS = {"ef.sign": 1.25, "ef.int4": 1.25, "ef.int8": 1.25, "ef.int8.stochastic": 1.5}
SIZES = {"sign": 31.5, "int4": 7.8, "int8": 3.95, "topk:density=0.01": 120, "topk:density=0.001": 1100}
EVERY = (
    "sign", "ternary", "int2", "int4", "int8", "int8s", "bf16", "fp16", "fp8", "shared:bits=8", "topk:density=0.01",
    "topk:density=0.001", "topk:density=0.01 | int8", "threshold:density=0.01", "randomk:density=0.01",
    "rows:width=256,density=0.01", "lowrank:rank=4",
)


SLICE = 2304 * 256  # elements: whole blocks of every codec, 0.2 ms


def sliced(setting: Setting, name: str, ours: Callable[[int, int], object], theirs: Callable[[int, int], object], n: int,
           bars: Bars, **beside: Any) -> Row:
    """A row of one pass over n elements beside one of `e += g`, in turns slice by slice.

    Each side touches a slice the other has left half an array ago, so all comes from memory; a turn is short enough that
    most see no other work of the machine.
    """
    spans = [(a, min(n, a + SLICE)) for a in range(0, n, SLICE)]
    pair, end = Pair(Series(), Series()), time.perf_counter() + setting.seconds / 2
    for turn in range(setting.rounds + 1):  # the first warms up
        for i, span in enumerate(spans):
            far = spans[(i + len(spans) // 2) % len(spans)]
            sides = [(ours, span, pair.ours), (theirs, far, pair.theirs)]
            for call, at, series in sides if (i + turn) % 2 else sides[::-1]:
                series.samples.append(sample(lambda call=call, at=at: call(*at)))
        if not turn:
            pair = Pair(Series(), Series())
        elif turn > 1 and time.perf_counter() > end:
            break
    parts = n / SLICE
    return row(name, pair.ours.median() * parts, "s", "e += g", pair.theirs.median() * parts, pair.ratio(), pair.spread(), bars,
               elements=n, **beside)


class Encoder:
    """One error-feedback quantiser over n elements: its gradient, residual and payload, and what adding costs."""

    def __init__(self, name: str, n: int = LARGE, seed: int = 1) -> None:
        self.mode, self.bits = MODES[name]
        self.n, self.step, self.block = n, 0, BLOCKS.get(self.mode, yardstick.BLOCK)
        self.g, self.e = yardstick.heavy(n, seed), np.zeros(n, np.float32)
        self.twin, self.acc = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self.out = np.empty(-(-n // 64) * 8 * self.bits, np.uint8)
        self.scales = np.empty(-(-n // self.block), np.float32)

    def encode(self, a: int = 0, b: int | None = None) -> None:
        b = self.n if b is None else b
        self.step += 1
        _native.quant_encode(self.mode, self.g[a:b], self.e[a:b], self.block, *self.part(a, b), self.step, a)

    def decode(self, a: int = 0, b: int | None = None) -> None:
        b = self.n if b is None else b
        _native.quant_decode_add(self.mode, *self.part(a, b), self.block, self.acc[a:b])

    def part(self, a: int, b: int) -> tuple[Any, Any]:
        """Codes and scales of elements a to b; a is where a block begins."""
        return self.out[a * self.bits // 8 : -(-b // 64) * 8 * self.bits], self.scales[a // self.block : -(-b // self.block)]

    def add(self, a: int = 0, b: int | None = None) -> None:
        _native.add(self.g[a:b], self.twin[a:b])

    @property
    def size_ratio(self) -> float:
        return 4 * self.n / (self.out.nbytes + self.scales.nbytes)


def quantiser(name: str) -> Callable[[Setting], Iterator[Row]]:
    """Encoding beside `e += g`, with its size."""
    def rows(setting: Setting) -> Iterator[Row]:
        made = Encoder(name)
        size = SIZES.get(made.mode)
        bars = {"ratio": f"<= {LIMITS[name]}"} | ({"size": f">= {size}"} if size else {})
        yield sliced(setting, name, made.encode, made.add, made.n, bars, size=made.size_ratio)
        if name == "ef.int8.stochastic":
            small = Encoder(name, L3)
            yield versus(setting, f"{name}.L3", "e += g", small.encode, small.add, bars={"ratio": "<= 2.5"})
    return rows


for known in MODES:
    case("codec", known)(quantiser(known))


class Selector:
    """A threshold on gradients that come again and again, in the state where the share asked for crosses it each step.

    An element of magnitude m crosses t every t/m steps, so t = mean(m) / share; residuals start anywhere below t.
    """

    def __init__(self, share: float, n: int = LARGE) -> None:
        self.g, self.twin = yardstick.heavy(n), np.zeros(n, np.float32)
        size = np.abs(self.g)
        self.t = float(size.mean(dtype=np.float64)) / share
        self.e = np.copysign(np.random.default_rng(5).random(n, np.float32) * np.float32(self.t), self.g)
        self.room, self.count = 2 * int(share * SLICE) + 128, 0

    def encode(self, a: int, b: int) -> None:
        *_, count, _ = collect(self.g[a:b], self.e[a:b], self.t, self.room)
        self.count += count

    def add(self, a: int, b: int) -> None:
        _native.add(self.g[a:b], self.twin[a:b])


@case("codec", "ef.threshold.1%")
def threshold(setting: Setting) -> Iterator[Row]:
    """Error feedback and selection of 1 % in one pass, the threshold given, as it is from the second step on."""
    made = Selector(0.01)
    made.encode(0, SLICE)
    share, made.count = made.count / SLICE, 0
    yield sliced(setting, "ef.threshold.1%", made.encode, made.add, LARGE, {"ratio": "<= 1.15"}, share=share)


def numpy_rows(name: str, theirs: Callable[[Any, Any], Any], bar: float) -> None:
    @case("codec", f"{name}.numpy")
    def rows(setting: Setting) -> Iterator[Row]:
        made = Encoder(name)
        floor = paired(made.add, lambda: theirs(made.g, made.twin), 3, setting.seconds / 4).ratio()
        beside: dict[str, Any] = {"floor": floor}
        if floor > bar:
            beside["note"] = "e += g alone is above the bar: this machine's memory cannot show it"
        yield versus(setting, name, "numpy", made.encode, lambda: theirs(made.g, made.twin),
                     bars={"ratio": f"<= {bar:.4g}"}, **beside)


numpy_rows("ef.sign", yardstick.sign, 1 / 14)
numpy_rows("ef.int8", yardstick.int8, 1 / 14)
numpy_rows("ef.int8.stochastic", yardstick.int8_stochastic(np.random.default_rng(2)), 1 / 40)


@case("codec", "quant.int8.nearest")
def quant_nearest(setting: Setting) -> Iterator[Row]:
    """Plain 8-bit affine quantisation with given parameters, no error feedback: both sides do the same work."""
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
    found = sliced(setting, "decode_add.int8", made.decode, made.add, LARGE, {})
    ours, theirs = 9 * made.n / found["value"] / 1e9, 12 * made.n / found["baseline_value"] / 1e9
    yield row("decode_add.int8", ours, "GB/s", "e += g", theirs, 0.75 / found["ratio"], found["spread"], {"ratio": ">= 0.85"})


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
        """Exact top-k with its warm threshold; both baselines include their own `e += g` and abs."""
        k = int(LARGE * share)
        g, e, twin, edge = yardstick.heavy(LARGE), np.zeros(LARGE, np.float32), np.zeros(LARGE, np.float32), [-1.0]

        def ours() -> None:
            *_, found, _ = topk_encode(g, e, k, 0.85 * edge[0] if edge[0] > 0 else -1.0)
            edge[0] = found

        for _ in range(8):  # to a residual that comes again
            ours()
        yield versus(setting, name, "np.argpartition", ours, lambda: yardstick.topk(g, twin, k), bars={"ratio": "<= 0.05"})
        with peer("arrays", operation="topk", n=LARGE, k=k, seed=1) as torch:
            yield versus(setting, name, "torch.topk", ours, torch, bars={"ratio": "<= 0.04"})


selection("ef.topk.1%", 0.01)
selection("ef.topk.0.1%", 0.001)


@case("codec", "break-even")
def break_even(setting: Setting) -> Iterator[Row]:
    """The link, per core, below which encode + decode of whole frames pays: bits saved a second of codec time.

    `floor` is what it would be if both only moved their bytes at the bandwidth of `e += g`: above the bar a codec can
    reach it here, below it none can, as each saves too few bits for the memory it must touch.
    """
    g, twin, acc = yardstick.heavy(LARGE), np.zeros(LARGE, np.float32), np.zeros(LARGE, np.float32)
    for name in EVERY:
        made = codec.make(name)
        state, frame, step = made.init(LARGE), [b""], [0]

        def encode(made: Any = made, state: Any = state, frame: Any = frame, step: Any = step) -> None:
            frame[0] = made.encode(g, state, step[0])
            step[0] += 1

        encode()
        pair = paired(encode, lambda made=made, frame=frame: made.decode_add(frame[0], acc), 5, setting.seconds / 6)
        add = alone(lambda: _native.add(g, twin), 3, 1).median()
        seconds, size = pair.ours.median() + pair.theirs.median(), len(frame[0])
        saved, moved = 8 * (4 * LARGE - size), 12 * LARGE + size + (8 * LARGE + size if made.family != "sparse" else 9 * size)
        floor = saved / (add * moved / (12 * LARGE)) / 1e9
        bars: Bars = {"value": ">= 50"} | ({"size": f">= {SIZES[name]}"} if name in SIZES else {})
        beside = {"note": "out of reach of this memory"} if floor < 50 else {}
        yield row(f"break-even.{name}", saved / seconds / 1e9, "Gb/s a core", "none", bars=bars, size=4 * LARGE / size,
                  encode_s=pair.ours.median(), decode_s=pair.theirs.median(), floor=floor, **beside)


@case("codec", "neon")
def neon(setting: Setting) -> Iterator[Row]:
    """The base kernels serve aarch64; without qemu nothing here has run them."""
    yield row("neon", None, "", note="unverified: aarch64 runs the portable vectors, not tested on this machine")


@case("codec", "cuda")
def cuda(setting: Setting) -> Iterator[Row]:
    """The same kernels on a GPU, with --device cuda; 'unverified' where none is present."""
    if setting.device != "cuda":
        raise Missing("unverified here: python -m bench codec --device cuda, where a GPU is")
    yield from device.rows(setting)
