"""Sparse gradient codecs: a warm threshold, exact top-k, random-k from a shared seed, rows; values by any dense codec."""

from __future__ import annotations

from math import log2
from typing import Any

import numpy as np

from ..errors import FrameError
from ..kernels.plain.quant import LARGEST, key_of
from ..kernels.table import ops
from ..types import Array
from .base import Opened, Parts, State, floats, register, residual, source
from .index import index_decode, index_encode
from .quant import Dense, Valued

SAMPLE = 1024  # of every SAMPLE elements, one cache line is looked at to guess a first threshold


def guess(g: Array, e: Array, k: int) -> float:
    """A threshold that about 1.3 k elements reach, from a sample; 0 where the array is small or the sample is thin."""
    n = len(g)
    part = n // SAMPLE * SAMPLE
    want = int(1.3 * k * 16 / SAMPLE) + 1
    if part < 64 * SAMPLE or want * SAMPLE // 16 > n // 2:
        return 0.0
    with np.errstate(all="ignore"):
        a = np.abs(g[:part].reshape(-1, SAMPLE)[:, :16] + e[:part].reshape(-1, SAMPLE)[:, :16]).ravel()
    a[~np.isfinite(a)] = 0
    return float(np.partition(a, len(a) - want)[len(a) - want])


def collect(g: Array | None, e: Array, t: float, room: int) -> tuple[Array, Array, int, int]:
    """Every entry |g + e| >= t: index, value (longer than count), count, non-finite; buffers grow as they must."""
    index, value = np.empty(room, np.uint32), np.empty(room, np.float32)
    at = count = bad = 0
    while True:
        at, count, more = ops.threshold_encode(g, e, at, t, index, value, count)
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
    t = guess(floats(g) if g.dtype != np.uint16 else widened(g), e, k) if t < 0 else t
    index, value, count, bad = collect(g, e, t, min(n, 2 * k) + 128)
    while count < k:
        e[index[:count]] = value[:count]
        t = t / 2 if t > 1e-3 * float(np.abs(value[:count]).max(initial=0)) and t > 1e-37 else 0.0
        index, value, count, _ = collect(None, e, t, min(n, 2 * k) + 128)
    edge = ops.topk_keep(index, value, count, k, e)
    return index[:k], value[:k], edge, bad


