"""A `Model` of any net that gives gradients: mini-batches, a chain of policies, and an exchange of dense Updates.

Each mini-batch is scored, then learned: the chain turns its mean gradient into a change of the parameters.  An Update
holds, in one float32 vector, the changes since the base of the parameters and of what the policies merge, and a tail
of sums: replicas that learned, their steps, rows a class, squares of the changes a span.  At the merge (S = sum of the
replicas' changes D):
`average` takes S / ranks, `add` takes S, and `owner` takes S * clip(sum |D|^2 / |S|^2, 1 / ranks, 1) a span: changes
that are orthogonal add up, changes that agree are averaged.  Source of the idea: Maleki et al., "Scaling distributed
training with adaptive summation" (2020), here as a function of sums, so that it commutes.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engine.errors import DataError, ShardError, StoreError
from engine.models import loss as losses
from engine.models import scale as scaler
from engine.types import Array, Batch, Block, Net, Policy, State, Update

MERGED = ("mean", "sum")


class Moment:
    """The `Step` of types: one mini-batch on its way down the chain."""

    def __init__(self, model: Graded, rows: Batch, outputs: Array | None) -> None:
        self._model, self._outputs, self._rows = model, outputs, rows
        self._g: Array | None = None
        self.theta, self.spans, self.live = model.net.theta, model.net.spans, model.live
        self.number, self.task, self.seed, self.age = model.steps, model.task, model.seed, model.age

    @property
    def rows(self) -> Batch:
        return self._rows

    @rows.setter
    def rows(self, rows: Batch) -> None:
        if self._g is not None:
            raise ValueError("policy: rows are exchanged before the gradient is first read")
        self._rows, self._outputs = rows, None

    @property
    def g(self) -> Array:
        if self._g is None:
            outputs = self._model.net.forward(self._rows) if self._outputs is None else self._outputs
            self._g = self._model.net.pull(self._rows, self._model.slope(outputs, self._rows))
        return self._g

    @g.setter
    def g(self, g: Array) -> None:
        self._g = g

    def grad(self, rows: Batch) -> Array:
        return self.pull(rows, self._model.slope(self._model.net.forward(rows), rows))

    def outputs(self, rows: Batch, theta: Array | None = None) -> Array:
        if theta is None:
            return self._model.net.forward(rows).copy()
        kept = self.theta.copy()
        self.theta[:] = theta
        try:
            return self._model.net.forward(rows).copy()
        finally:
            self.theta[:] = kept

    def pull(self, rows: Batch, slope: Array) -> Array:
        own = self.g  # the net's buffer: keep what the chain has so far
        kept = own.copy()
        found = self._model.net.pull(rows, slope).copy()
        self._g = kept
        return found


class Graded:
    """`make()` gives the net (every call the same parameters); `policy`: the chain; `loss`: softmax, logistic, squared.

    `batch`: rows a step; `width`: columns (or key space) rows must have; `scale`: standardise dense columns with the
    statistics of the mini-batches before; `merge`: owner, add or average.  Classes appear as they come: outputs of
    classes not yet seen take no part.
    """

    def __init__(self, make: Callable[[], Net], policy: Policy, *, loss: str, width: int, batch: int = 32,
                 scale: bool = False, merge: str = "owner", seed: int = 0, tracked: bool = True) -> None:
        self._made: dict[str, Any] = {"make": make, "policy": policy, "loss": loss, "width": width, "batch": batch,
                                      "scale": scale, "merge": merge, "seed": seed, "tracked": tracked}
        self.net: Net = make()
        self.policy, self.loss, self.merging = policy, loss, merge
        self.width, self.rows_a_step, self.seed = width, batch, seed
        self.bad = self.steps = self.task = 0
        self.age = 0.0
        self._others = 0.0
        self._forks = 0
        self.seen = np.zeros(self.net.outputs if loss == "softmax" else 1, np.float32)
        self._scale = np.zeros((width, 3)) if scale else None
        self._policy = policy.init(self.net.theta)
        self._rows = 0.0
        self._mark_base()

    @property
    def live(self) -> Array | None:
        return self.seen > 0 if self.loss == "softmax" else None

    def slope(self, outputs: Array, rows: Batch) -> Array:
        return losses.slope(self.loss, outputs, rows.y, rows.weight, self.live)

    def predict(self, batch: Batch) -> Array:
        """Scores as the meter takes them; changes nothing."""
        rows = self._fit(batch)
        parts = [losses.scores(self.loss, self.net.forward(rows.slice(at, min(at + 4096, len(rows)))), self.live)
                 for at in range(0, max(len(rows), 1), 4096)]
        return np.concatenate(parts)

    def learn(self, batch: Batch) -> Array:
        """Scores of each mini-batch before it is learned; rows without a label are only scored."""
        out = [self._learn(batch.slice(at, min(at + self.rows_a_step, len(batch))))
               for at in range(0, len(batch), self.rows_a_step)]
        return np.concatenate(out) if out else self.predict(batch)

    def _learn(self, part: Batch) -> Array:
        rows = self._fit(part)
        outputs = self.net.forward(rows)
        found = losses.scores(self.loss, outputs, self.live)
        labelled = ~np.isnan(rows.y)
        use = labelled & np.isfinite(outputs).all(axis=1) & ~np.isinf(rows.y)
        self.bad += int(np.count_nonzero(labelled & ~use))
        if rows.weight is not None:
            use &= rows.weight > 0
        if not use.all():
            part, rows = part.take(np.flatnonzero(use)), rows.take(np.flatnonzero(use))
        if len(rows):
            self._count(rows.y)
            step = Moment(self, rows, outputs if use.all() else None)
            self.policy.update(step, self._policy)
            self.net.theta += step.g
            self.steps += 1
            self._rows += len(rows)
            self.age = self._others * self._rows
            if self._scale is not None and part.x is not None:
                self._scale[:] = scaler.join(self._scale, _moments(part.x))
        return found

    def _count(self, y: Array) -> None:
        if self.loss != "softmax":
            return
        if y.min() < 0 or y.max() >= len(self.seen) or (y != np.floor(y)).any():
            odd = y[(y < 0) | (y >= len(self.seen)) | (y != np.floor(y))][0]
            raise DataError(f"label: expected a class from 0 to {len(self.seen) - 1}, found {odd:g}",
                            fix="make the model with more classes (model.classes)")
        self.seen += np.bincount(y.astype(np.intp), minlength=len(self.seen)).astype(np.float32)

    def _fit(self, batch: Batch) -> Batch:
        """The batch, checked and standardised."""
        if batch.x is None:
            if batch.keys is not None and len(batch.keys) and int(batch.keys.max()) >= self.width:
                raise DataError(f"key {int(batch.keys.max())} is outside the key space of {self.width}",
                                fix="hash the keys into the model's width")
            return batch
        if batch.x.shape[1] != self.width:
            raise DataError(f"rows: expected {self.width} columns, found {batch.x.shape[1]}",
                            fix="give columns as the model was made for")
        if self._scale is None:
            return batch
        n, mean, square = self._scale.T
        inverse = np.divide(1.0, np.sqrt(square / np.maximum(n, 1)), out=np.zeros_like(n), where=square > 0)
        x = (batch.x - mean.astype(np.float32)) * inverse.astype(np.float32)
        return Batch(batch.y, batch.order, batch.previous, x=x, weight=batch.weight)

    def begin(self) -> None:
        """A new task begins: policies that guard what was learned take note at the next step."""
        self.task += 1

    def link(self, scores: Array) -> Array:
        """Probabilities, or values as they are."""
        return scores if self.loss == "squared" else losses.sigmoid(scores).astype(np.float32)

    def _merged(self) -> list[tuple[str, str, Array]]:
        """Path, rule and array of all that replicas merge, the parameters first; the order is that of the paths."""
        found = [("model/theta", "theta", self.net.theta)]
        for path in sorted(self._policy):
            rule = _rule(path)
            if rule in MERGED:
                found.append((f"policy/{path}", rule, self._policy[path].data))
        return found

    @property
    def lossy(self) -> int:
        """Leading values of an Update that may be rounded on their way: the parameters. What follows are sums and counts."""
        return int(self.net.theta.size)

    def _mark_base(self) -> None:
        self._base = [array.copy() for _, _, array in self._merged()] if self._made["tracked"] else []
        self._base_seen, self._base_steps, self._rows = self.seen.copy(), self.steps, 0.0
        self._base_scale = None if self._scale is None else self._scale.copy()

    def state(self) -> State:
        """`model/theta` (P,), `model/seen` (C,), `model/steps` (2,), `stage/scale`, and `policy/...` that is merged."""
        state = {path: Block(array.copy()) for path, _, array in self._merged()}
        state |= {"model/seen": Block(self.seen.copy()), "model/steps": Block(np.array([self.steps, self.task], np.int64))}
        if self._scale is not None:
            state["stage/scale"] = Block(self._scale.copy())
        return state

    def own(self) -> State:
        """What this replica alone holds, by the policy's path."""
        return {path: Block(block.data.copy()) for path, block in self._policy.items() if _rule(path) not in MERGED}

    def take(self, parts: list[State]) -> None:
        """Becomes the holder of what these replicas held: all their items, the first's other things."""
        for path in parts[0] if parts else ():
            held = [part[path].data for part in parts if len(part[path].data)]
            if held:
                self._policy[path].data = np.concatenate(held) if _rule(path) == "items" else held[0].copy()

    def load(self, state: Mapping[str, Block]) -> None:
        """Takes what `state` gave; it becomes the base. StoreError where a block is absent or of another shape."""
        mine = {path: array for path, _, array in self._merged()} | {"model/seen": self.seen}
        steps = np.zeros(2, np.int64)
        mine["model/steps"] = steps
        if self._scale is not None:
            mine["stage/scale"] = self._scale
        for path, array in mine.items():
            found = state[path].data.shape if path in state else None
            if found != array.shape:
                raise StoreError(f"{path}: expected shape {array.shape}, found {found}",
                                 fix="load into a model made with the same options and policies")
        for path, array in mine.items():
            array[...] = state[path].data
        self.steps, self.task = steps.tolist()
        self._mark_base()

    def fork(self) -> Graded:
        """A replica with the same state and base, a seed of its own, and empty memories."""
        self._forks += 1
        twin = Graded(**(self._made | {"seed": self.seed * 1009 + self._forks}))
        twin.load(self.state())
        return twin

    def update(self) -> Update:
        """Changes since the base in one vector `(T, 1)`; the state stays as it is."""
        if not self._made["tracked"]:
            raise ShardError("update: this model does not track changes", fix="make it with tracked=True")
        parts, squares = [], np.zeros(0, np.float32)
        for (_, rule, array), base in zip(self._merged(), self._base, strict=True):
            change = array - base
            parts.append(change.ravel())
            if rule == "theta":
                squares = np.array([np.dot(change[s], change[s]) for s in self.net.spans.values()], np.float32)
        tail = [np.array([self._rows > 0, self.steps - self._base_steps], np.float32), self.seen - self._base_seen, squares]
        if self._scale is not None and self._base_scale is not None:
            tail.append(scaler.pack(scaler.since(self._base_scale, self._scale))[1].ravel())
        return Update(None, np.concatenate([*parts, *tail]).astype(np.float32)[:, None], self._rows)

    def merge(self, total: Update, ranks: int) -> None:
        """Back to the base, then `total` by the merge rule: the new base."""
        found, at = total.values[:, 0], 0

        def cut(count: int) -> Array:
            nonlocal at
            at += count
            return found[at - count : at]

        merged = self._merged()
        changes = [cut(array.size) for _, _, array in merged]
        learned, steps = cut(2).tolist()
        active = max(learned, 1.0)
        self.steps = self._base_steps + round(steps / active)  # schedules of all replicas stand at the same step
        seen, squares = cut(len(self.seen)), cut(len(self.net.spans))
        for (_, rule, array), base, change in zip(merged, self._base, changes, strict=True):
            if rule == "theta":
                array[:] = base + self._joined(change, squares, active)
            else:
                array[...] = base + (change if rule == "sum" else change * np.float32(1 / active)).reshape(array.shape)
        self.seen[:] = self._base_seen + seen
        if self._scale is not None and self._base_scale is not None:
            values = cut(6 * self.width).reshape(-1, 6)
            keys = (scaler.LAST - np.arange(self.width)[::-1]).astype(np.uint32)
            self._scale[:] = scaler.advance(self._base_scale, scaler.unpack(keys, values, self.width))
        self._others = ranks - 1
        self._mark_base()

    def _joined(self, change: Array, squares: Array, active: float) -> Array:
        if self.merging in ("add", "average"):
            return change if self.merging == "add" else change * np.float32(1 / active)
        out = change.copy()
        for span, square in zip(self.net.spans.values(), squares.tolist(), strict=True):
            whole = float(np.dot(change[span], change[span]))
            out[span] *= np.float32(min(1.0, max(1 / active, square / whole))) if whole > 0 else np.float32(0)
        return out


def _rule(path: str) -> str:
    """How replicas merge the state at this path of a policy."""
    return next(part for part in path.split("/") if part in (*MERGED, "own", "items"))


def _moments(x: Array) -> Array:
    """Statistics `(columns, 3)` of rows: n, mean, sum of squared deviations."""
    wide = x.astype(np.float64)
    mean = wide.mean(axis=0)
    return np.stack([np.full(len(mean), float(len(x))), mean, ((wide - mean) ** 2).sum(axis=0)], axis=1)


def logits(task: str, classes: int) -> tuple[str, int]:
    """The loss and the number of outputs for a task."""
    if task == "regression":
        return "squared", 1
    return ("softmax", classes) if task == "multiclass" else ("logistic", 1)


