"""Statistics that merge exactly: moments, Gaussian naive Bayes, ridge, incremental PCA. A sum over ranks equals one pass.

Second moments are kept about a mean (Chan, Golub and LeVeque 1979), so they are as good as two passes; what travels is
the sum about the base's mean, float64.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.errors import ConfigError, DataError, ShardError, StoreError
from engine.kernels import _native
from engine.models import loss as losses
from engine.models import scale as scaler
from engine.models.registry import DENSE, Spec, kind
from engine.types import Array, Batch, Block, State, Update


def moments(x: Array) -> Array:
    """Statistics float64 `(columns, 3)` of rows: n, mean, sum of squared deviations."""
    wide = x.astype(np.float64)
    n, mean = len(wide), wide.mean(axis=0) if len(wide) else np.zeros(wide.shape[1])
    return np.stack([np.full(wide.shape[1], float(n)), mean, ((wide - mean) ** 2).sum(axis=0)], axis=1)


class Moments:
    """Count, mean and variance of each column, exactly mergeable."""

    def __init__(self, columns: int) -> None:
        self.data = np.zeros((columns, 3))
        self._base = self.data.copy()

    def add(self, x: Array) -> None:
        self.data[:] = scaler.join(self.data, moments(x))

    @property
    def mean(self) -> Array:
        return self.data[:, 1]

    @property
    def variance(self) -> Array:
        """With n - 1; 0 before the second row."""
        return self.data[:, 2] / np.maximum(self.data[:, 0] - 1, 1)

    def update(self) -> Array:
        """Additive float64 `(columns, 3)` since the base."""
        return scaler.since(self._base, self.data)

    def merge(self, total: Array) -> None:
        self.data[:] = scaler.advance(self._base, total)
        self._base = self.data.copy()

    def load(self, data: Array) -> None:
        self.data[:] = data
        self._base = self.data.copy()


class Scatter:
    """Count, mean and scatter matrix `(d, d)` of rows with weights, exactly mergeable: what ridge and PCA solve from."""

    def __init__(self, width: int) -> None:
        self.n, self.mean, self.square = 0.0, np.zeros(width), np.zeros((width, width))
        self.mark()

    def mark(self) -> None:
        self._base = (self.n, self.mean.copy(), self.square.copy())

    def add(self, rows: Array, weight: Array | None = None) -> None:
        """Takes rows `(n, d)` in."""
        w = np.ones(len(rows)) if weight is None else weight.astype(np.float64)
        n = float(w.sum())
        if n <= 0:
            return
        wide = rows.astype(np.float64)
        mean = w @ wide / n
        gap = wide - mean
        self._join(n, mean, (gap * w[:, None]).T @ gap)

    def _join(self, n: float, mean: Array, square: Array) -> None:
        total = self.n + n
        gap = mean - self.mean
        self.square += square + np.outer(gap, gap) * (self.n * n / total)
        self.mean = self.mean + gap * (n / total)
        self.n = total

    def fade(self, share: float) -> None:
        """The rows so far count this share of what they did."""
        self.n *= share
        self.square *= share

    def update(self) -> Array:
        """Additive float64 `(d + 1, d + 1)` since the base: sums about the base's mean, of the rows with a 1 before them."""
        n0, mean0, square0 = self._base
        gap = self.mean - mean0
        add = self.n * gap
        out = np.empty((len(gap) + 1, len(gap) + 1))
        out[0, 0], out[0, 1:], out[1:, 0] = self.n - n0, add, add
        out[1:, 1:] = self.square + self.n * np.outer(gap, gap) - square0
        return out

    def merge(self, total: Array) -> None:
        """Back to the base, then the rows behind `total`: the new base."""
        self.n, self.mean, self.square = self._base[0], self._base[1].copy(), self._base[2].copy()
        n, add = float(total[0, 0]), total[0, 1:]
        if n > 0:
            off = add / n
            self._join(n, self.mean + off, total[1:, 1:] - n * np.outer(off, off))
        self.mark()

    def state(self) -> Array:
        """float64 `(d + 1, d + 1)`: n and the mean in the first row, then the scatter."""
        out = np.zeros((len(self.mean) + 1, len(self.mean) + 1))
        out[0, 0], out[0, 1:], out[1:, 1:] = self.n, self.mean, self.square
        return out

    def load(self, data: Array) -> None:
        self.n, self.mean, self.square = float(data[0, 0]), data[0, 1:].copy(), data[1:, 1:].copy()
        self.mark()


