"""Continual evaluation: the matrix A of scores after each task (row) on each task (column), and what it says.

Definitions (Lopez-Paz and Ranzato 2017; Chaudhry et al. 2018; mammoth's utils/metrics).  T tasks, A[i][j] on task j after
learning task i; `start[j]` before anything was learned.  ACC = mean_j A[T-1][j].  BWT = mean_{j < T-1} (A[T-1][j] - A[j][j]).
FWT = mean_{j >= 1} (A[j-1][j] - start[j]).  Forgetting = mean_{j < T-1} (max_{i < T-1} A[i][j] - A[T-1][j]): from the best,
not from the first.  Anytime = mean over i of mean_{j <= i} A[i][j].
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..types import Array


def summary(matrix: Array | Sequence[Sequence[float]], start: Array | Sequence[float] | None = None) -> dict[str, float]:
    """acc, bwt, fwt (NaN without `start`), forgetting and anytime of a square matrix; ValueError where it is not one."""
    a = np.asarray(matrix, float)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not len(a):
        raise ValueError(f"tasks: expected a square matrix, a row after each task, found shape {a.shape}")
    last, count = a[-1], len(a)
    bwt = fwt = forgetting = float("nan")
    if count > 1:
        bwt = float((last[:-1] - np.diag(a)[:-1]).mean())
        forgetting = float((a[:-1, :-1].max(axis=0) - last[:-1]).mean())
        if start is not None:
            fwt = float((np.diag(a, 1) - np.asarray(start, float)[1:]).mean())
    anytime = float(np.mean([a[i, : i + 1].mean() for i in range(count)]))
    return {"acc": float(last.mean()), "bwt": bwt, "fwt": fwt, "forgetting": forgetting, "anytime": anytime}
