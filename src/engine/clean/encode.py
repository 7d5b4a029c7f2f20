"""Stages that change what a row is: keys of a hashed space, one column a value, products, frequent keys only."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from engine.clean.fitted import Fitted, labels_of, place, widened
from engine.clean.pipeline import added, held, stage
from engine.errors import ConfigError, DataError
from engine.kernels import _native
from engine.kernels.plain.parse import text_hash
from engine.types import Array, Batch, Block, Schema, State


class Keyed:
    """What stages need of the protocol that fit nothing, or arrays of their own: `run(batch, fit)`."""

    arrays: dict[str, Array]

    def run(self, batch: Batch, fit: bool) -> Batch:
        raise NotImplementedError

    def transform(self, batch: Batch) -> Batch:
        return self.run(batch, False)

    def fit(self, batch: Batch) -> None:
        self.run(batch, True)

    def learn(self, batch: Batch) -> Batch:
        return self.run(batch, True)

    def state(self) -> State:
        return {}

    def load(self, state: Mapping[str, Block]) -> None:
        """What comes out is a fixed function of what goes in: there is nothing to restore."""

    def update(self) -> State:
        return {}

    def merge(self, total: Mapping[str, Block], ranks: int) -> None:
        """Nothing is fitted."""


@stage("hash")
class Hash(Keyed):
    """Dense rows become sparse ones of 2^`bits` keys: columns named in `columns` by their value, others as numbers.

    Entries that met another's key are counted (`collisions`, `entries`); which key came first is this rank's own knowledge.
    """

    def __init__(self, bits: int = 18, columns: str = "") -> None:
        if not 4 <= bits <= 30:
            raise ConfigError(f"hash: expected 4 to 30 bits, found {bits}")
        self._mask, self._named = (1 << bits) - 1, tuple(part for part in str(columns).split("+") if part)
        self.arrays, self._counts = {}, {"collisions": 0.0, "entries": 0.0}

    def bind(self, schema: Schema) -> Schema:
        if schema.sparse:
            raise ConfigError("hash: expected dense rows, found sparse ones", fix="data.hash_bits hashes text as it is parsed")
        names = labels_of(schema, None)
        self._kinds = np.ones(schema.width, np.uint8)
        self._kinds[[place(name, schema) for name in self._named]] = 2
        self._seeds = np.array([text_hash(name.encode()) for name in names], np.uint64)
        self._owner = np.zeros(self._mask + 1, np.uint32)
        return replace(schema, width=self._mask + 1, sparse=True, columns=(), numbers=bool((self._kinds == 1).any()))

    def run(self, batch: Batch, fit: bool) -> Batch:
        if batch.x is None:
            raise DataError("hash: expected dense rows, found sparse ones")
        n, d = batch.x.shape
        indptr, keys, values = np.empty(n + 1, np.int64), np.empty(n * d, np.uint32), np.empty(n * d, np.float32)
        x = np.ascontiguousarray(batch.x)
        met = _native.clean_hash(x, self._kinds, self._seeds, self._mask, fit, self._owner, indptr, keys, values)
        if fit:
            self._counts["collisions"] += met
            self._counts["entries"] += float(indptr[-1])
        return replace(batch, x=None, indptr=indptr, keys=keys[: indptr[-1]], values=values[: indptr[-1]])

    def stats(self) -> dict[str, float]:
        return self._counts


@stage("onehot")
class Onehot(Fitted):
    """The columns become one of 0/1 for each of `values` (`0+1+2`), and one for any other value; missing is all 0."""

    def __init__(self, columns: str = "", values: object = "") -> None:
        super().__init__(columns)
        parts = [part for part in str(values).split("+") if part]
        if not columns or not parts:
            raise ConfigError("onehot: expected columns and values", fix="onehot?columns=kind&values=0+1+2, or hash")
        self._values = np.array([float(part) for part in parts], np.float32)

    def bound(self, schema: Schema, d: int) -> Schema:
        assert self.at is not None
        names = labels_of(schema, self.at)
        gone = set(self.at.tolist())
        kept = [name for i, name in enumerate(labels_of(schema, None)) if i not in gone]
        self._kept = np.array([i for i in range(schema.width) if i not in gone], np.int64)
        more = [f"{name}={value:g}" for name in names for value in self._values] + [f"{name}=?" for name in names]
        return replace(schema, width=len(kept) + len(more), columns=(*kept, *more))

    def _run(self, batch: Batch, fit: bool) -> Batch:
        assert batch.x is not None and self.at is not None
        x = batch.x[:, self.at]
        hit = x[:, :, None] == self._values
        other = ~hit.any(2) & ~np.isnan(x)
        if fit:
            self.counts["other"] = self.counts.get("other", 0) + int(other.sum())
        parts = [batch.x[:, self._kept], hit.reshape(len(x), -1).astype(np.float32), other.astype(np.float32)]
        return replace(batch, x=np.ascontiguousarray(np.concatenate(parts, 1)))


@stage("interactions")
class Interactions(Fitted):
    """Appends the product of each pair of the columns."""

    def bound(self, schema: Schema, d: int) -> Schema:
        pairs = list(combinations(range(d), 2))
        self._left, self._right = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
        names = labels_of(schema, self.at)
        return widened(schema, [f"{names[a]}*{names[b]}" for a, b in pairs])

    def apply(self, x: Array, fit: bool, order: Array) -> tuple[Array, Array | None]:
        return np.concatenate([x, x[:, self._left] * x[:, self._right]], 1), None


@stage("frequent")
class Frequent(Keyed):
    """Sparse rows lose keys that were seen fewer than `least` times before; counted in 2^`bits` places, over all ranks."""

    def __init__(self, least: int = 10, bits: int = 20) -> None:
        if least < 1 or not 4 <= bits <= 30:
            raise ConfigError(f"frequent: expected least >= 1 and 4 to 30 bits, found {least} and {bits}")
        self._least, self._mask = least, (1 << bits) - 1
        self.arrays = {"counts": np.zeros(self._mask + 1, np.uint32)}
        self._touched: list[Array] = []

    def bind(self, schema: Schema) -> Schema:
        if not schema.sparse:
            raise ConfigError("frequent: expected sparse rows, found dense ones", fix="put it after hash")
        self._base = self.arrays["counts"].copy()
        return schema

    def run(self, batch: Batch, fit: bool) -> Batch:
        if batch.indptr is None or batch.keys is None:
            raise DataError("frequent: expected sparse rows, found dense ones")
        indptr, keys = np.empty(len(batch) + 1, np.int64), np.empty(len(batch.keys), np.uint32)
        values = np.empty(len(keys), np.float32)
        nnz = _native.clean_frequent(batch.indptr, batch.keys, batch.values, self._mask, self._least, fit,
                                     self.arrays["counts"], indptr, keys, values)
        return replace(batch, indptr=indptr, keys=keys[:nnz], values=values[:nnz])

    def state(self) -> State:
        return {"counts": Block(self.arrays["counts"].copy())}

    def load(self, state: Mapping[str, Block]) -> None:
        held(state, self.arrays)
        self._base = self.arrays["counts"].copy()

    def update(self) -> State:
        return {"counts": added(self.arrays["counts"].astype(np.float64) - self._base)}

    def merge(self, total: Mapping[str, Block], ranks: int) -> None:
        self.arrays["counts"][:] = np.minimum(self._base + total["counts"].data, 0xFFFFFFFF).astype(np.uint32)
        self._base = self.arrays["counts"].copy()