class Pca:
    """Incremental principal components by the covariance: `transform` projects rows on the `components` largest."""

    def __init__(self, width: int, components: int) -> None:
        if not 1 <= components <= width:
            raise ConfigError(f"pca: expected 1 to {width} components, found {components}")
        self.components, self.scatter = components, Scatter(width)

    def add(self, x: Array) -> None:
        self.scatter.add(x)

    def axes(self) -> tuple[Array, Array]:
        """Axes `(components, d)`, largest variance first, each with its largest entry positive; and their variances."""
        values, vectors = np.linalg.eigh(self.scatter.square / max(self.scatter.n - 1, 1))
        axes = vectors.T[::-1][: self.components]
        lead = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], 1)
        return axes * np.sign(lead), np.maximum(values[::-1][: self.components], 0)

    def transform(self, x: Array) -> Array:
        """Rows about the mean so far, on the axes: float32 `(n, components)`."""
        return ((x - self.scatter.mean) @ self.axes()[0].T).astype(np.float32)


class _Chunked:
    """What the statistical models share: chunks of `batch` rows are scored, then learned; dense float64 Updates."""

    def __init__(self, width: int, batch: int, tracked: bool) -> None:
        self.width, self.batch, self.tracked = width, batch, tracked
        self.bad, self._rows = 0, 0.0

    def _columns(self, batch: Batch) -> Array:
        if batch.x is None or batch.x.shape[1] != self.width:
            found = "sparse ones" if batch.x is None else f"{batch.x.shape[1]} columns"
            raise DataError(f"rows: expected {self.width} dense columns, found {found}",
                            fix="give columns as the model was made for")
        return batch.x

    def learn(self, batch: Batch) -> Array:
        """Scores of each chunk before it is learned; rows without a label, or with NaN or infinity, are only scored."""
        out = [self._learn(batch.slice(at, min(at + self.batch, len(batch)))) for at in range(0, len(batch), self.batch)]
        return np.concatenate(out) if out else self.predict(batch)

    def predict(self, batch: Batch) -> Array:
        raise NotImplementedError

    def _take(self, x: Array, y: Array, weight: Array | None) -> None:
        raise NotImplementedError

    def _learn(self, rows: Batch) -> Array:
        scores, x = self.predict(rows), self._columns(rows)
        labelled = ~np.isnan(rows.y)
        use = labelled & np.isfinite(x).all(axis=1) & np.isfinite(rows.y)
        self.bad += int(np.count_nonzero(labelled & ~use))
        if use.all():
            self._take(x, rows.y, rows.weight)
        elif use.any():
            self._take(x[use], rows.y[use], None if rows.weight is None else rows.weight[use])
        self._rows += float(np.count_nonzero(use))
        return scores

    def _tracks(self) -> None:
        if not self.tracked:
            raise ShardError("update: this model does not track changes", fix="make it with tracked=True")


