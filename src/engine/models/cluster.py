"""Streaming k-means with decay: centres follow the rows; where labels are there, a cluster predicts by its own.

Centres that are missing are proposed by the first rows: replicas send theirs under keys of the global order, which a sum
leaves apart, and all take the earliest; what a replica's own clusters had goes to the nearest of those taken.

Row by row: the nearest centre moves to the mean of its rows, each row that came before faded by `0.5 ** (1 / half_life)`.
What travels is rows and sums.  A total over replicas fades a centre's base by the rows it had from all of them.
"""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.errors import ConfigError, DataError, ShardError, StoreError
from engine.kernels import _native
from engine.models import loss as losses
from engine.models.registry import DENSE, Spec, kind
from engine.types import Array, Batch, Block, State, Update

PROPOSED = 1 << 31  # + order of the row: key of a proposed centre
ROWS = 0xFFFFFFFF


class Kmeans:
    """`k` centres of `width` columns, the first k distinct rows to begin with; `half_life` in rows of a centre (0 = never).

    Scores: for `outputs` classes the log odds of each by the labels its cluster has seen; `outputs` 0: the value is the
    mean label of the cluster.  `batch`: rows assigned at once.  `nearest` gives clusters and squared distances.
    """

    def __init__(self, width: int, k: int = 8, *, outputs: int = 0, binary: bool = False, half_life: float = 0.0,
                 batch: int = 64, tracked: bool = True) -> None:
        if k < 1 or half_life < 0 or batch < 1:
            raise ConfigError(f"kmeans: expected k >= 1, half_life >= 0 and batch >= 1, found {k}, {half_life} and {batch}")
        self.options = {"width": width, "k": k, "outputs": outputs, "binary": binary, "half_life": half_life,
                        "batch": batch, "tracked": tracked}
        self.bad, self._rows, self.distance = 0, 0.0, 0.0
        self.width, self.k, self.half_life, self.batch, self.outputs = width, k, half_life, batch, outputs
        # A centre: rows, sum of each column, then labels a class (or rows with a label and their sum).
        self.data = np.zeros((k, 1 + width + max(outputs, 2)))
        self.centres = np.full((k, width), np.nan)
        self._mark()

    def _mark(self) -> None:
        self._base, self._base_centres = self.data.copy(), self.centres.copy()
        self._gain, self._rows = np.zeros_like(self.data), 0.0
        self._count = np.zeros(self.k)
        self._seeds = np.full(self.k, -1)  # order of the row that a centre missing at the base began with
        self._first = np.zeros_like(self.centres)

    def nearest(self, x: Array) -> tuple[Array, Array]:
        """Cluster int64 and squared distance float64 of each row; cluster -1 before there is one."""
        there = np.flatnonzero(np.isfinite(self.centres).all(axis=1))
        if not len(there):
            return np.full(len(x), -1), np.full(len(x), np.nan)
        c, wide = self.centres[there], x.astype(np.float64)
        off = c.mean(axis=0)
        gap = wide - off
        d = (gap * gap).sum(axis=1)[:, None] - 2 * gap @ (c - off).T + ((c - off) ** 2).sum(axis=1)
        best = d.argmin(axis=1)
        return there[best], np.maximum(d[np.arange(len(x)), best], 0)

    def _x(self, batch: Batch) -> Array:
        if batch.x is None or batch.x.shape[1] != self.width:
            raise DataError(f"rows: expected {self.width} dense columns, found "
                            + ("sparse ones" if batch.x is None else str(batch.x.shape[1])))
        return batch.x

    def predict(self, batch: Batch) -> Array:
        """Scores by the labels of each row's cluster; changes nothing."""
        return self._scored(self.nearest(np.nan_to_num(self._x(batch)))[0])

    def _scored(self, cluster: Array) -> Array:
        return self._shares(np.concatenate([self._labels(), np.zeros((1, max(self.outputs, 2)))])[cluster])

    def _shares(self, seen: Array) -> Array:
        if not self.outputs:
            return np.asarray(seen[:, 1] / np.maximum(seen[:, 0], 1e-300), np.float32)
        share = (seen + 1e-3) / (seen.sum(axis=1, keepdims=True) + 1e-3 * self.outputs)
        p = np.clip(share, losses.FLOOR, 1 - losses.FLOOR)
        scores = (np.log(p) - np.log1p(-p)).astype(np.float32)
        return np.ascontiguousarray(scores[:, 1]) if self.options["binary"] else scores

    def learn(self, batch: Batch) -> Array:
        """Scores of each chunk before it is learned; rows with NaN or infinity are only scored. Labels may be absent."""
        out = [self._learn(batch.slice(at, min(at + self.batch, len(batch)))) for at in range(0, len(batch), self.batch)]
        return np.concatenate(out) if out else self.predict(batch)

    def _learn(self, rows: Batch) -> Array:
        x, y = self._x(rows), rows.y
        fine = np.asarray(np.isfinite(x).all(axis=1))
        if not fine.all():
            self.bad += int(np.count_nonzero(~fine))
        if np.isnan(self.centres).any():
            self._seed(x[fine], rows.order[fine])
        if self.options["binary"]:
            y = np.where(np.isfinite(y), y > 0, y).astype(np.float32)
        seen = self._labels()
        if not fine.any() or np.isnan(self.centres[:, 0]).all():
            return self._shares(np.zeros((len(rows), seen.shape[1])))
        return self._scored_rows(np.ascontiguousarray(x, np.float32), np.ascontiguousarray(y, np.float32))

    def _labels(self) -> Array:
        return self.data[:, 1 + self.width :]

    def _scored_rows(self, x: Array, y: Array) -> Array:
        """Learns rows one after another; their scores are those of the clusters before the chunk."""
        before = np.concatenate([self._labels(), np.zeros((1, max(self.outputs, 2)))])
        cluster, far = np.empty(len(x), np.int64), np.empty(len(x))
        there = np.flatnonzero(~np.isnan(self.centres[:, 0]))
        data, gain, centres = (np.ascontiguousarray(a[there]) for a in (self.data, self._gain, self.centres))
        fade = 0.5 ** (1 / self.half_life) if self.half_life else 1.0
        try:
            _native.kmeans_learn(data, gain, centres, bool(self.outputs), fade, x, y, cluster, far)
        except ValueError as error:
            raise DataError(str(error), fix="make the model with more classes (model.classes)") from None
        self.data[there], self._gain[there], self.centres[there] = data, gain, centres
        used = cluster >= 0
        cluster[used] = there[cluster[used]]
        self._count += np.bincount(cluster[used], minlength=self.k)
        self._rows += float(used.sum())
        self.distance += float(far[used].sum())
        return self._shares(before[cluster])

    def _seed(self, x: Array, order: Array) -> None:
        """The first distinct rows become the centres that are missing."""
        missing = np.flatnonzero(np.isnan(self.centres[:, 0])).tolist()
        for row, place in zip(x.astype(np.float64), order.tolist(), strict=True):
            if not missing:
                break
            if not (self.centres == row).all(axis=1).any():
                at = missing.pop(0)
                self.centres[at] = self._first[at] = row
                self._seeds[at] = place

    def _place(self) -> None:
        n = self.data[:, 0]
        moved = n > 0
        self.centres[moved] = self.data[moved, 1 : 1 + self.width] / n[moved, None]

    def link(self, scores: Array) -> Array:
        return losses.sigmoid(scores).astype(np.float32) if self.outputs else scores

    def state(self) -> State:
        """`model/clusters` float64 (rows, sums and labels a centre), `model/centres` float64 `(k, width)`."""
        return {"model/clusters": Block(self.data.copy()), "model/centres": Block(self.centres.copy())}

    def load(self, state: Mapping[str, Block]) -> None:
        for path, mine in (("model/clusters", self.data), ("model/centres", self.centres)):
            found = state[path].data.shape if path in state else None
            if found != mine.shape:
                raise StoreError(f"{path}: expected shape {mine.shape}, found {found}",
                                 fix="load into a model made with the same options")
            mine[...] = state[path].data
        self._mark()

    def fork(self) -> Kmeans:
        twin = Kmeans(**self.options)  # type: ignore[arg-type]
        twin.load(self.state())
        return twin

    def update(self) -> Update:
        """A row a centre: rows, sums and labels since the base, then where a proposed centre began."""
        if not self.options["tracked"]:
            raise ShardError("update: this model does not track changes", fix="make it with tracked=True")
        keys = np.where(self._seeds >= 0, PROPOSED + self._seeds % (PROPOSED - 1), np.arange(self.k))
        values = np.concatenate([self._gain, self._first, self._count[:, None]], axis=1)
        use = np.flatnonzero(self._gain[:, 0] > 0)
        use = use[np.argsort(keys[use])]
        count = np.zeros((1, values.shape[1]))
        count[0, 0] = self._rows
        return Update(np.append(keys[use], ROWS).astype(np.uint32), np.concatenate([values[use], count]), self._rows)

    def merge(self, total: Update, ranks: int) -> None:
        """Back to the base, then the total: the new base."""
        assert total.keys is not None
        keys, width = total.keys.astype(np.int64), self._gain.shape[1]
        gain, first, count = total.values[:, :width], total.values[:, width:-1], total.values[:, -1]
        known, new = keys < self.k, np.flatnonzero((keys >= PROPOSED) & (keys != ROWS))
        self.data, self.centres = self._base.copy(), self._base_centres.copy()
        if self.half_life:
            self.data[keys[known]] *= 0.5 ** (count[known] / self.half_life)[:, None]
        self.data[keys[known]] += gain[known]
        missing = np.flatnonzero(np.isnan(self.centres[:, 0])).tolist()
        for at in new.tolist():
            if missing and not (self.centres == first[at]).all(axis=1).any():
                self.centres[missing.pop(0)] = first[at]
        if len(new):
            np.add.at(self.data, self.nearest(first[new])[0], gain[new])
        self._place()
        self._mark()


@kind("kmeans")
def build(spec: Spec) -> Kmeans:
    """Options of section kmeans: k, half_life."""
    if spec.schema.sparse:
        raise ConfigError("kmeans: expected dense columns, found a sparse source", fix=DENSE)
    outputs = {"regression": 0, "binary": 2}.get(spec.schema.task, spec.classes)
    return Kmeans(spec.schema.width, outputs=outputs, binary=spec.schema.task == "binary", tracked=spec.tracked,
                  **spec.pick("k", "half_life", "batch"))
