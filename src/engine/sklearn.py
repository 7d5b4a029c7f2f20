"""Estimators for scikit-learn: a Session behind `fit`, `partial_fit`, `predict`. scikit-learn is imported here only.

    from engine.sklearn import Classifier, Regressor
    Classifier(learner="nag").fit(x, y).predict_proba(x)

Parameters are settings by their full name (`settings={"exchange.every": 32}`) and the commonest by their own.  Where `comm` is
an mpi4py communicator every call that learns is collective.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from engine.session import Session
from engine.types import Array


class _Learner(BaseEstimator):
    """What both estimators are: dense or CSR rows, in `epochs` passes of `fit`, one of `partial_fit`."""

    _task = ""

    def __init__(self, *, learner: str = "nag", loss: str | None = None, rate: float | None = None, l1: float | None = None,
                 l2: float | None = None, epochs: int = 5, random_state: Any = 0, comm: Any = None,
                 settings: Mapping[str, Any] | None = None) -> None:
        self.learner, self.loss, self.rate, self.l1, self.l2 = learner, loss, rate, l1, l2
        self.epochs, self.random_state, self.comm, self.settings = epochs, random_state, comm, settings

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _begin(self, x: Any, task: str, classes: int = 2) -> None:
        """A new session for rows like `x`."""
        named = {"model.learner": self.learner, "model.loss": self.loss, "model.rate": self.rate, "model.l1": self.l1,
                 "model.l2": self.l2, "loop.threads": 1}
        given = {name: value for name, value in named.items() if value is not None} | dict(self.settings or {})
        self.sparse_ = not isinstance(x, np.ndarray)
        self.session_ = Session(self.comm, width=x.shape[1], task=task, classes=classes, sparse=self.sparse_, **given)

    def _rows(self, x: Any) -> Any:
        """Rows of the kind that the session learns."""
        if isinstance(x, np.ndarray):
            if not self.sparse_:
                return x
            from scipy.sparse import csr_array

            return csr_array(x)
        return x.tocsr() if self.sparse_ else x.toarray()

    def _checked(self, x: Any, y: Any, reset: bool, **more: Any) -> tuple[Any, Array]:
        x, y = validate_data(self, x, y, accept_sparse="csr", dtype=np.float64, reset=reset, **more)
        return x, y

    def _epochs(self, x: Any, y: Array, weight: Array | None) -> None:
        """Passes over the rows, each in an order of its own."""
        order = np.random.default_rng(None if self.random_state is None else _seed(self.random_state))
        rows = self._rows(x)
        for _ in range(self.epochs):
            turn = order.permutation(len(y))
            self.session_.partial_fit(rows[turn], y[turn], weight=None if weight is None else weight[turn])
        self.n_iter_ = self.epochs

    def _scores(self, x: Any) -> Array:
        check_is_fitted(self)
        x = validate_data(self, x, accept_sparse="csr", dtype=np.float64, reset=False)
        found: Array = self.session_.predict(self._rows(x)).astype(np.float64)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Pickles the model's state, not the session: a communicator cannot leave its job."""
        state = dict(super().__getstate__())
        session = state.pop("session_", None)
        state["comm"] = None
        if session is not None:
            blocks = session._job.team.models[0].state()
            state["_state"] = session.schema, session.config, {path: block.data for path, block in blocks.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state.pop("_state", None)
        super().__setstate__(state)
        if kept is not None:
            from engine.types import Block

            schema, config, blocks = kept
            self.session_ = Session(None, width=schema.width, task=schema.task, classes=max(2, len(schema.labels)),
                                    sparse=schema.sparse, config=config)
            for model in self.session_._job.team.models:
                model.load({path: Block(data) for path, data in blocks.items()})


class Classifier(ClassifierMixin, _Learner):
    """Two classes or more (one against the rest)."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Classifier:
        """Learns from nothing, in `epochs` passes."""
        x, y = self._checked(X, y, True)
        check_classification_targets(y)
        self._classes(np.unique(y), x)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, x)
        self._epochs(x, np.searchsorted(self.classes_, y), weight)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Classifier:
        """Learns these rows once; `classes`: all there will be, at the first call."""
        first = not hasattr(self, "session_")
        x, y = self._checked(X, y, first)
        check_classification_targets(y)
        if first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit")
            self._classes(np.unique(classes), x)
        elif classes is not None and not np.array_equal(self.classes_, np.unique(classes)):
            raise ValueError(f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}")
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"expected labels of {self.classes_!r}, found {unknown!r}")
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, x)
        self.session_.partial_fit(self._rows(x), np.searchsorted(self.classes_, y), weight=weight)
        return self

    def _classes(self, classes: Array, x: Any) -> None:
        if len(classes) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: found {classes!r}")
        self.classes_ = classes
        self._begin(x, "binary" if len(classes) == 2 else "multiclass", len(classes))

    def decision_function(self, X: Any) -> Array:
        """Margins (n,), or (n, classes)."""
        return self._scores(X)

    def predict(self, X: Any) -> Array:
        scores = self._scores(X)
        found: Array = self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]
        return found

    def predict_proba(self, X: Any) -> Array:
        """Logistic of the margins, over their sum where there are more than two classes; (n, classes)."""
        scores = self._scores(X)
        each = 0.5 * (1 + np.tanh(0.5 * scores))
        return np.stack([1 - each, each], 1) if scores.ndim == 1 else each / each.sum(1, keepdims=True)


class Regressor(RegressorMixin, _Learner):
    """One real target; it is learned in units of the standard deviation that the first rows have."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Regressor:
        """Learns from nothing, in `epochs` passes."""
        x, y = self._checked(X, y, True, y_numeric=True)
        self._units(y, x)
        self._epochs(x, self._scaled(y), None if sample_weight is None else _check_sample_weight(sample_weight, x))
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Regressor:
        """Learns these rows once."""
        first = not hasattr(self, "session_")
        x, y = self._checked(X, y, first, y_numeric=True)
        if first:
            self._units(y, x)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, x)
        self.session_.partial_fit(self._rows(x), self._scaled(y), weight=weight)
        return self

    def _units(self, y: Array, x: Any) -> None:
        self.mean_, self.unit_ = float(np.mean(y)), float(np.std(y)) or 1.0
        if self.comm is not None:
            total = self.comm.allreduce(np.array([len(y), np.sum(y), np.sum(np.square(y))]))
            self.mean_ = float(total[1] / total[0])
            self.unit_ = float(np.sqrt(max(0.0, total[2] / total[0] - self.mean_**2))) or 1.0
        self._begin(x, "regression")

    def _scaled(self, y: Array) -> Array:
        return (y - self.mean_) / self.unit_

    def predict(self, X: Any) -> Array:
        return self._scores(X) * self.unit_ + self.mean_


def _seed(state: Any) -> int:
    """A seed of an int or a RandomState."""
    return int(state) if isinstance(state, int | np.integer) else int(state.randint(2**31 - 1))
