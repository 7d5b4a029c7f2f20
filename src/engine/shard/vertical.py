"""One linear model whose columns live on different ranks: partial scores are summed, a reduction for every `batch` rows.

The ranks form a grid: `groups` column groups (a rank holds one) by `size / groups` row parts. Vertical: one row part, every
rank sees its columns of every row. Hybrid: each row part has its own rows and a full set of column groups; weights of a
group are averaged over the row parts that hold it, by the rows each learned, after every `exchange` rows.

Within a batch all scores are taken under one state (stale by `batch` rows), then every rank steps along the mean gradient of
its own columns: to rounding what one rank with all columns does in the same batches. What crosses is one float32 a row.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.errors import ConfigError, PeerError
from engine.shard.layout import Columns
from engine.types import Array, Batch, Link

LOSSES: dict[str, tuple[Callable[[Array, Array], Array], Callable[[Array, Array], Array]]] = {}


def loss(name: str) -> Callable[[Callable[[], tuple[Callable[[Array, Array], Array], Callable[[Array, Array], Array]]]], None]:
    """Registers (slope, value) of a loss of (score, label)."""
    def enter(made: Callable[[], tuple[Callable[[Array, Array], Array], Callable[[Array, Array], Array]]]) -> None:
        LOSSES[name] = made()
    return enter


@loss("logistic")
def _logistic() -> tuple[Callable[[Array, Array], Array], Callable[[Array, Array], Array]]:
    def sign(y: Array) -> Array:
        return np.where(y > 0, 1.0, -1.0)

    return (lambda s, y: -sign(y) / (1 + np.exp(sign(y) * s))), (lambda s, y: np.logaddexp(0, -sign(y) * s))


@loss("squared")
def _squared() -> tuple[Callable[[Array, Array], Array], Callable[[Array, Array], Array]]:
    return (lambda s, y: s - y), (lambda s, y: (s - y) ** 2 / 2)


class Vertical:
    """This rank's columns of the model. `learner`: sgd (`rate`) or adagrad (`rate`, `epsilon`); the bias belongs to group 0.

    `link` has `size` ranks, a multiple of `groups`; rank r holds group r % groups of row part r // groups.
    """

    def __init__(self, link: Link, columns: Columns, *, loss: str = "logistic", learner: str = "adagrad", rate: float = 0.1,
                 epsilon: float = 1e-8, batch: int = 32, bias: bool = True) -> None:
        if loss not in LOSSES or learner not in ("sgd", "adagrad"):
            known = " or ".join(LOSSES)
            raise ConfigError(f"vertical: expected loss {known} and learner sgd or adagrad, found {loss}, {learner}")
        if link.size % columns.groups:
            raise ConfigError(f"vertical: expected ranks in multiples of {columns.groups} column groups, found {link.size}",
                              fix="choose groups that divide the ranks")
        if batch < 1:
            raise ConfigError(f"vertical: expected a batch of at least 1 row, found {batch}")
        self.link, self.columns, self.batch = link, columns, batch
        self.rate, self.epsilon, self.learner = rate, epsilon, learner
        self.group, self.part, self.parts = link.rank % columns.groups, link.rank // columns.groups, link.size // columns.groups
        self.slope, self.value = LOSSES[loss]
        mine = columns.of(self.group)
        self.weight, self.square = np.zeros(len(mine) + 1, np.float64), np.zeros(len(mine) + 1, np.float64)
        self.bias = float(bias and self.group == 0)
        self.rows = self.sent_bytes = 0

    def learn(self, rows: Batch) -> Array:
        """Scores of the rows of this row part before each batch is learned; every rank of the part is given the same rows.

        `rows` carries all columns or, as `columns.take` gives them, only those of this group. Parts may differ in rows.
        """
        own = rows if self._taken(rows) else self.columns.take(rows, self.group)
        most = int(self.link.vote(np.array([len(rows)], np.int64), name="rows of a part").max())
        scores = np.empty(len(rows), np.float32)
        for start in range(0, most, self.batch):
            part = own.slice(min(start, len(own)), min(start + self.batch, len(own)))
            total = self._summed(self._partial(part))
            scores[start : start + len(part)] = total
            if len(part):
                self._step(part, self.slope(total, part.y.astype(np.float64)))
        return scores

    def _taken(self, rows: Batch) -> bool:
        return rows.x is not None and rows.x.shape[1] == len(self.weight) - 1 != self.columns.width

    def _partial(self, rows: Batch) -> Array:
        """float64: the part of each row's score that this rank's columns give."""
        made = np.full(len(rows), self.weight[-1] * self.bias)
        if rows.x is not None:
            return made + rows.x @ self.weight[:-1]
        assert rows.indptr is not None and rows.keys is not None
        each = self.weight[rows.keys] if rows.values is None else self.weight[rows.keys] * rows.values
        return made + np.bincount(np.repeat(np.arange(len(rows)), np.diff(rows.indptr)), each, len(rows))

    def _summed(self, partial: Array) -> Array:
        """Sum over the groups of this row part, the same bits on each; one reduction for all parts side by side."""
        if self.parts == 1:
            table = self.link.vote(partial, name="partial scores")
            self.sent_bytes += partial.nbytes
            return np.add.reduce(table, axis=0)
        rows = np.zeros(self.batch)
        rows[: len(partial)] = partial
        table = self.link.vote(rows, name="partial scores").reshape(self.parts, self.columns.groups, self.batch)
        self.sent_bytes += rows.nbytes
        return np.add.reduce(table[self.part], axis=0)[: len(partial)]

    def _step(self, rows: Batch, slope: Array) -> None:
        use = np.isfinite(slope)
        if not use.all():
            rows, slope = rows.take(np.flatnonzero(use)), slope[use]
        if not len(slope):
            return
        slope = slope / len(slope)
        gradient = np.zeros_like(self.weight)
        gradient[-1] = slope.sum() * self.bias
        if rows.x is not None:
            gradient[:-1] = slope @ rows.x
        else:
            assert rows.indptr is not None and rows.keys is not None
            each = np.repeat(slope, np.diff(rows.indptr))
            gradient[:-1] = np.bincount(rows.keys, each if rows.values is None else each * rows.values, len(gradient) - 1)
        if self.learner == "adagrad":
            self.square += gradient * gradient
            gradient = gradient / (np.sqrt(self.square) + self.epsilon)
        self.weight -= self.rate * gradient
        self.rows += len(slope)

    def exchange(self) -> None:
        """Hybrid: row parts agree on each group's weights, averaged by the rows each learned since the last time."""
        if self.parts == 1:
            return
        width = int(self.link.vote(np.array([len(self.weight)], np.int64), name="widths").max())
        mine = np.zeros((2, width))
        mine[0, : len(self.weight)], mine[1, : len(self.square)] = self.weight, self.square
        share = self.link.vote(np.array([float(self.rows)]), name="rows learned")[:, 0].reshape(self.parts, -1)
        table = self.link.vote(mine, name="weights of row parts").reshape(self.parts, self.columns.groups, 2, width)
        total = share[:, self.group].sum()
        if total > 0:
            made = np.tensordot(share[:, self.group] / total, table[:, self.group], 1)
            self.weight[:], self.square[:] = made[0, : len(self.weight)], made[1, : len(self.square)]
        self.rows = 0

    def whole(self) -> Array:
        """float64 `(width + 1,)`: the weights of all columns and the bias, on every rank."""
        parts = self.link.allgather(self.weight, name="weights of all columns")
        made = np.zeros(self.columns.width + 1)
        for group in range(self.columns.groups):
            part = parts[self.part * self.columns.groups + group]
            if len(part) != len(self.columns.of(group)) + 1:
                raise PeerError(f"rank {group} holds {len(part) - 1} columns, expected {len(self.columns.of(group))}")
            made[self.columns.of(group)] = part[:-1]
        made[-1] = parts[self.part * self.columns.groups][-1]
        return made
