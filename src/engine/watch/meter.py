"""The meter: prequential (test-then-train) scores of a whole job, the same whichever rank saw a row.

Rows fall into time buckets by their global order (`order // bucket_rows`); a bucket holds integer sums, so that
adding and merging commute exactly (regression sums are float64 and commute to rounding).  When the stream outgrows
the table, neighbouring buckets join and `bucket_rows` doubles: memory is bounded and the result stays a function of
the set of rows.

Definitions.  Log loss: mean of -log p of the label, margins clipped to [-16, 16] (p >= 1.1e-7), kept in units of 2^-24.
Multi-class p: the label's sigmoid over the sum of all classes' (one-vs-rest).  AUC: margins in 65536 bins over [-16,
16], ties within a bin count half.  No-change predicts `batch.previous`.  Majority predicts, for all rows of a bucket,
the most frequent label of the earlier buckets (lowest id on a tie, so class 0 in the first).  Mean, its like in
regression, predicts their mean (0 in the first).  Kappa: Cohen's.  Kappa-temporal (Zliobaite et al., Machine Learning
98, 2015): (a - c) / (1 - c) with a the accuracy and c that of no-change.  The window is the last buckets that hold at
least `window` orders.  Weights are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from ..kernels import _native
from ..types import Array, Batch

BINS = 65536
UNIT = float(1 << 24)
ROWS, HITS, SAME, LOSS, ODD, LABELS = range(6)
TASKS = ("binary", "multiclass", "regression")


class Meter:
    """Scores of one rank's rows; `merged` adds those of all ranks.

    `classes`: labels 0..classes-1 (2 for binary, ignored for regression).  `window` in rows.  `buckets`: most buckets
    kept.

    >>> meter = Meter("binary")
    >>> meter.add(model.learn(batch), batch)
    >>> meter.summary()["accuracy"]
    """

    def __init__(self, task: str, classes: int = 2, *, window: int = 1000, buckets: int = 4096) -> None:
        if task not in TASKS or (task != "regression" and classes < 2) or window < 1 or buckets < 2:
            raise ValueError(f"meter: task {task}, {classes} classes, window {window}, buckets {buckets}")
        self.task, self.window = task, window
        self.classes = {"binary": 2, "multiclass": classes, "regression": 0}[task]
        self.limit = max(64, min(buckets, buckets * 64 // max(1, self.classes))) & ~1 if buckets >= 64 else buckets & ~1
        self.bucket_rows = max(1, window // 8)
        self._table = np.zeros((min(64, self.limit), LABELS + self.classes), np.int64)
        self._confusion = np.zeros((self.classes, self.classes), np.int64)
        self._hist = np.zeros((2, BINS if task == "binary" else 0), np.int64)
        self._sums = np.zeros((len(self._table), 6 if task == "regression" else 0))

    def add(self, scores: Array, batch: Batch) -> None:
        """Count a batch whose `scores` were taken before it was learned: float32 `(n,)`, or `(n, classes)` for
        multi-class.

        Binary: margins; multi-class: one margin a class; regression: predictions.  Rows without a label are passed
        over. DataError names the row whose order is negative or whose label is no class.
        """
        y, previous, order, at = batch.y, batch.previous, batch.order, 0
        while True:
            if self.task == "binary":
                done = _native.score_binary(
                    scores, y, previous, order, at, self._table, self.bucket_rows, self._confusion, self._hist
                )
            elif self.task == "multiclass":
                done = _native.score_multi(
                    scores, y, previous, order, at, self._table, self.bucket_rows, self._confusion
                )
            else:
                done = _native.score_real(scores, y, previous, order, at, self._table, self.bucket_rows, self._sums)
            if done < 0:
                row = at - 1 - done
                raise DataError(
                    f"label or order: expected a class below {self.classes} and an order from 0, "
                    f"found {y[row]:g} and {order[row]}",
                    where=f"row {order[row]}",
                    fix="check the target column and the number of classes",
                )
            at += done
            if at == len(y):
                return
            self._reach(int(order[at]))

    def _reach(self, order: int) -> None:
        """Make room for a row of this order: longer table first, wider buckets past the limit."""
        while order // self.bucket_rows >= self.limit:
            self._widen()
        need = order // self.bucket_rows + 1
        if need > len(self._table):
            size = min(self.limit, max(need, 2 * len(self._table)))
            self._table = _longer(self._table, size)
            self._sums = _longer(self._sums, size)

    def _widen(self) -> None:
        self.bucket_rows *= 2
        self._table, self._sums = _halved(self._table), _halved(self._sums)

    def state(self) -> dict[str, Array]:
        """Flat arrays, for checkpoints and for the wire; `load` and `merged` take them."""
        return {name: array.copy() for name, array in self.view().items()}

    def view(self) -> dict[str, Array]:
        """What `state` gives, as views of the live arrays."""
        used = int(np.flatnonzero(self._table[:, ROWS]).max(initial=-1)) + 1
        head = np.array(
            [TASKS.index(self.task), self.classes, self.window, self.limit, self.bucket_rows, used], np.int64
        )
        return {
            "head": head,
            "table": self._table[:used],
            "confusion": self._confusion,
            "hist": self._hist,
            "sums": self._sums[:used],
        }

    def load(self, state: Mapping[str, Array]) -> None:
        """Become the meter that gave `state`; ValueError where it was made for another task, class count or window."""
        self._check(state)
        self.bucket_rows = int(state["head"][4])
        size = min(self.limit, max(64, len(state["table"])))
        self._table, self._sums = _longer(state["table"], size), _longer(state["sums"], size)
        self._confusion, self._hist = state["confusion"].copy(), state["hist"].copy()

    def _check(self, state: Mapping[str, Array]) -> None:
        mine = [TASKS.index(self.task), self.classes, self.window, self.limit]
        if state["head"][:4].tolist() != mine:
            raise ValueError(
                f"meter state: expected task, classes, window, buckets {mine}, found {state['head'][:4].tolist()}"
            )

    @classmethod
    def merged(cls, states: Sequence[Mapping[str, Array]]) -> Meter:
        """One meter with the rows of all; in any order and grouping the same. At least one state."""
        task, classes, window, limit = states[0]["head"][:4].tolist()
        total = cls(TASKS[task], classes, window=window)
        total.limit = limit
        total.load(states[0])
        for state in states[1:]:
            total._absorb(state)
        return total

    def _absorb(self, state: Mapping[str, Array]) -> None:
        self._check(state)
        table, sums, rows = state["table"], state["sums"], int(state["head"][4])
        while self.bucket_rows < rows:
            self._widen()
        while rows < self.bucket_rows:
            table, sums, rows = _halved(table), _halved(sums), rows * 2
        if len(table):
            self._reach((len(table) - 1) * rows)
        self._table[: len(table)] += table
        self._sums[: len(sums)] += sums
        self._confusion += state["confusion"]
        self._hist += state["hist"]

    def summary(self) -> dict[str, Any]:
        """Scores so far and in the window, JSON-ready; NaN where there were no rows."""
        rows = int(self._table[:, ROWS].sum())
        used = int(np.flatnonzero(self._table[:, ROWS]).max(initial=-1)) + 1
        first = max(0, used - 1 - -(-self.window // self.bucket_rows)) if used else 0
        result: dict[str, Any] = {
            "task": self.task,
            "rows": rows,
            "bucket_rows": self.bucket_rows,
            "odd_scores": int(self._table[:, ODD].sum()),
        }
        spans = {"": slice(0, used), "window_": slice(first, used)}
        for prefix, span in spans.items():
            part = self._real(span) if self.task == "regression" else self._class(span)
            result |= {prefix + key: value for key, value in part.items()}
        if self.task == "binary":
            result["auc"] = self._auc()
        if self.task != "regression":
            result["kappa"] = self._kappa()
        return result

    def _class(self, span: slice) -> dict[str, float]:
        total = _total(self._table[span])
        rows, same = total[ROWS], _ratio(total[SAME], total[ROWS])
        accuracy = _ratio(total[HITS], rows)
        return {
            "rows": rows,
            "accuracy": accuracy,
            "logloss": _ratio(total[LOSS], rows) / UNIT,
            "no_change": same,
            "majority": _ratio(int(self._majority()[span].sum()), rows),
            "kappa_temporal": _ratio(accuracy - same, 1 - same),
        }

    def _real(self, span: slice) -> dict[str, float]:
        sums = [math.fsum(column) for column in self._sums[span].T]
        total = _total(self._table[span])
        rows, seen = total[ROWS], total[SAME]
        return {
            "rows": rows,
            "rmse": math.sqrt(_ratio(sums[0], rows)),
            "mae": _ratio(sums[1], rows),
            "no_change": math.sqrt(_ratio(sums[2], seen)),
            "no_change_mae": _ratio(sums[3], seen),
            "mean": math.sqrt(max(0.0, _ratio(math.fsum(self._mean()[span]), rows))),
        }

    def _majority(self) -> Array:
        """Hits of the majority baseline, a bucket each."""
        counts = self._table[:, LABELS:]
        before = np.cumsum(counts, axis=0) - counts
        return np.take_along_axis(counts, before.argmax(axis=1)[:, None], 1)[:, 0]

    def _mean(self) -> Array:
        """Squared error of the mean baseline, a bucket each."""
        rows, y, squares = self._table[:, ROWS], self._sums[:, 4], self._sums[:, 5]
        seen = np.cumsum(rows) - rows
        mean = np.where(seen > 0, (np.cumsum(y) - y) / np.maximum(seen, 1), 0.0)
        return squares - 2 * mean * y + rows * mean * mean

    def _kappa(self) -> float:
        rows = int(self._confusion.sum())
        hit = _ratio(int(np.trace(self._confusion)), rows)
        chance = _ratio(
            float(self._confusion.sum(0).astype(float) @ self._confusion.sum(1).astype(float)), float(rows) ** 2
        )
        return _ratio(hit - chance, 1 - chance)

    def _auc(self) -> float:
        low, high = (side.astype(object) if side.sum() > 1 << 31 else side for side in self._hist)
        below = np.cumsum(low) - low
        pairs = int((high * (2 * below + low)).sum())
        return _ratio(pairs, 2 * int(low.sum()) * int(high.sum()))

    def curve(self, points: int = 2000) -> dict[str, Array]:
        """At most `points` points of the run by global order: `rows` (where a point ends), and means within each point.

        Classes: accuracy, logloss, no_change, majority; regression: rmse, mae, no_change (RMSE), mean (RMSE).
        """
        used = int(np.flatnonzero(self._table[:, ROWS]).max(initial=-1)) + 1
        # A point is never finer than the window, so that the curve is readable at the default bucket size.
        group = max(1, -(-self.window // self.bucket_rows), -(-used // max(1, points)))
        at = np.arange(0, used, group)
        if not used:
            return {"rows": np.zeros(0, np.int64)}

        def fold(column: Array) -> Array:
            return np.add.reduceat(column[:used], at)

        rows = fold(self._table[:, ROWS])
        ends = np.minimum(at + group, used) * self.bucket_rows
        keep, per = rows > 0, np.maximum(rows, 1)
        if self.task == "regression":
            seen = np.maximum(fold(self._table[:, SAME]), 1)
            series = {
                "rmse": np.sqrt(fold(self._sums[:, 0]) / per),
                "mae": fold(self._sums[:, 1]) / per,
                "no_change": np.sqrt(fold(self._sums[:, 2]) / seen),
                "mean": np.sqrt(np.maximum(fold(self._mean()), 0) / per),
            }
        else:
            series = {
                "accuracy": fold(self._table[:, HITS]) / per,
                "logloss": fold(self._table[:, LOSS]) / per / UNIT,
                "no_change": fold(self._table[:, SAME]) / per,
                "majority": fold(self._majority()) / per,
            }
        return {"rows": ends[keep]} | {name: values[keep] for name, values in series.items()}


def _longer(table: Array, size: int) -> Array:
    out = np.zeros((size, table.shape[1]), table.dtype)
    out[: len(table)] = table
    return out


def _halved(table: Array) -> Array:
    """Neighbours joined: bucket i of the result is 2i and 2i + 1."""
    out = _longer(table, -(-len(table) // 2) * 2)
    return out[0::2] + out[1::2]


def _total(table: Array) -> list[int]:
    """Column sums as Python integers: losses of 2^40 rows pass 2^63."""
    return [int((column >> 32).sum()) * (1 << 32) + int((column & 0xFFFFFFFF).sum()) for column in table.T]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
