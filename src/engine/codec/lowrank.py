"""Low-rank gradient codec: PowerSGD (Vogels et al. 2019, alg. 1) with warm start and error feedback."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import FrameError
from ..types import Array
from .base import Opened, State, floats, register, residual, seal


@register("lowrank")
class Lowrank:
    """x as (rows, columns) near sqrt(n), sent as P (rows, rank) orthonormal and Q (columns, rank).

    Matrix products are BLAS's: results are bounded, not the same bytes on every machine. C(x) = P P'x is a projection,
    so it never lengthens the error: contraction >= 0, and the energy of the captured directions in practice.
    """

    unbiased = False

    def __init__(self, rank: int = 4, seed: int = 0) -> None:
        if rank < 1:
            raise ValueError(f"lowrank: rank {rank}, expected at least 1")
        self.rank, self.seed = rank, seed

    def shape(self, n: int) -> tuple[int, int]:
        rows = max(1, int(n**0.5))
        return rows, -(-n // rows)

    def init(self, n: int) -> State:
        rows, columns = self.shape(n)
        rank = min(self.rank, rows, columns) if n else 0
        warm = np.random.default_rng(self.seed).standard_normal((columns, rank), np.float32)
        return {"residual": np.zeros(n, np.float32), "warm": warm}

    def encode(self, g: Array, state: State, step: int) -> bytes:
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
        left = np.linalg.qr(matrix.reshape(rows, columns) @ state["warm"])[0].astype(np.float32)
        right = matrix.reshape(rows, columns).T @ left
        state["warm"][:] = np.where(np.abs(right).max(axis=0, initial=0) > 0, right, state["warm"])
        e[:] = total - (left @ right.T).reshape(-1)[:n]
        return seal(
            "lowrank",
            "lowrank",
            g,
            [np.ascontiguousarray(left), np.ascontiguousarray(right)],
            count=left.shape[1],
            seed=self.seed,
            step=step,
            bad=int(bad.sum()),
        )

    def decode_add(self, frame: Any, acc: Array) -> None:
        opened = Opened(frame, "lowrank", "lowrank", acc.size)
        rows, columns = self.shape(acc.size)
        rank = opened.count
        if rank > min(rows, columns):
            raise FrameError(f"lowrank: rank {rank} of {rows} by {columns}")
        left = opened.chunk(0, np.float32, rows * rank).reshape(rows, rank)
        right = opened.chunk(1, np.float32, columns * rank).reshape(columns, rank)
        flat = acc.reshape(-1)
        flat += (left @ right.T).reshape(-1)[: acc.size]

    def ratio(self, n: int) -> float:
        rows, columns = self.shape(n)
        return n / max(1, min(self.rank, rows, columns) * (rows + columns))

    def contraction(self, n: int) -> float:
        return 0.0
