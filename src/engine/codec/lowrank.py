"""Low-rank gradient codec: PowerSGD (Vogels et al. 2019, alg. 1) with warm start and error feedback."""

from __future__ import annotations

import numpy as np

from ..errors import FrameError
from ..kernels.plain.quant import LARGEST
from ..types import Array
from .base import Opened, Parts, State, floats, register, residual
from .quant import Dense, Valued


def unit(x: Array) -> tuple[Array, int]:
    """x by a power of two so that its greatest magnitude is in [1/2, 1), and that power: products then stay in range."""
    exponent = int(np.frexp(np.abs(x).max(initial=0))[1])
    return np.ldexp(x, -exponent), exponent


@register("lowrank")
class Lowrank(Valued):
    """x as (rows, columns) near sqrt(n), sent as P (rows, rank) orthonormal and Q (columns, rank), coded by `values`.

    Matrix products are BLAS's: results are bounded, not the same bytes on every machine. C(x) = P P'x is a projection,
    so it never lengthens the error: contraction >= 0, and the energy of the captured directions in practice.
    """

    family = "lowrank"
    word = "lowrank"

    def __init__(self, rank: int = 4, seed: int = 0, values: str | Dense | None = None) -> None:
        if rank < 1:
            raise ValueError(f"lowrank: rank {rank}, expected at least 1")
        self.rank, self.seed = rank, seed
        super().__init__(values)

    def shape(self, n: int) -> tuple[int, int]:
        rows = max(1, int(n**0.5))
        return rows, -(-n // rows)

    def init(self, n: int) -> State:
        rows, columns = self.shape(n)
        rank = min(self.rank, rows, columns) if n else 0
        warm = np.random.default_rng(self.seed).standard_normal((columns, rank), np.float32)
        return {"residual": np.zeros(n, np.float32), "warm": warm}

    def parts(self, g: Array, state: State, step: int, room: list[Array]) -> Parts:
        x = floats(g)
        n = len(x)
        e = residual(state, n)
        rows, columns = self.shape(n)
        with np.errstate(all="ignore"):
            total = x + e
        bad = ~np.isfinite(total)
        total[bad] = e[bad]
        matrix = np.zeros(rows * columns, np.float32)
        matrix[:n] = total
        shrunk, exponent = unit(matrix.reshape(rows, columns))
        left = np.linalg.qr(shrunk @ unit(state["warm"])[0])[0].astype(np.float32)
        with np.errstate(over="ignore"):  # past the largest float it is clipped: the residual keeps the rest
            right = np.clip(np.ldexp(shrunk.T @ left, exponent), -LARGEST / 2 / self.rank, LARGEST / 2 / self.rank)
        state["warm"][:] = np.where(np.abs(right).max(axis=0, initial=0) > 0, right, state["warm"])
        factors = np.concatenate([left.reshape(-1), right.reshape(-1)])
        sent = factors.copy()
        made = self.values.codes(None, factors, step, self.values.rooms(len(factors)))
        if self.values.name != "f32":  # feedback against what the receiver will have
            sent -= factors
        left, right = sent[: left.size].reshape(left.shape), sent[left.size :].reshape(right.shape)
        with np.errstate(over="ignore"):
            e[:] = np.clip(total - (left @ right.T).reshape(-1)[:n], -LARGEST, LARGEST)
        return Parts(made.chunks, block=made.block, count=state["warm"].shape[1], bad=int(bad.sum()))

    def add(self, opened: Opened, acc: Array) -> None:
        rows, columns = self.shape(acc.size)
        rank = opened.count
        if rank > min(rows, columns):
            raise FrameError(f"lowrank: rank {rank} of {rows} by {columns}")
        factors = np.zeros((rows + columns) * rank, np.float32)
        self.values.add_codes(opened, 0, factors)
        left, right = factors[: rows * rank].reshape(rows, rank), factors[rows * rank :].reshape(columns, rank)
        acc += (left @ right.T).reshape(-1)[: acc.size]

    def ratio(self, n: int) -> float:
        rows, columns = self.shape(n)
        return 32 * n / max(1.0, self.values.bits(min(self.rank, rows, columns) * (rows + columns)))
