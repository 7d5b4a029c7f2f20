"""Models for River: a Session behind `learn_one` and `predict_one`. River is imported here only.

    from engine.river import Classifier, Regressor
    evaluate.progressive_val_score(stream, Classifier(), metrics.Accuracy())

Features are named as they come, up to `width` of them: numbers as they are, anything else as an indicator of name and value.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from river import base

from engine.errors import DataError
from engine.session import Session
from engine.types import Array, Batch, Block


class _Learner:
    """Rows of named features for a sparse session of this process."""

    _task = ""

    def __init__(self, learner: str = "nag", loss: str | None = None, rate: float | None = None, width: int = 1 << 18,
                 settings: Mapping[str, Any] | None = None) -> None:
        self.learner, self.loss, self.rate, self.width, self.settings = learner, loss, rate, width, settings
        given = {"model.learner": learner, "model.loss": loss, "model.rate": rate, "loop.threads": 1, **(settings or {})}
        self._session = Session(width=width, task=self._task, sparse=True,
                                **{name: value for name, value in given.items() if value is not None})
        self._place: dict[Any, int] = {}

    @property
    def _model(self) -> Any:
        return self._session._job.team.models[0]

    def __getstate__(self) -> dict[str, Any]:
        """Pickles the model's state in place of the session."""
        state = {name: value for name, value in self.__dict__.items() if name != "_session"}
        return state | {"_blocks": {path: block.data for path, block in self._model.state().items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        blocks = state.pop("_blocks")
        _Learner.__init__(self, *(state[name] for name in ("learner", "loss", "rate", "width", "settings")))
        self.__dict__.update(state)
        self._model.load({path: Block(data) for path, data in blocks.items()})

    def _row(self, x: Mapping[Any, Any], y: float, weight: float = 1.0) -> Batch:
        """One row; a feature not seen before gets the next place. DataError where there are more than `width`."""
        keys, values = np.empty(len(x), np.uint32), np.ones(len(x), np.float32)
        for at, (name, value) in enumerate(x.items()):
            number = isinstance(value, int | float | np.number)
            key = name if number else (name, value)
            keys[at] = self._place.setdefault(key, len(self._place))
            if number:
                values[at] = value
        if len(self._place) > self.width:
            raise DataError(f"river: expected at most {self.width} features, found {len(self._place)}", fix="raise width")
        return Batch(np.array([y], np.float32), np.zeros(1, np.int64), np.full(1, np.nan, np.float32), keys=keys, values=values,
                     indptr=np.array([0, len(x)], np.int64), weight=None if weight == 1.0 else np.array([weight], np.float32))

    def _learn(self, x: Mapping[Any, Any], y: float, weight: float) -> None:
        self._model.learn(self._row(x, y, weight))

    def _score(self, x: Mapping[Any, Any]) -> float:
        found: Array = self._model.predict(self._row(x, np.nan))
        return float(found[0])


class Classifier(_Learner, base.Classifier):
    """Two classes: False and True (or 0 and 1), else as they are seen first."""

    _task = "binary"

    def __init__(self, learner: str = "nag", loss: str | None = None, rate: float | None = None, width: int = 1 << 18,
                 settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(learner, loss, rate, width, settings)
        self._labels: list[Any] = []

    @property
    def _multiclass(self) -> bool:
        return False

    def learn_one(self, x: Mapping[Any, Any], y: Any, w: float = 1.0) -> None:
        if y not in self._labels:
            if len(self._labels) == 2:
                raise DataError(f"river: expected the classes {self._labels[0]!r} and {self._labels[1]!r}, found {y!r}",
                                fix="river.multiclass.OneVsRestClassifier(Classifier())")
            self._labels = [False, True] if not self._labels and y in (0, 1) else [*self._labels, y]
        self._learn(x, float(self._labels.index(y)), w)

    def predict_proba_one(self, x: Mapping[Any, Any], **more: Any) -> dict[Any, float]:
        """Probability of each class seen so far; of False and True before the first."""
        labels = self._labels or [False, True]
        if len(labels) == 1:
            return {labels[0]: 1.0}
        positive = 0.5 * (1 + np.tanh(0.5 * self._score(x)))
        return {labels[0]: float(1 - positive), labels[1]: float(positive)}


class Regressor(_Learner, base.Regressor):
    """One real target, learned as its difference from the first."""

    _task = "regression"
    _first: float | None = None

    def learn_one(self, x: Mapping[Any, Any], y: Any, w: float = 1.0) -> None:
        if self._first is None:
            self._first = float(y)
        self._learn(x, float(y) - self._first, w)

    def predict_one(self, x: Mapping[Any, Any], **more: Any) -> float:
        return 0.0 if self._first is None else self._score(x) + self._first
