"""Sparse gradient codecs: exact top-k with a warm threshold, random-k from a shared seed; Rice-coded gaps."""

from __future__ import annotations

from math import log, log2
from typing import Any

import numpy as np

from ..errors import FrameError
from ..kernels import _native
from ..kernels.plain.quant import key_of
from ..types import Array
from .base import Opened, State, floats, register, residual, seal

SAMPLE = 1024  # of every SAMPLE elements, one cache line is looked at to guess a first threshold
RICE_BOUND = 16


def low_bits(n: int, count: int) -> int:
    """Low bits of a Rice code of gaps with mean n / count: log2(mean * ln 2), at least 0."""
    return max(0, min(31, round(log2(max(1.0, n / max(1, count) * log(2))))))


def pack_index(index: Array, n: int) -> Array:
    """uint32 ascending indices below n as bytes."""
    low = low_bits(n, len(index))
    out = np.empty((len(index) * low + 7) // 8 + (len(index) + (n >> low)) // 8 + RICE_BOUND, np.uint8)
    return out[: _native.rice_encode(index, n, low, out)]


def unpack_index(data: Array, n: int, count: int) -> Array:
    """`count` ascending indices below n; FrameError where the bytes are not that."""
    if count > n:
        raise FrameError(f"sparse: {count} entries of {n} elements")
    index = np.empty(count, np.uint32)
    try:
        _native.rice_decode(data, n, low_bits(n, count), index)
    except ValueError as error:
        raise FrameError(f"sparse: {error}") from error
    return index


def guess(g: Array, e: Array, k: int) -> float:
    """A threshold that about 1.3 k elements reach, from a sample; 0 where the array is small or the sample is thin."""
    n = len(g)
    part = n // SAMPLE * SAMPLE
    want = int(1.3 * k * 16 / SAMPLE) + 1
    if part < 64 * SAMPLE or want * SAMPLE // 16 > n // 2:
        return 0.0
    a = np.abs(g[:part].reshape(-1, SAMPLE)[:, :16] + e[:part].reshape(-1, SAMPLE)[:, :16]).ravel()
    a[~np.isfinite(a)] = 0
    return float(np.partition(a, len(a) - want)[len(a) - want])


def collect(g: Array | None, e: Array, t: float, room: int) -> tuple[Array, Array, int, int]:
    """Every entry |g + e| >= t: index, value (longer than count), count, non-finite; buffers grow as they must."""
    index, value = np.empty(room, np.uint32), np.empty(room, np.float32)
    at = count = bad = 0
    while True:
        at, count, more = _native.threshold_encode(g, e, at, t, index, value, count)
        bad += more
        if at == len(e):
            return index, value, count, bad
        index = np.concatenate([index, np.empty(len(index), np.uint32)])
        value = np.concatenate([value, np.empty(len(value), np.float32)])


def topk_encode(g: Array, e: Array, k: int, t: float = -1.0) -> tuple[Array, Array, float, int]:
    """The k largest |g + e| exactly, ties to the lowest index: (index, value, k-th magnitude, non-finite).

    `t`: a threshold to try first (the last k-th magnitude, a little lower), or negative to guess one; it changes the
    time, never the result.  e is left the residual.
    """
    n = len(e)
    k = min(k, n)
    if not k:
        collect(g, e, np.inf, 64)
        return np.empty(0, np.uint32), np.empty(0, np.float32), 0.0, 0
    t = guess(g, e, k) if t < 0 else t
    index, value, count, bad = collect(g, e, t, min(n, 2 * k) + 128)
    while count < k:
        e[index[:count]] = value[:count]
        t = t / 2 if t > 1e-3 * float(np.abs(value[:count]).max(initial=0)) and t > 1e-37 else 0.0
        index, value, count, _ = collect(None, e, t, min(n, 2 * k) + 128)
    edge = _native.topk_keep(index, value, count, k, e)
    return index[:k], value[:k], edge, bad


def send_values(value: Array, index: Array, e: Array, kind: str) -> Array:
    """Values as bytes of `kind` f32, bf16, fp16 or fp8; what narrowing loses goes back to the residual."""
    if kind == "f32":
        return value.view(np.uint8)
    rest = value.copy()
    out = np.empty(len(value) * (1 if kind == "fp8" else 2), np.uint8)
    _native.cast_encode(kind, None, rest, out)
    e[index] += rest
    return out


def read_values(opened: Opened, at: int, kind: str, count: int) -> Array:
    if kind == "f32":
        return opened.chunk(at, np.float32, count)
    value = np.zeros(count, np.float32)
    _native.cast_decode_add(kind, opened.chunk(at, np.uint8, count * (1 if kind == "fp8" else 2)), value)
    return value


@register("topk")
class Topk:
    """Exactly max(1, round(density n)) largest elements; contraction k/n (Stich et al. 2018, lemma A.1)."""

    unbiased = False

    def __init__(self, density: float = 0.01, values: str = "bf16") -> None:
        if not 0 < density <= 1 or values not in ("f32", "bf16", "fp16", "fp8"):
            raise ValueError(f"topk: density {density} not in (0, 1], or values {values} not f32, bf16, fp16, fp8")
        self.density, self.values, self.name = density, values, f"topk.{values}"

    def init(self, n: int) -> State:
        return {"residual": np.zeros(n, np.float32), "edge": np.full(1, -1, np.float32)}

    def count(self, n: int) -> int:
        return min(n, max(1, round(self.density * n)))

    def encode(self, g: Array, state: State, step: int) -> bytes:
        x = floats(g)
        e, warm = residual(state, len(x)), float(state["edge"][0])
        index, value, edge, bad = topk_encode(x, e, self.count(len(x)), 0.85 * warm if warm > 0 else -1.0)
        state["edge"][0] = edge
        chunks = [send_values(value, index, e, self.values), pack_index(index, len(x))]
        return seal("sparse", self.name, g, chunks, count=len(index), step=step, bad=bad)

    def decode_add(self, frame: Any, acc: Array) -> None:
        opened = Opened(frame, "sparse", self.name, acc.size)
        index = unpack_index(opened.chunk(1), acc.size, opened.count)
        _native.scatter_add(index, read_values(opened, 0, self.values, opened.count), acc.reshape(-1))

    def ratio(self, n: int) -> float:
        k = self.count(n)
        return 32 * n / max(1.0, k * ({"f32": 32, "fp8": 8}.get(self.values, 16) + log2(max(1.0, n / k)) + 1.55))

    def contraction(self, n: int) -> float:
        return self.count(n) / n if n else 1.0


@register("randomk")
class Randomk:
    """One element of each of k even strata, drawn from (seed, step): both ends know the indices, none is sent."""

    unbiased = False

    def __init__(self, density: float = 0.01, seed: int = 0) -> None:
        self.density, self.seed = density, seed

    def init(self, n: int) -> State:
        return {"residual": np.zeros(n, np.float32)}

    def indices(self, n: int, step: int) -> Array:
        k = min(n, max(1, round(self.density * n)))
        edge = np.arange(k + 1, dtype=np.uint64) * np.uint64(n) // np.uint64(max(1, k))
        with np.errstate(over="ignore"):
            x = (edge[:-1] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(key_of(self.seed, step))
            x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return (edge[:-1] + (x >> np.uint64(33)) % np.maximum(np.diff(edge), np.uint64(1))).astype(np.uint32)

    def encode(self, g: Array, state: State, step: int) -> bytes:
        x = floats(g)
        e = residual(state, len(x))
        *_, bad = collect(x, e, np.inf, 64)
        index = self.indices(len(x), step)
        value = e[index]
        e[index] = 0
        return seal("sparse", "randomk", g, [value], count=len(index), seed=self.seed, step=step, bad=bad)

    def decode_add(self, frame: Any, acc: Array) -> None:
        opened = Opened(frame, "sparse", "randomk", acc.size)
        index = Randomk(self.density, opened.seed).indices(acc.size, opened.step)
        _native.scatter_add(index, opened.chunk(0, np.float32, len(index)), acc.reshape(-1))

    def ratio(self, n: int) -> float:
        return n / max(1, min(n, max(1, round(self.density * n))))

    def contraction(self, n: int) -> float:
        """In expectation over the draw: each element goes with probability about k/n."""
        return 1 / max(1, -(-n // max(1, round(self.density * n))))