def widened(bits: Array) -> Array:
    """float32 of the bits of bfloat16."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


class Sparse(Valued):
    """Some elements, their values coded by a dense codec; what the values lose goes back to the residual with the rest.

    The frame: the chunks of the values, then the index set (codec/index.py), absent where both ends can draw it.
    """

    family = "sparse"
    default = "bf16"
    sends = True  # the index set

    def pick(self, g: Array, state: State, step: int) -> tuple[Array, Array, int]:
        """(index, value, non-finite): the entries to send, which are 0 in the residual from here on."""
        raise NotImplementedError

    def indices(self, opened: Opened, n: int) -> Array:
        """The index of every entry of a frame, ascending."""
        index = index_decode(opened.chunk(len(opened.frame.chunks) - 1))
        if index.dtype != np.uint32 or len(index) != opened.count or (len(index) and int(index[-1]) >= n):
            raise FrameError(f"sparse: expected {opened.count} indices below {n}, found {len(index)}")
        return index

    def parts(self, g: Array, state: State, step: int, room: list[Array]) -> Parts:
        e = residual(state, g.size)
        index, value, bad = self.pick(source(g), state, step)
        rest = np.ascontiguousarray(value)
        made = self.values.codes(None, rest, step, self.values.rooms(len(rest)))
        if made.bad or self.values.name != "f32":
            e[index] += rest
        chunks = made.chunks
        if self.sends:
            chunks.append(np.frombuffer(index_encode(index, g.size), np.uint8))
        return Parts(chunks, block=made.block, count=len(index), bad=bad)

    def add(self, opened: Opened, acc: Array) -> None:
        index = self.indices(opened, acc.size)
        value = np.zeros(len(index), np.float32)
        self.values.add_codes(opened, 0, value)
        ops.scatter_add(index, value, acc)

    def share(self, n: int) -> int:
        """How many entries of n elements are sent."""
        raise NotImplementedError

    def ratio(self, n: int) -> float:
        k = self.share(n)
        index = k * (log2(max(1.0, n / max(1, k))) + 1.6) if self.sends else 0
        return 32 * n / max(1.0, self.values.bits(k) + index)

    def contraction(self, n: int) -> float:
        """k/n of the energy at least is sent (Stich et al. 2018, lemma A.1), less what the values lose of it."""
        k = self.share(n)
        return max(0.0, self.values.contraction(k)) * k / n if n else 1.0


@register("topk")
class Topk(Sparse):
    """Exactly max(1, round(density n)) largest elements."""

    word = "topk"

    def __init__(self, density: float = 0.01, values: str | Dense | None = None) -> None:
        self.density = dense_share(density)
        super().__init__(values)

    def init(self, n: int) -> State:
        return {"residual": np.zeros(n, np.float32), "edge": np.full(1, -1, np.float32)}

    def share(self, n: int) -> int:
        return min(n, max(1, round(self.density * n)))

    def pick(self, g: Array, state: State, step: int) -> tuple[Array, Array, int]:
        warm = float(state["edge"][0])
        e = state["residual"]
        index, value, edge, bad = topk_encode(g, e, self.share(len(e)), 0.85 * warm if warm > 0 else -1.0)
        state["edge"][0] = edge
        return index, value, bad


@register("threshold")
class Threshold(Sparse):
    """Every element of `edge` or more, in one pass; the edge follows the density asked for from step to step.

    What is kept is below the edge, element by element.  Gradients that are new each time are sent within some 10 % of the
    density; where one comes again and again, elements queue just below the edge, and frames between none and three times
    the density average to it.  The first edge is guessed from a sample.
    """

    word = "threshold"

    def __init__(self, density: float = 0.01, values: str | Dense | None = None) -> None:
        self.density = dense_share(density)
        super().__init__(values)

    def init(self, n: int) -> State:
        return {"residual": np.zeros(n, np.float32), "edge": np.full(1, -1, np.float32)}

    def share(self, n: int) -> int:
        return min(n, max(1, round(self.density * n)))

    def pick(self, g: Array, state: State, step: int) -> tuple[Array, Array, int]:
        e, t = state["residual"], float(state["edge"][0])
        k = self.share(len(e))
        if t <= 0:
            t = first_edge(floats(g) if g.dtype != np.uint16 else widened(g), e, k)
        index, value, count, bad = collect(g, e, t, 2 * k + 128)
        state["edge"][0] = self.follow(t, count, k)
        return index[:count], value[:count], bad

    @staticmethod
    def follow(t: float, count: int, k: int) -> float:
        """The next edge: up by the fifth, down by the twentieth power of the excess.

        An edge lowered at once releases all that waits just below it, so it comes down slowly; of 8 pairs of powers tried on
        repeated, fresh and mixed gradients this one held the mean of the density best (.98 to 1.07 of it after 40 steps).
        """
        excess = min(20.0, max(0.05, count / max(1, k)))
        return min(float(LARGEST), t * excess ** (0.2 if excess > 1 else 0.05))

    def contraction(self, n: int) -> float:
        """None relative to x: the residual is below the edge in every element instead."""
        return 0.0


@register("randomk")
class Randomk(Sparse):
    """One element of each of k even strata, drawn from (seed, step): both ends know the indices, none is sent.

    `scaled`: values times the size of their stratum and no residual, which is unbiased with w = ceil(n/k) - 1; else error
    feedback, and the contraction is in expectation over the draw.
    """

    default = "f32"
    sends = False

    def __init__(self, density: float = 0.01, seed: int = 0, values: str | Dense | None = None, scaled: bool = False) -> None:
        self.density, self.seed, self.unbiased = dense_share(density), seed, scaled
        self.word = "randomk:scaled" if scaled else "randomk"
        super().__init__(values)

    def share(self, n: int) -> int:
        return min(n, max(1, round(self.density * n)))

    def draw(self, n: int, seed: int, step: int) -> Array:
        index = np.empty(self.share(n), np.uint32)
        ops.strata(n, key_of(seed, step), index)
        return index

    def pick(self, g: Array, state: State, step: int) -> tuple[Array, Array, int]:
        e = state["residual"]
        *_, bad = collect(g, e, np.inf, 64)
        index = self.draw(len(e), self.seed, step)
        value = e[index]
        e[index] = 0
        if self.unbiased:
            k, n = len(index), len(e)
            edge = np.arange(k + 1, dtype=np.uint64) * np.uint64(n) // np.uint64(max(1, k))
            value = value * np.diff(edge).astype(np.float32)
            e[:] = 0
        return index, value, bad

    def parts(self, g: Array, state: State, step: int, room: list[Array]) -> Parts:
        made = super().parts(g, state, step, room)
        if self.unbiased:
            state["residual"][:] = 0
        return made

    def indices(self, opened: Opened, n: int) -> Array:
        if opened.count != self.share(n):
            raise FrameError(f"randomk: expected {self.share(n)} of {n} elements, found {opened.count}")
        return self.draw(n, opened.seed, opened.step)

    def contraction(self, n: int) -> float:
        width = max(1, -(-n // max(1, self.share(n))))
        return -(width - 1.0) if self.unbiased else max(0.0, self.values.contraction(self.share(n))) / width


@register("rows")
class Rows(Sparse):
    """Whole rows of a matrix of `width` columns, those that hold the largest magnitudes; rows of zeros are never sent.

    For embeddings and other gradients that touch few rows.  Ties go to the lowest row.
    """

    default = "f32"

    word = "rows"

    def __init__(self, width: int, density: float = 1.0, values: str | Dense | None = None) -> None:
        if width < 1:
            raise ValueError(f"rows: width {width}, expected at least 1")
        self.width, self.density = width, dense_share(density)
        self.word = f"rows:{width}"
        super().__init__(values)

    def share(self, n: int) -> int:
        return min(n, max(1, round(self.density * (n // self.width)))) * self.width

    def pick(self, g: Array, state: State, step: int) -> tuple[Array, Array, int]:
        e = state["residual"]
        if len(e) % self.width:
            raise ValueError(f"rows: {len(e)} elements are not rows of {self.width}")
        *_, bad = collect(g, e, np.inf, 64)
        matrix = e.reshape(-1, self.width)
        peak = np.maximum(matrix.max(axis=1), -matrix.min(axis=1)) if len(matrix) else np.empty(0, np.float32)
        row, _, _, _ = topk_encode(peak, np.zeros_like(peak), self.share(len(e)) // self.width, 0.0)
        row = row[peak[row] > 0]
        value = matrix[row].reshape(-1)
        matrix[row] = 0
        return row, value, bad

    def parts(self, g: Array, state: State, step: int, room: list[Array]) -> Parts:
        e = residual(state, g.size)
        row, rest, bad = self.pick(source(g), state, step)
        made = self.values.codes(None, rest, step, self.values.rooms(len(rest)))
        e.reshape(-1, self.width)[row] += rest.reshape(-1, self.width)
        chunks = [*made.chunks, np.frombuffer(index_encode(row, g.size // self.width), np.uint8)]
        return Parts(chunks, block=made.block, count=len(row), bad=bad)

    def add(self, opened: Opened, acc: Array) -> None:
        if acc.size % self.width:
            raise FrameError(f"rows: {acc.size} elements are not rows of {self.width}")
        row = self.indices(opened, acc.size // self.width)
        value = np.zeros(len(row) * self.width, np.float32)
        self.values.add_codes(opened, 0, value)
        acc.reshape(-1, self.width)[row] += value.reshape(-1, self.width)

    def contraction(self, n: int) -> float:
        """With k of m rows: those sent hold k t^2 or more, those kept at most (m - k) width t^2; 1 where all are sent."""
        k, m = self.share(n) // self.width, max(1, n // self.width)
        least = 1.0 if k >= m else k / (k + (m - k) * self.width)
        return max(0.0, self.values.contraction(self.share(n))) * least


def dense_share(density: Any) -> float:
    if not 0 < density <= 1:
        raise ValueError(f"sparse: density {density} not in (0, 1]")
    return float(density)


def first_edge(g: Array, e: Array, k: int) -> float:
    """A threshold to begin with: from the sample, or exactly where the array is small; 0 where all is 0."""
    t = guess(g, e, k) * 1.05
    if t > 0 or not len(e):
        return t
    with np.errstate(all="ignore"):
        a = np.abs(g + e)
    a[~np.isfinite(a)] = 0
    return max(float(np.partition(a, len(a) - k)[len(a) - k]), 1e-37)
