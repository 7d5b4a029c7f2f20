"""Arrays in memory as a source: random access, a piece is a fixed number of rows."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
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

    def narrow(self, columns: Array) -> ArraySource:
        """The same rows with some neighbouring columns alone, where they are dense."""
        x, low, high = self.rows.x, int(columns[0]), int(columns[-1]) + 1
        if x is None:
            raise DataError("expected dense rows, found sparse ones")
        schema = replace(self.schema, width=high - low, columns=self.schema.columns[low:high])
        return ArraySource(replace(self.rows, x=np.ascontiguousarray(x[:, low:high])), schema, piece_rows=self.piece_rows)

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


def from_files(paths: Sequence[str], *, task: str | None, piece_rows: int, blind: int = 0) -> ArraySource:
    """Source of `.npy` (the last column is y) or `.npz` files (x and y, or indptr, keys, values and y), gzip or not.
    `blind` > 0: rows of so many features, y may be absent.
    """
    loaded = [_load(path, blind) for path in paths]
    first = set(loaded[0])
    for path, parts in zip(paths, loaded, strict=True):
        if set(parts) != first:
            raise DataError(f"expected arrays {sorted(first)}, found {sorted(parts)}", where=path, fix="equal parts")
    y = np.concatenate([parts["y"] for parts in loaded])
    if "x" in first:
        if len({parts["x"].shape[1] for parts in loaded}) > 1:
            raise DataError("expected parts with the same columns, found others", where=paths[0], fix="equal parts")
        return from_arrays(np.concatenate([p["x"] for p in loaded]), y, task=task, piece_rows=piece_rows)
    counts = np.concatenate([np.diff(parts["indptr"]) for parts in loaded])
    keys = np.concatenate([parts["keys"] for parts in loaded])
    values = np.concatenate([parts["values"] for parts in loaded]) if "values" in first else None
    return from_csr(np.concatenate([[0], np.cumsum(counts)]), keys, values, y, task=task, piece_rows=piece_rows)


def _load(path: str, blind: int) -> dict[str, Array]:
    """Arrays x, y or indptr, keys, values, y of one file, checked; DataError names what is there instead."""
    try:
        if path.endswith(".gz"):
            with gzip.open(path, "rb") as packed:
                found = np.load(io.BytesIO(packed.read()), allow_pickle=False)
        else:
            found = np.load(path, allow_pickle=False)
        parts = {name: found[name] for name in found.files} if hasattr(found, "files") else {"all": found}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataError(
            f"expected a whole npy or npz file without pickles, found: {error}", where=path, fix="save it again"
        ) from error
    for name, array in parts.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"{name}: expected numbers, found {array.dtype}", where=path, fix="save numbers")
    if "all" in parts:
        table = parts["all"]
        if table.ndim != 2 or table.shape[1] < 2:
            raise DataError(f"expected (rows, columns and a target), found {table.shape}", where=path, fix="2 axes")
        if table.shape[1] == blind:
            return {"x": table, "y": np.zeros(len(table), np.float32)}
        return {"x": table[:, :-1], "y": table[:, -1]}
    if blind and "y" not in parts:
        rows = len(parts["x"]) if "x" in parts else max(0, len(parts.get("indptr", [0])) - 1)
        parts["y"] = np.zeros(rows, np.float32)
    return _named(parts, path)


def _named(parts: dict[str, Array], path: str) -> dict[str, Array]:
    """The arrays of an npz under their names here, shapes checked."""
    for other, name in (("indices", "keys"), ("data", "values")):
        if name not in parts and other in parts:
            parts[name] = parts[other]
    names = ("x", "y") if "x" in parts else ("indptr", "keys", "y")
    if not all(name in parts for name in names):
        raise DataError(
            f"expected x, y or indptr, keys, values, y, found {', '.join(sorted(parts)) or 'nothing'}",
            where=path,
            fix="np.savez(path, x=..., y=...)",
        )
    kept = {name: parts[name] for name in (*names, *(("values",) if "x" not in names and "values" in parts else ()))}
    bad = [n for n, a in kept.items() if a.ndim != 1 + (n == "x")]
    if not bad and "x" not in kept:
        indptr, keys = kept["indptr"], kept["keys"]
        if not len(indptr) or indptr[0] != 0 or (np.diff(indptr) < 0).any() or indptr[-1] != len(keys):
            bad = ["indptr"]
        elif len(keys) and (keys.min() < 0 or keys.max() >= 1 << 30):
            bad = ["keys"]
        elif len(kept.get("values", keys)) != len(keys):
            bad = ["values"]
    rows = len(kept["x"]) if "x" in kept else len(kept["indptr"]) - 1
    if not bad and len(kept["y"]) != rows:
        bad = ["y"]
    if bad:
        raise DataError(f"{bad[0]}: expected a legal array, found shape {kept[bad[0]].shape}", where=path,
                        fix="indptr from 0 up to len(keys), 0 <= keys < 2^30, a y a row")
    return kept


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
