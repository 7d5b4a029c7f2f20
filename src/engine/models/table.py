"""A table of embeddings that grows as keys come: no two keys share a row; rare keys wait to be admitted, old ones expire.

A row of examples is scored by the sum of its keys' rows (one number an output), so this is softmax, logistic or linear
regression over an open key space.  A key's first values are a function of the key, so every replica makes the same.
Update, a key: changes of its row, its sum of squares, how often it came, one.  Sums count; then all admit the same keys.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.errors import ConfigError, DataError, ShardError, StoreError
from engine.models import loss as losses
from engine.models.graded import logits
from engine.models.registry import Spec, kind
from engine.models.sketch import Counts
from engine.types import Array, Batch, Block, State, Update

BIAS, CLASSES = 0xFFFFFFFF, 0xFFFFFFFE  # keys of the bias, and of the counts of classes in an Update


class Table:
    """`outputs` numbers a key; `admit`: times a key has to come before it has a row; `expire`: rows (of the job) after
    which a key that did not come loses its row (0 = never); `batch`: rows a step; AdaGrad with one sum a key."""

    def __init__(self, outputs: int, *, loss: str = "softmax", rate: float = 0.1, admit: int = 1, expire: int = 0,
                 batch: int = 32, tracked: bool = True) -> None:
        if outputs < 1 or rate <= 0 or admit < 1 or expire < 0 or batch < 1:
            raise ConfigError(f"table: expected outputs, admit and batch >= 1, rate > 0, expire >= 0, found {outputs}, "
                              f"{admit}, {batch}, {rate}, {expire}")
        self.options: dict[str, Any] = {"outputs": outputs, "loss": loss, "rate": rate, "admit": admit, "expire": expire,
                                        "batch": batch, "tracked": tracked}
        self.bad, self.clock, self._learned = 0, 0.0, 0.0
        self.keys = np.array([BIAS], np.uint32)
        self.rows, self.squares, self.last = np.zeros((1, outputs), np.float32), np.zeros(1, np.float32), np.zeros(1)
        self.classes = np.zeros(outputs, np.float32)
        self.sketch = Counts()
        self._mark()

    def _mark(self) -> None:
        self._touched = np.zeros(len(self.keys), bool)
        self._base: dict[int, tuple[Array, float]] = {}
        self._came: list[tuple[Array, Array]] = []
        self._base_classes, self._learned = self.classes.copy(), 0.0

    def _find(self, keys: Array) -> Array:
        """Row of each key, -1 where it has none."""
        at = np.searchsorted(self.keys, keys)
        return np.where(self.keys[np.minimum(at, len(self.keys) - 1)] == keys, at, -1)

    def _insert(self, keys: Array) -> None:
        """Rows for new keys, ascending and unique."""
        at = np.searchsorted(self.keys, keys)
        self.keys = np.insert(self.keys, at, keys)
        self.rows = np.insert(self.rows, at, 0, axis=0)
        self.squares, self.last = np.insert(self.squares, at, 0), np.insert(self.last, at, self.clock)
        self._touched = np.insert(self._touched, at, False)

    def _pieces(self, batch: Batch) -> tuple[Array, Array, Array]:
        """Row, key and value of each feature."""
        if batch.indptr is None or batch.keys is None:
            raise DataError("table: expected sparse rows, found dense ones", fix="model.kind=softmax, or hash the columns")
        if len(batch.keys) and int(batch.keys.max()) >= CLASSES:
            raise DataError(f"table: expected keys below {CLASSES}, found {int(batch.keys.max())}")
        values = np.ones(len(batch.keys), np.float32) if batch.values is None else batch.values
        return np.repeat(np.arange(len(batch)), np.diff(batch.indptr)), batch.keys, values

    def _outputs(self, batch: Batch, which: Array, slots: Array, values: Array) -> Array:
        out = np.tile(self.rows[-1], (len(batch), 1))  # the bias has the highest key
        there = slots >= 0
        np.add.at(out, which[there], self.rows[slots[there]] * values[there, None])
        return out

    @property
    def _live(self) -> Array | None:
        return self.classes > 0 if self.options["loss"] == "softmax" else None

    def predict(self, batch: Batch) -> Array:
        """Scores; changes nothing."""
        which, keys, values = self._pieces(batch)
        return losses.scores(self.options["loss"], self._outputs(batch, which, self._find(keys), values), self._live)

    def learn(self, batch: Batch) -> Array:
        """Scores of each mini-batch before it is learned; rows without a label are only scored."""
        size = self.options["batch"]
        out = [self._learn(batch.slice(at, min(at + size, len(batch)))) for at in range(0, len(batch), size)]
        return np.concatenate(out) if out else self.predict(batch)

    def _learn(self, part: Batch) -> Array:
        found = self.predict(part)
        which, _, values = self._pieces(part)
        finite = np.ones(len(part), bool)
        np.logical_and.at(finite, which, np.isfinite(values))
        use = finite & np.isfinite(part.y)
        self.bad += int(np.count_nonzero(~use & ~np.isnan(part.y)))
        if use.any():
            self._step(part.take(np.flatnonzero(use)))
        return found

    def _step(self, rows: Batch) -> None:
        which, keys, values = self._pieces(rows)
        self._count(rows.y)
        each, inverse, times = np.unique(keys, return_inverse=True, return_counts=True)
        self._admit(each, times)
        slots = self._find(each)
        outputs = self._outputs(rows, which, slots[inverse], values)
        slope = losses.slope(self.options["loss"], outputs, rows.y, rows.weight, self._live) * np.float32(len(rows))
        g = np.zeros((len(each) + 1, slope.shape[1]), np.float32)
        np.add.at(g, inverse, slope[which] * values[:, None])
        g[-1] = slope.sum(axis=0)
        slots = np.append(slots, len(self.keys) - 1)
        g, slots = g[slots >= 0], slots[slots >= 0]
        fresh = slots[~self._touched[slots]]
        if self.options["tracked"]:
            for at in fresh.tolist():
                self._base[int(self.keys[at])] = (self.rows[at].copy(), float(self.squares[at]))
        self._touched[slots] = True
        self.squares[slots] += (g * g).mean(axis=1)
        self.rows[slots] -= np.float32(self.options["rate"]) * g / (np.sqrt(self.squares[slots]) + np.float32(1e-6))[:, None]
        self.last[slots] = self.clock + self._learned
        self._learned += len(rows)
        if not self.options["tracked"]:
            self.clock, self._learned = self.clock + self._learned, 0.0
            self._expire()

    def _count(self, y: Array) -> None:
        if self.options["loss"] != "softmax":
            return
        if y.min() < 0 or y.max() >= len(self.classes) or (y != np.floor(y)).any():
            raise DataError(f"label: expected a class from 0 to {len(self.classes) - 1}, found another",
                            fix="make the model with more classes (model.classes)")
        self.classes += np.bincount(y.astype(np.intp), minlength=len(self.classes)).astype(np.float32)

    def _admit(self, each: Array, times: Array) -> None:
        """Rows for keys that may have one; replicas that exchange count first and admit at the merge."""
        new = self._find(each) < 0
        if self.options["admit"] > 1 and self.options["tracked"]:
            self._came.append((each[new], times[new]))
            return
        if self.options["admit"] == 1:
            self._insert(each[new])
            return
        self.sketch.add(each[new], times[new])
        ready = new.copy()
        ready[new] = self.sketch.estimate(each[new]) >= self.options["admit"]
        self._insert(each[ready])

    def _expire(self) -> None:
        if self.options["expire"]:
            keep = (self.last >= self.clock - self.options["expire"]) | (self.keys == BIAS)
            if not keep.all():
                self.keys, self.rows, self.squares = self.keys[keep], self.rows[keep], self.squares[keep]
                self.last, self._touched = self.last[keep], self._touched[keep]

    def link(self, scores: Array) -> Array:
        return scores if self.options["loss"] == "squared" else losses.sigmoid(scores).astype(np.float32)

    def state(self) -> State:
        """`model/table/keys`, `rows`, `squares`, `last`, one a key; `classes`, `sketch`, `clock`."""
        arrays: dict[str, Array] = {
            "keys": self.keys, "rows": self.rows, "squares": self.squares, "last": self.last, "classes": self.classes,
            "sketch": self.sketch.counts, "clock": np.array([self.clock])}
        return {f"model/table/{name}": Block(array.copy()) for name, array in arrays.items()}

    def load(self, state: Mapping[str, Block]) -> None:
        found = state["model/table/rows"].data.shape if "model/table/rows" in state else None
        if found is None or found[1] != self.options["outputs"]:
            raise StoreError(f"model/table/rows: expected (keys, {self.options['outputs']}), found {found}",
                             fix="load into a model made with the same options")
        get: dict[str, Array] = {name: state[f"model/table/{name}"].data for name in
               ("keys", "rows", "squares", "last", "classes", "sketch", "clock")}
        self.keys, self.rows, self.squares = get["keys"].copy(), get["rows"].copy(), get["squares"].copy()
        self.last, self.classes, self.clock = get["last"].copy(), get["classes"].copy(), float(get["clock"][0])
        self.sketch.counts[...] = get["sketch"]
        self._mark()

    def fork(self) -> Table:
        twin = Table(**self.options)
        twin.load(self.state())
        return twin

    def update(self) -> Update:
        """Changes of the touched keys, and how often keys without a row came; the state stays as it is."""
        if not self.options["tracked"]:
            raise ShardError("update: this model does not track keys", fix="make it with tracked=True")
        width = self.options["outputs"]
        keys = [*self._base]
        slots = self._find(np.array(keys, np.uint32)) if keys else np.zeros(0, np.int64)
        values = np.zeros((len(keys), width + 3), np.float32)
        for i, (key, slot) in enumerate(zip(keys, slots.tolist(), strict=True)):
            row, square = self._base[key]
            values[i] = [*(self.rows[slot] - row), self.squares[slot] - square, 0, 1]
        came = np.concatenate([k for k, _ in self._came]) if self._came else np.zeros(0, np.uint32)
        each, inverse = np.unique(came, return_inverse=True)
        waiting = np.zeros((len(each), width + 3), np.float32)
        if len(each):
            np.add.at(waiting[:, width + 1], inverse, np.concatenate([t for _, t in self._came]).astype(np.float32))
        count = np.zeros((1, width + 3), np.float32)
        count[0, :width], count[0, -1] = self.classes - self._base_classes, self._learned
        whole = np.concatenate([np.array(keys, np.uint32), each, np.array([CLASSES], np.uint32)])
        order = np.argsort(whole, kind="stable")
        return Update(whole[order], np.concatenate([values, waiting, count])[order], self._learned)

    def merge(self, total: Update, ranks: int) -> None:
        """Back to the base, then the total; then keys that came often enough are admitted, and old ones expire."""
        assert total.keys is not None
        width = self.options["outputs"]
        for key, (row, square) in self._base.items():
            at = int(self._find(np.array([key], np.uint32))[0])
            self.rows[at], self.squares[at] = row, square
        own = total.keys != CLASSES
        keys, values, rest = total.keys[own], total.values[own], total.values[~own]
        moved = values[:, width + 2] > 0
        keep = np.isin(self.keys, keys[moved]) | (self.squares > 0) | (self.keys == BIAS)
        self.keys, self.rows, self.squares, self.last = (a[keep] for a in (self.keys, self.rows, self.squares, self.last))
        self._touched = self._touched[keep]
        self._insert(keys[moved][self._find(keys[moved]) < 0])
        slots, change = self._find(keys[moved]), values[moved]
        before, gone = self.squares[slots], change[:, width]
        share = np.sqrt((before + gone / change[:, -1] + 1e-12) / (before + gone + 1e-12))
        self.rows[slots] += change[:, :width] * share[:, None]
        self.squares[slots] += gone
        self.clock += float(rest[:, -1].sum())
        self.last[slots] = self.clock
        self.classes = self._base_classes + rest[:, :width].sum(axis=0)
        came, times = keys[values[:, width + 1] > 0], values[values[:, width + 1] > 0, width + 1]
        self.sketch.add(came, times.astype(np.int64))
        ready = came[self.sketch.estimate(came) >= self.options["admit"]] if len(came) else came
        self._insert(ready[self._find(ready) < 0])
        self._expire()
        self._mark()


@kind("table")
def build(spec: Spec) -> Table:
    """Options: rate (section model), batch (section update), admit and expire (section table)."""
    loss, outputs = logits(spec.schema.task, spec.classes)
    if not spec.schema.sparse:
        raise ConfigError("table: expected a sparse source, found dense columns", fix="model.kind=softmax")
    return Table(outputs, loss=loss, tracked=spec.tracked, **spec.pick("rate", "admit", "expire", "batch"))
