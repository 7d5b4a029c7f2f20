"""A linear model as the rows of the keys it has seen: what a parameter table leaves in a checkpoint, and how it is read.

`model/sparse/keys` uint32 `(m,)` ascending within what each rank wrote, `model/sparse/rows` float32 `(m, 3 classes)`: w, a, n
of each class; `model/sparse/shape` int64 `(2,)`: keys of the whole model, the bias among them, and classes.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.types import Array, Batch, Block, State

KEYS, ROWS, SHAPE, DENSE = "model/sparse/keys", "model/sparse/rows", "model/sparse/shape", "model/linear"


def state(keys: Array, rows: Array, whole: int, classes: int, clock: Array) -> State:
    """The blocks of a model of `whole` keys."""
    return {KEYS: Block(keys.astype(np.uint32)), ROWS: Block(np.ascontiguousarray(rows)),
            SHAPE: Block(np.array([whole, classes], np.int64)), "model/clock": Block(clock)}


def widened(found: Mapping[str, Block]) -> State:
    """The same model with a row for every key, as replicas hold it; anything else as it was."""
    if KEYS not in found:
        return dict(found)
    whole, classes = found[SHAPE].data.tolist()
    block = np.zeros((whole, classes, 3), np.float32)
    block[found[KEYS].data] = found[ROWS].data.reshape(-1, classes, 3)
    columns: Any = (("w", "owner"), ("a", "owner"), ("n", "owner"))
    rest = {path: part for path, part in found.items() if not path.startswith("model/sparse/")}
    return {**rest, DENSE: Block(block.reshape(-1, 3), columns)}


class Narrow:
    """Scores by the keys that have a row alone, however wide the model: memory for those and no others.

    `make(keys)` builds a linear model of so many keys.
    """

    def __init__(self, found: Mapping[str, Block], make: Any) -> None:
        whole, _ = found[SHAPE].data.tolist()
        keys, rows = found[KEYS].data, found[ROWS].data
        order = np.argsort(keys, kind="stable")
        self._keys, rows = keys[order], rows[order]
        self._model: Any = make(max(1, len(keys)) + 1)  # the last is for keys without a row
        self._none = self._model.options["width"] - 1
        if self._model.options["bias"] and (not len(keys) or self._keys[-1] != whole - 1):  # a model that has learned nothing
            rows = np.concatenate([rows, np.zeros((1, rows.shape[1]), np.float32)])
        self._model.fill(rows.reshape(-1, 3))

    def predict(self, batch: Batch) -> Array:
        """As `Linear.predict`."""
        from dataclasses import replace

        assert batch.keys is not None
        at = np.minimum(np.searchsorted(self._keys, batch.keys), max(0, len(self._keys) - 1))
        there = self._keys[at] == batch.keys if len(self._keys) else np.zeros(len(batch.keys), bool)
        scores: Array = self._model.predict(replace(batch, keys=np.where(there, at, self._none).astype(np.uint32)))
        return scores

    def link(self, scores: Array) -> Array:
        found: Array = self._model.link(scores)
        return found