class Bayes(_Chunked):
    """Gaussian naive Bayes over dense columns, row by row; `floor`: share of the largest variance added to each, as
    scikit-learn has it."""

    def __init__(self, width: int, classes: int = 2, *, binary: bool = False, batch: int = 4096, floor: float = 1e-9,
                 tracked: bool = True) -> None:
        super().__init__(width, batch, tracked)
        self.classes, self.binary, self.floor = classes, binary, floor
        self.data = np.zeros((classes, width, 3))
        self._base = self.data.copy()

    def predict(self, batch: Batch) -> Array:
        """Log odds of each class `(n, classes)`, or of the positive class `(n,)`."""
        return self._run(batch, np.full(len(batch), np.nan, np.float32), False)

    def _learn(self, rows: Batch) -> Array:
        y = np.ascontiguousarray(rows.y, np.float32)
        x = self._columns(rows)
        use = np.isfinite(x).all(axis=1) & np.isfinite(y)
        if rows.weight is not None:
            if not np.isin(rows.weight[use], (0, 1)).all():
                raise DataError("bayes: expected weights of 0 or 1", fix="repeat rows instead")
            y = np.where(rows.weight > 0, y, np.float32(np.nan)).astype(np.float32)
        self.bad += int(np.count_nonzero(~np.isnan(rows.y) & ~use))
        self._rows += float(np.count_nonzero(use))
        return self._run(rows, np.where(np.isnan(y), y, y > 0).astype(np.float32) if self.binary else y, True)

    def _run(self, rows: Batch, y: Array, learn: bool) -> Array:
        joint = np.empty((len(rows), self.classes))
        x = np.ascontiguousarray(self._columns(rows), np.float32)
        if not _native.bayes_learn(self.data, self.floor, x, y, joint, learn):
            raise DataError(f"label: expected a class from 0 to {self.classes - 1}, found another",
                            fix="make the model with more classes (model.classes)")
        joint[~np.isfinite(joint).any(axis=1)] = 0  # no class has rows yet, or the row has NaN in it
        p = np.exp(np.nan_to_num(joint, nan=-np.inf) - joint.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        if self.binary:
            p = np.clip(p, losses.FLOOR, 1)
            return np.ascontiguousarray(np.log(p[:, 1]) - np.log(p[:, 0]), np.float32)
        p = np.clip(p, losses.FLOOR, 1 - losses.FLOOR)
        return (np.log(p) - np.log1p(-p)).astype(np.float32)

    def link(self, scores: Array) -> Array:
        return losses.sigmoid(scores).astype(np.float32)

    def state(self) -> State:
        """`model/bayes` float64 `(classes, columns, 3)`: n, mean, sum of squared deviations."""
        return {"model/bayes": Block(self.data.copy())}

    def load(self, state: Mapping[str, Block]) -> None:
        _fill(self.data, state, "model/bayes")
        self._base, self._rows = self.data.copy(), 0.0

    def fork(self) -> Bayes:
        twin = Bayes(self.width, self.classes, binary=self.binary, batch=self.batch, floor=self.floor, tracked=self.tracked)
        twin.load(self.state())
        return twin

    def update(self) -> Update:
        self._tracks()
        flat = scaler.since(self._base.reshape(-1, 3), self.data.reshape(-1, 3))
        return Update(None, flat, self._rows)

    def merge(self, total: Update, ranks: int) -> None:
        self.data[:] = scaler.advance(self._base.reshape(-1, 3), total.values).reshape(self.data.shape)
        self._base, self._rows = self.data.copy(), 0.0


class Ridge(_Chunked):
    """Least squares with an l2 penalty, solved exactly from the rows so far (a class: one against the rest on -1, 1).

    `l2` is the penalty on the weights, not on the intercept, as scikit-learn's alpha; `half_life` > 0: rows after which
    a row counts half.
    """

    def __init__(self, width: int, outputs: int = 1, *, task: str = "regression", l2: float = 1.0, half_life: float = 0.0,
                 batch: int = 32, tracked: bool = True) -> None:
        super().__init__(width, batch, tracked)
        if l2 < 0 or half_life < 0:
            raise ConfigError(f"ridge: expected l2 and half_life >= 0, found {l2} and {half_life}")
        self.outputs, self.task, self.l2, self.half_life = outputs, task, l2, half_life
        self.scatter = Scatter(width + outputs)
        self._solved: tuple[Array, Array] | None = None

    def weights(self) -> tuple[Array, Array]:
        """Weights `(d, outputs)` and intercepts `(outputs,)`, float64."""
        if self._solved is None:
            d, s = self.width, self.scatter
            a = s.square[:d, :d] + (self.l2 + 1e-12 * max(float(np.trace(s.square[:d, :d])) / d, 1.0)) * np.eye(d)
            w = np.linalg.solve(a, s.square[:d, d:])
            self._solved = w, s.mean[d:] - s.mean[:d] @ w
        return self._solved

    def predict(self, batch: Batch) -> Array:
        """Values `(n,)`, or a margin a class."""
        w, b = self.weights()
        out = (self._columns(batch).astype(np.float64) @ w + b).astype(np.float32)
        return np.ascontiguousarray(out[:, 0]) if self.outputs == 1 else out

    def _take(self, x: Array, y: Array, weight: Array | None) -> None:
        if self.task == "regression":
            goal = y[:, None]
        elif self.task == "binary":
            goal = np.where(y > 0, 1.0, -1.0)[:, None]
        else:
            if y.min() < 0 or y.max() >= self.outputs:
                raise DataError(f"label: expected a class from 0 to {self.outputs - 1}, found {y.max():g}",
                                fix="make the model with more classes (model.classes)")
            goal = np.where(y[:, None] == np.arange(self.outputs), 1.0, -1.0)
        if self.half_life:
            self.scatter.fade(0.5 ** (len(y) / self.half_life))
        self.scatter.add(np.concatenate([x, goal], axis=1), weight)
        self._solved = None

    def link(self, scores: Array) -> Array:
        return scores

    def state(self) -> State:
        """`model/ridge` float64 `(d + outputs + 1,) * 2`: rows, means and scatter of columns and targets."""
        return {"model/ridge": Block(self.scatter.state())}

    def load(self, state: Mapping[str, Block]) -> None:
        found = self.scatter.state()
        _fill(found, state, "model/ridge")
        self.scatter.load(found)
        self._solved, self._rows = None, 0.0

    def fork(self) -> Ridge:
        twin = Ridge(self.width, self.outputs, task=self.task, l2=self.l2, half_life=self.half_life, batch=self.batch,
                     tracked=self.tracked)
        twin.load(self.state())
        return twin

    def update(self) -> Update:
        self._tracks()
        if self.half_life:  # what has faded of the base is not the rows' own: take them alone
            n, mean, square = self.scatter._base
            own = Scatter(self.width + self.outputs)
            own.n, own.mean, own.square = self.scatter.n, self.scatter.mean.copy(), self.scatter.square.copy()
            share = 0.5 ** (self._rows / self.half_life)
            own._base = (n * share, mean, square * share)
            return Update(None, np.concatenate([own.update(), np.full((1, own.update().shape[1]), self._rows)]), self._rows)
        found = self.scatter.update()
        return Update(None, np.concatenate([found, np.full((1, found.shape[1]), self._rows)]), self._rows)

    def merge(self, total: Update, ranks: int) -> None:
        if self.half_life:
            n, mean, square = self.scatter._base
            share = 0.5 ** (float(total.values[-1, 0]) / self.half_life)
            self.scatter._base = (n * share, mean, square * share)
        self.scatter.merge(total.values[:-1])
        self._solved, self._rows = None, 0.0


def _fill(into: Array, state: Mapping[str, Block], path: str) -> None:
    found = state[path].data.shape if path in state else None
    if found != into.shape:
        raise StoreError(f"{path}: expected shape {into.shape}, found {found}",
                         fix="load into a model made with the same options")
    into[...] = state[path].data


def _dense(spec: Spec) -> dict[str, Any]:
    if spec.schema.sparse:
        raise ConfigError("statistics: expected dense columns, found a sparse source", fix=DENSE)
    return {"tracked": spec.tracked, **spec.pick("batch")}


@kind("bayes")
def build_bayes(spec: Spec) -> Bayes:
    """Gaussian naive Bayes."""
    if spec.schema.task == "regression":
        raise ConfigError("bayes: expected classes, found a regression task", fix="model.kind=ridge")
    binary = spec.schema.task == "binary"
    return Bayes(spec.schema.width, 2 if binary else spec.classes, binary=binary, tracked=_dense(spec)["tracked"])


@kind("ridge")
def build_ridge(spec: Spec) -> Ridge:
    """Streaming ridge; options l2 (section model) and half_life (section stats)."""
    outputs = spec.classes if spec.schema.task == "multiclass" else 1
    return Ridge(spec.schema.width, outputs, task=spec.schema.task, **_dense(spec), **spec.pick("l2", "half_life"))
