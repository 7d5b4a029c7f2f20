"""A scikit-learn estimator with `partial_fit` as a model: `model.kind=sklearn model.make=package.module:function`.

What fitting makes (`coef_`, `intercept_`, `coefs_`, ...) is the state, one vector; replicas average its changes since the
base (`t_` is summed), so this is for linear models and networks.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import ConfigError, DataError
from engine.models import loss as losses
from engine.models.mean import Mean
from engine.models.registry import Spec, kind, made_by
from engine.types import Array, Batch

KEPT = ("coef_", "intercept_", "coefs_", "intercepts_")


class Estimator(Mean):
    """`classes` labels (1: a regressor); `batch` rows a `partial_fit`, each batch scored before it is fitted."""

    path, summed = "model/sklearn", 1  # the count of updates, `t_`

    def __init__(self, estimator: Any, width: int, task: str, classes: int, *, batch: int = 32) -> None:
        self.estimator, self.task, self.width, self.batch, self.bad = estimator, task, width, batch, 0
        self.labels = np.arange(2 if task == "binary" else classes)
        # One fit on zeros makes the attributes; weights of linear models then start from zero, as new ones do.
        self._fit(Batch(self.labels * 1.0, self.labels, self.labels, x=np.zeros((len(self.labels), width), np.float32)))
        if not hasattr(estimator, "coef_") and not hasattr(estimator, "coefs_"):
            raise ConfigError(f"sklearn: expected an estimator with coefficients, found {type(estimator).__name__}",
                              fix="a linear model or a network; model.kind=bayes, kmeans or forest for the others")
        if hasattr(estimator, "coef_"):
            self.put(np.append(np.zeros(len(self.flat()) - 1), 1.0))
        self.mark()

    def _fit(self, rows: Batch) -> None:
        y, more = (rows.y, {}) if self.task == "regression" else (rows.y.astype(int), {"classes": self.labels})
        self.estimator.partial_fit(rows.x, y, **more, **({} if rows.weight is None else {"sample_weight": rows.weight}))

    def _arrays(self) -> list[Array]:
        """The estimator's own arrays, in place."""
        found = [getattr(self.estimator, name) for name in KEPT if hasattr(self.estimator, name)]
        return [array for held in found for array in (held if isinstance(held, list) else [held])]

    def flat(self) -> Array:
        """A float64 copy of all of them, and the count of updates last."""
        return np.concatenate([*(np.ravel(a) for a in self._arrays()), [getattr(self.estimator, "t_", 1.0)]], dtype=np.float64)

    def put(self, flat: Array) -> None:
        at = 0
        for array in self._arrays():
            array[...], at = flat[at : at + array.size].reshape(array.shape), at + array.size
        if hasattr(self.estimator, "t_"):
            self.estimator.t_ = type(self.estimator.t_)(flat[-1])

    def predict(self, batch: Batch) -> Array:
        """Values, margins, or log odds of each class; NaN in a row counts as 0."""
        if batch.x is None or batch.x.shape[1] != self.width:
            raise DataError(f"rows: expected {self.width} dense columns, found others")
        x, e = np.nan_to_num(batch.x), self.estimator
        if self.task == "regression" or hasattr(e, "decision_function"):
            return np.asarray(e.predict(x) if self.task == "regression" else e.decision_function(x), np.float32)
        p = np.clip(e.predict_proba(x), losses.FLOOR, 1 - losses.FLOOR)
        scores = (np.log(p) - np.log1p(-p)).astype(np.float32)
        return np.ascontiguousarray(scores[:, 1]) if self.task == "binary" else scores

    def learn(self, batch: Batch) -> Array:
        """Scores of each batch before it is fitted; rows without a label, or with NaN in them, are only scored."""
        out: list[Array] = []
        for at in range(0, len(batch), self.batch):
            part = batch.slice(at, min(at + self.batch, len(batch)))
            out.append(self.predict(part))
            use = np.flatnonzero(np.isfinite(part.x).all(axis=1) & np.isfinite(part.y))  # type: ignore[arg-type]
            self.bad += int(np.count_nonzero(~np.isnan(part.y))) - len(use)
            if len(use):
                self._fit(part.take(use))
                self.rows += float(len(use))
        return np.concatenate(out) if out else np.zeros(0, np.float32)

    def link(self, scores: Array) -> Array:
        return scores if self.task == "regression" else losses.sigmoid(scores).astype(np.float32)


@kind("sklearn")
def build(spec: Spec) -> Estimator:
    """Options: make (section model), batch (section update)."""
    return Estimator(made_by(spec)(spec), spec.schema.width, spec.schema.task, spec.classes, **spec.pick("batch"))
