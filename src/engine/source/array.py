"""Arrays in memory as a source: random access, a piece is a fixed number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.types import Array, Batch, Schema


class ArraySource:
    """Rows of a whole `Batch`; `piece_rows` rows a piece, dealt in turn."""

    plan = None

    def __init__(self, rows: Batch, schema: Schema, *, piece_rows: int = 4096) -> None:
        self.rows, self.schema, self.piece_rows = rows, schema, piece_rows
        self.pieces: int | None = -(-len(rows) // piece_rows)
        self.stats: dict[str, Any] = {"rows": 0, "bad": 0, "reasons": {}, "examples": []}

    def streamed(self, piece: int) -> bool:
        return False

    def reader(self, piece: int, size: int) -> int:
        return piece % size

    def read(self, piece: int, skip: int = 0) -> Iterator[Batch]:
        low = piece * self.piece_rows
        high = min(len(self.rows), low + self.piece_rows)
        if low + skip >= high:
            return
        batch = self.rows.slice(low + skip, high)
        batch.order = np.arange(skip, high - low, dtype=np.int64)
        batch.previous = np.full(len(batch), np.nan, np.float32)
        batch.previous[1:] = batch.y[:-1]
        if skip:
            batch.previous[0] = self.rows.y[low + skip - 1]
        self.stats["rows"] += len(batch)
        yield batch

    def close(self) -> None:
        """Nothing to close."""


def from_arrays(x: Array, y: Array, *, task: str | None = None, piece_rows: int = 4096) -> ArraySource:
    """Source of dense `x` `(n, d)` and `y` `(n,)`; labels become class ids unless `task` is regression."""
    return _source(
        Batch(np.empty(0), np.empty(0), np.empty(0), x=np.ascontiguousarray(x, np.float32)),
        x.shape[0],
        y,
        x.shape[1],
        task,
        piece_rows,
    )


def from_csr(
    indptr: Array,
    keys: Array,
    values: Array | None,
    y: Array,
    *,
    width: int | None = None,
    task: str | None = None,
    piece_rows: int = 4096,
) -> ArraySource:
    """Source of CSR rows; `width` defaults to the largest key + 1."""
    size = width or (int(keys.max()) + 1 if len(keys) else 1)
    rows = Batch(
        np.empty(0),
        np.empty(0),
        np.empty(0),
        indptr=np.asarray(indptr, np.int64),
        keys=np.asarray(keys, np.uint32),
        values=None if values is None else np.asarray(values, np.float32),
    )
    return _source(rows, len(indptr) - 1, y, size, task, piece_rows)


def _source(rows: Batch, count: int, y: Array, width: int, task: str | None, piece_rows: int) -> ArraySource:
    if len(y) != count or not count:
        raise DataError(
            f"expected a label a row and at least one row, found {len(y)} labels, {count} rows", fix="check the arrays"
        )
    data = rows.x if rows.x is not None else rows.values
    if data is not None and not np.isfinite(data).all():
        raise DataError("expected finite features, found NaN or infinity", fix="clean the arrays first")
    levels, ids = np.unique(y, return_inverse=True)
    whole = bool(np.all(levels == np.round(levels))) and 1 < len(levels) <= 64
    kind: Any = task or (("binary" if len(levels) == 2 else "multiclass") if whole else "regression")
    labels = () if kind == "regression" else tuple(f"{v:g}" for v in levels)
    rows.y = np.asarray(y if kind == "regression" else ids, np.float32)
    rows.order, rows.previous = np.arange(count, dtype=np.int64), np.full(count, np.nan, np.float32)
    return ArraySource(rows, Schema(width, rows.sparse, kind, labels), piece_rows=piece_rows)


def digits(spec: str, piece_rows: int) -> ArraySource:
    """Handwritten digits that scikit-learn bundles, in class order: 1797 rows, 64 columns, 10 classes."""
    if spec != "demo:digits":
        raise DataError(f"demo: expected demo:digits, found {spec}", where=spec, fix="demo:digits")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "expected scikit-learn, which bundles the digits, found none", where=spec, fix="pip install 'engine[demo]'"
        ) from error
    found = load_digits()
    order = np.argsort(found.target, kind="stable")
    return from_arrays(found.data[order], found.target[order], task="multiclass", piece_rows=piece_rows)
