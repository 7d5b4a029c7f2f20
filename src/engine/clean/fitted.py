"""What fitted stages share: their arrays by name, each with the rule by which ranks merge it.

add: what was added since the base.  moments: float64 `(3, d)` count, mean, sum of squared deviations (or `(2, d)` without
the last), merged exactly (Chan, Golub and LeVeque 1979).  max, min: elementwise.  newest: float64 `(1 + m, d)`, row 0 the
global order of the row that wrote the column; the highest order wins, column by column.  local: made of the others.
"""
from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from engine.clean.pipeline import added, held, largest
from engine.errors import ConfigError, DataError
from engine.types import Array, Batch, Block, Schema, State


class Fitted:
    """A stage over dense columns; a subclass says `bound`, `apply(x, fit, order)` and its `arrays`."""

    rules: ClassVar[Mapping[str, str]] = {}

    def __init__(self, columns: str = "") -> None:
        self.named = tuple(part for part in str(columns).split("+") if part)
        self.at: Array | None = None  # places of the named columns; None = all
        self.arrays: dict[str, Array] = {}
        self._base: dict[str, Array] = {}
        self.counts: dict[str, float] = {}

    def bind(self, schema: Schema) -> Schema:
        if schema.sparse:
            raise ConfigError(f"{self.name}: expected dense rows, found sparse ones", fix="put it before hash, or leave it out")
        self.at = None if not self.named else np.array([place(name, schema) for name in self.named])
        bound = self.bound(schema, schema.width if self.at is None else len(self.at))
        self._mark()
        return bound

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def bound(self, schema: Schema, d: int) -> Schema:
        """Makes the arrays for `d` columns; the schema of the rows that come out."""
        return schema

    def apply(self, x: Array, fit: bool, order: Array) -> tuple[Array, Array | None]:
        """(the columns `x` (n, d) as they come out, rows to keep or None)."""
        raise NotImplementedError

    def transform(self, batch: Batch) -> Batch:
        return self._run(batch, False)

    def fit(self, batch: Batch) -> None:
        self._run(batch, True)

    def learn(self, batch: Batch) -> Batch:
        return self._run(batch, True)

    def _run(self, batch: Batch, fit: bool) -> Batch:
        if batch.x is None:
            raise DataError(f"{self.name}: expected dense rows, found sparse ones")
        x = batch.x if self.at is None else np.ascontiguousarray(batch.x[:, self.at])
        out, keep = self.apply(np.ascontiguousarray(x), fit, batch.order)
        if self.at is not None:
            d, whole = len(self.at), batch.x.copy()
            whole[:, self.at] = out[:, :d]
            out = whole if out.shape[1] == d else np.concatenate([whole, out[:, d:]], 1)
        rows = replace(batch, x=np.ascontiguousarray(out))
        return rows if keep is None or not fit or keep.all() else rows.take(np.flatnonzero(keep))

    def stats(self) -> dict[str, float]:
        return self.counts

    def state(self) -> State:
        return {name: Block(array.copy()) for name, array in self.arrays.items()}

    def load(self, state: Mapping[str, Block]) -> None:
        held(state, self.arrays)
        self._mark()

    def _mark(self) -> None:
        self._base = {name: array.copy() for name, array in self.arrays.items()}

    def update(self) -> State:
        found: State = {}
        for name, array in self.arrays.items():
            rule = self.rules.get(name, "add")
            if rule == "moments":
                found[name] = added(since(self._base[name], array))
            elif rule in ("max", "min"):
                found[name] = largest(array if rule == "max" else -array)
            elif rule == "newest":
                found[name] = Block(array, (("", "owner"),))
            elif rule == "add":
                found[name] = added(np.asarray(array, np.float64) - self._base[name])
        return found

    def merge(self, total: Mapping[str, Block], ranks: int) -> None:
        for name, array in self.arrays.items():
            rule = self.rules.get(name, "add")
            if rule == "local":
                continue
            data = total[name].data
            if rule == "moments":
                array[...] = advance(self._base[name], data)
            elif rule in ("max", "min"):
                array[...] = data if rule == "max" else -data
            elif rule == "newest":
                array[...] = data
            else:
                array[...] = (self._base[name] + data).astype(array.dtype)
        self._mark()
        self.merged()

    def merged(self) -> None:
        """After a merge: what is derived from the arrays is stale."""


def since(base: Array, now: Array) -> Array:
    """Additive: count, sum and sum of squares about the base's mean, of the rows since `base`."""
    gap = now[1] - base[1]
    rows = [now[0] - base[0], now[0] * gap]
    if len(now) > 2:
        rows.append(now[2] + now[0] * gap * gap - base[2])
    return np.stack(rows)


def advance(base: Array, total: Array) -> Array:
    """`base` after the rows behind `total`, a sum of what `since` gave against the same base."""
    n = base[0] + total[0]
    shift = np.divide(total[1], n, out=np.zeros_like(n), where=n > 0)
    rows = [n, base[1] + shift]
    if len(base) > 2:
        rows.append(np.maximum(base[2] + total[2] - n * shift * shift, 0))
    return np.stack(rows)


def place(name: str, schema: Schema) -> int:
    """Place of a column given by name or number."""
    if name in schema.columns:
        return schema.columns.index(name)
    if name.lstrip("-").isdigit() and -schema.width <= int(name) < schema.width:
        return int(name) % schema.width
    near = difflib.get_close_matches(name, schema.columns, 1)
    raise ConfigError(f"clean.stages: expected a column of {', '.join(schema.columns[:12]) or schema.width}, found {name!r}",
                      fix=f"did you mean {near[0]!r}?" if near else "name a feature column, or its number")


def chosen(what: str, value: str, options: Sequence[str]) -> int:
    """The place of `value` among `options`."""
    if value not in options:
        raise ConfigError(f"{what}: expected one of {', '.join(options)}, found {value!r}")
    return list(options).index(value)


def widened(schema: Schema, names: Sequence[str]) -> Schema:
    """The schema with more columns behind; their names are kept where all others have one."""
    known = schema.columns if len(schema.columns) == schema.width else tuple(map(str, range(schema.width)))
    return replace(schema, width=schema.width + len(names), columns=(*known, *names))


def labels_of(schema: Schema, at: Array | None) -> list[str]:
    """Names of the columns a stage works on."""
    known = schema.columns if len(schema.columns) == schema.width else tuple(map(str, range(schema.width)))
    return [known[i] for i in (range(schema.width) if at is None else at.tolist())]


Options = dict[str, Any]
