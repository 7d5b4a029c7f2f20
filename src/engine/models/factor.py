"""Factorization machines, plain or field-aware: pairs of features meet through vectors, learned example by example.

Sources: Rendle (2010); field-aware: Juan et al. (2016), whose fields are here a feature's place in its row.  AdaGrad
steps; the factors of a row share one sum of squares.  Update values, a touched row: changes of w, n, m, one, changes of v.
`owner` shrinks the sum of changes by the step sizes the owner would have used: sqrt((base + own) / (base + all)).
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.errors import ConfigError, DataError, ShardError, StoreError
from engine.kernels import _native
from engine.models import loss as losses
from engine.models.registry import Spec, kind
from engine.types import Array, Batch, Block, State, Update

HEAD = 4


class Factor:
    """`width` keys (or dense columns), `factors` numbers a key (a multiple of 4), `fields` > 0: field-aware with so many.

    `rate` is the step of weights, `rate_v` that of factors, `l2_v` their decay; `spread`: standard deviation of their
    first values, which the seed makes.  `loss`: logistic or squared.
    """

    def __init__(self, width: int, *, loss: str = "logistic", factors: int = 4, fields: int = 0, rate: float = 0.1,
                 rate_v: float | None = None, beta: float = 0.5, l2: float = 0.0, l2_v: float = 0.0, spread: float = 0.02,
                 merge: str = "owner", seed: int = 0, tracked: bool = True) -> None:
        rate_v = rate if rate_v is None else rate_v
        self.options: dict[str, Any] = {
            "width": width, "loss": loss, "factors": factors, "fields": fields, "rate": rate, "rate_v": rate_v, "beta": beta,
            "l2": l2, "l2_v": l2_v, "spread": spread, "merge": merge, "seed": seed, "tracked": tracked}
        if factors < 4 or factors % 4 or factors > 64 or fields < 0 or rate <= 0 or rate_v <= 0 or beta <= 0:
            raise ConfigError(f"factor: expected factors 4, 8, … 64, fields >= 0, rates and beta > 0, found {self.options}")
        self.bad = 0
        row = HEAD + factors * max(1, fields)
        self._block = np.zeros((width + 1, row), np.float32)
        fresh = np.random.default_rng(seed).standard_normal((width, row - HEAD), np.float32)
        np.multiply(fresh, np.float32(spread), out=self._block[:-1, HEAD:])
        self._rule = (loss, [rate, rate_v, beta, l2, l2_v], factors, fields)
        self._ids = np.zeros(1024 if tracked else 0, np.uint32)
        self._side = np.zeros((len(self._ids), row), np.float32)
        self._touched = 0
        self._rows = 0.0

    def _sparse(self, batch: Batch) -> tuple[Array, Array, Array | None]:
        if batch.indptr is not None and batch.keys is not None:
            return batch.indptr, batch.keys, batch.values
        assert batch.x is not None
        n, d = batch.x.shape
        if d > self.options["width"]:
            raise DataError(f"rows: expected at most {self.options['width']} columns, found {d}")
        return (np.arange(n + 1, dtype=np.int64) * d, np.tile(np.arange(d, dtype=np.uint32), n),
                np.ascontiguousarray(batch.x, np.float32).reshape(-1))

    def predict(self, batch: Batch) -> Array:
        """Margins, or values, float32 `(n,)`. Changes nothing."""
        out = np.empty(len(batch), np.float32)
        try:
            _native.factor_predict(self._block, *self._rule, *self._sparse(batch), out)
        except (ValueError, IndexError) as error:
            raise DataError(str(error), fix="hash the keys into the model's width") from None
        return out

    def learn(self, batch: Batch) -> Array:
        """Scores before each row is learned; rows with a NaN label are scored only."""
        out, rows, done = np.empty(len(batch), np.float32), self._sparse(batch), 0
        tracked = self.options["tracked"]
        while done < len(batch):
            try:
                done, self._touched, bad = _native.factor_learn(
                    self._block, *self._rule, *rows, batch.y, batch.weight, out, done,
                    self._ids if tracked else None, self._side if tracked else None, self._touched)
            except (ValueError, IndexError) as error:
                raise DataError(str(error), fix="hash the keys into the model's width") from None
            self.bad += bad
            if done < len(batch):
                room = max(2 * len(self._ids), self._touched + 1 + int(np.diff(rows[0]).max(initial=0)))
                self._ids = np.concatenate([self._ids, np.zeros(room - len(self._ids), np.uint32)])
                self._side = np.concatenate([self._side, np.zeros((room - len(self._side), self._side.shape[1]), np.float32)])
        self._rows += float(np.count_nonzero(~np.isnan(batch.y)))
        return out

    def link(self, scores: Array) -> Array:
        """Probabilities of a logistic model, values of another."""
        return losses.sigmoid(scores).astype(np.float32) if self.options["loss"] == "logistic" else scores

    def state(self) -> State:
        """`model/factor` float32 `(keys + 1, 3 + factors)`: w, n, m and the factors."""
        return {"model/factor": Block(np.delete(self._block, 3, axis=1))}

    def load(self, state: Mapping[str, Block]) -> None:
        """Takes what `state` gave; it becomes the base."""
        found = state["model/factor"].data if "model/factor" in state else None
        want = (self._block.shape[0], self._block.shape[1] - 1)
        if found is None or found.shape != want:
            raise StoreError(f"model/factor: expected shape {want}, found {None if found is None else found.shape}",
                             fix="load into a model made with the same options")
        self._block[:, :3], self._block[:, 3], self._block[:, HEAD:] = found[:, :3], 0, found[:, 3:]
        self._touched, self._rows = 0, 0.0

    def fork(self) -> Factor:
        """A replica with the same state and base."""
        twin = Factor(**self.options)
        twin.load(self.state())
        return twin

    def update(self) -> Update:
        """Changes of the touched rows; the state stays as it is."""
        if not self.options["tracked"]:
            raise ShardError("update: this model does not track rows", fix="make it with tracked=True")
        ids = self._ids[: self._touched]
        order = np.argsort(ids)
        values = self._block[ids[order]] - self._side[: self._touched][order]
        values[:, 3] = 1
        return Update(ids[order].copy(), values, self._rows)

    def merge(self, total: Update, ranks: int) -> None:
        """Back to the base, then `total` by the merge rule: the new base."""
        ids = self._ids[: self._touched]
        self._block[ids] = self._side[: self._touched]
        self._block[ids, 3] = 0
        assert total.keys is not None
        base, change = self._block[total.keys], total.values
        how = self.options["merge"]
        touched = np.maximum(change[:, 3:4], 1)
        if how == "owner":
            for column, part in ((1, slice(0, 1)), (2, slice(HEAD, None))):
                before, gone = base[:, column : column + 1], change[:, column : column + 1]
                share = np.sqrt((before + gone / touched + 1e-12) / (before + gone + 1e-12))
                base[:, part] += change[:, part] * share
            base[:, 1:3] += change[:, 1:3]
        else:
            base += change if how == "add" else change / (np.float32(ranks) if how == "average" else touched)
        base[:, 3] = 0
        self._block[total.keys] = base
        self._touched, self._rows = 0, 0.0


@kind("factor")
def build(spec: Spec) -> Factor:
    """Options: rate, beta, l2 (section model); factors, fields, rate_v, l2_v, spread (section factor)."""
    if spec.schema.task == "multiclass":
        raise ConfigError("factor: expected a binary or a regression task, found multiclass", fix="model.kind=softmax")
    loss = "squared" if spec.schema.task == "regression" else "logistic"
    return Factor(spec.schema.width, loss=loss, merge=spec.merge, tracked=spec.tracked, seed=spec.seed,
                  **spec.pick("factors", "fields", "rate", "rate_v", "beta", "l2", "l2_v", "spread"))
