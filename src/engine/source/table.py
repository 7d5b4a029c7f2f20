"""Files that hold tables and arrays (extra `[files]`): Parquet and Arrow, HDF5, NetCDF-4, Zarr; local or by an fsspec URL.

A piece is a row group, a record batch, or a slab of rows; each is read once over all ranks, by its own rank, with serial
libraries. Tables: the target is a column, other numeric columns are features (`columns` chooses, `where` filters rows, as in
`where="a>3&b<=0.5"`), and those named as `categorical`: rows are then sparse, with the keys the same CSV gives.
Array files: `FILE?x=NAME&y=NAME`, x (n, d) and y (n,).
"""
from __future__ import annotations

import copy
import importlib
import operator
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from engine.errors import ConfigError, DataError
from engine.kernels import _native
from engine.kernels.plain.parse import MISSING, mix, text_hash
from engine.source.array import ArraySource
from engine.source.event import UNITS, scale_of
from engine.source.schema import Event
from engine.types import NO_TIME, Array, Batch, Schema

TABLES, ARRAYS = (".parquet", ".arrow", ".feather"), (".h5", ".hdf5", ".nc", ".zarr")
SLAB_ROWS = 1 << 16
OPS: dict[str, Callable[[Any, Any], Any]] = {"<=": operator.le, ">=": operator.ge, "!=": operator.ne, "==": operator.eq,
                                            "<": operator.lt, ">": operator.gt}


def tabular(spec: str) -> bool:
    """Whether a spec names a file of this module."""
    return spec.partition("?")[0].rstrip("/").endswith(TABLES + ARRAYS)


def library(name: str) -> Any:
    """An optional module; ConfigError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"expected {name.partition('.')[0]}, found none", fix="pip install 'engine[files]'") from error


def opened(path: str) -> Any:
    """A seekable binary file of a local path or an fsspec URL."""
    try:
        return library("fsspec").open(path, "rb").open() if "://" in path else open(path, "rb")
    except (OSError, ValueError) as error:
        raise DataError(f"expected a readable file, found: {error}", where=path,
                        fix="check the path and its permissions") from error


class Parquet:
    """Row groups of a Parquet file, or record batches of an Arrow file: `count` of them, `columns(i)` by name."""

    def __init__(self, path: str) -> None:
        file = opened(path)
        try:
            if path.endswith(".parquet"):
                self._file: Any = library("pyarrow.parquet").ParquetFile(file)
                self.names, self.count = tuple(self._file.schema_arrow.names), int(self._file.num_row_groups)
                self._read = lambda i, names: self._file.read_row_group(i, columns=names, use_threads=False)
            else:
                arrow = library("pyarrow")
                self._file = library("pyarrow.ipc").open_file(file)
                self.names, self.count = tuple(self._file.schema.names), int(self._file.num_record_batches)
                self._read = lambda i, names: arrow.Table.from_batches([self._file.get_batch(i)]).select(names)
        except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
            raise DataError(f"expected a whole Parquet or Arrow file, found: {error}", where=path,
                            fix="write it again") from error
        self.path = path

    def columns(self, i: int, names: Sequence[str]) -> dict[str, Array]:
        table = self._read(i, list(names))
        return {name: table.column(name).to_numpy() for name in names}


class Slabs:
    """Rows of x and y of an HDF5, NetCDF-4 or Zarr file, SLAB_ROWS at a time."""

    def __init__(self, path: str, options: dict[str, str]) -> None:
        kind = path.rstrip("/").rpartition(".")[2]
        try:
            if kind == "zarr":
                held = library("zarr").open_group(path, mode="r")
            elif kind == "nc":
                remote = {"filename": "memory", "memory": opened(path).read()} if "://" in path else {"filename": path}
                held = library("netCDF4").Dataset(**remote).variables
            else:
                held = library("h5py").File(opened(path) if "://" in path else path, "r")
            self.x, self.y = held[options.get("x", "x")], held[options.get("y", "y")]
        except (OSError, KeyError, IndexError) as error:
            raise DataError(f"expected arrays x and y, found: {error}", where=path, fix=f"{path}?x=NAME&y=NAME") from error
        if len(self.x.shape) != 2 or self.x.shape[:1] != self.y.shape:
            raise DataError(f"expected x (n, d) and y (n,), found {self.x.shape} and {self.y.shape}", where=path,
                            fix="?x=NAME&y=NAME")
        self.path, self.count = path, max(1, -(-int(self.x.shape[0]) // SLAB_ROWS))

    def rows(self, i: int, columns: slice) -> tuple[Array, Array]:
        part = slice(i * SLAB_ROWS, (i + 1) * SLAB_ROWS)
        return np.ma.filled(self.x[part, columns], np.nan), np.ma.filled(self.y[part], np.nan)


class TableSource:
    """Pieces of all files in order; see `engine.types.Source`. Rows with a missing feature follow `missing`."""

    plan: Any = None

    def __init__(self, paths: Sequence[str], options: dict[str, str], *, target: str | int | None, columns: Sequence[str],
                 where: str, task: Any, labels: Sequence[str] | None, missing: str, plan: Any = None,
                 event: Event = ("", "", "auto"), blind: bool = False, categorical: Collection[str | int] = (),
                 hash_bits: int | None = None) -> None:
        self._tests = [_test(part) for part in where.split("&") if part.strip()]
        self._files: list[Any] = [Parquet(p) if p.endswith(TABLES) else Slabs(p, options) for p in paths]
        self._starts = np.cumsum([0, *(file.count for file in self._files)])
        self.pieces: int | None = int(self._starts[-1])
        self.stats: dict[str, Any] = {"rows": 0, "bad": 0, "reasons": {}, "examples": []}
        self._missing, first = missing, self._files[0]
        self._slab, self._event = slice(None), event
        self._words: tuple[str, ...] = ()
        self.left_out: tuple[str, ...] = ()  # columns that are neither numbers nor named as categorical
        self._bits = hash_bits or 18
        if isinstance(first, Parquet):
            goal = -1 if target is None else target
            self._target = "" if blind else goal if isinstance(goal, str) else first.names[goal]
            chosen = [n for n in (columns or first.names) if n not in (self._target, *event[:2])]
            absent = [n for n in (*chosen, *filter(None, [self._target]), *filter(None, event[:2])) if n not in first.names]
            if absent:
                raise ConfigError(f"expected columns of {', '.join(first.names[:12])}, found {absent[0]!r}", where=first.path)
            self._words = tuple(str(n) for n in categorical if n in chosen)
            if absent := [n for n in categorical if n not in first.names]:
                raise ConfigError(f"data.categorical: expected columns of {', '.join(first.names[:12])}, found {absent[0]!r}",
                                  where=first.path)
            taken = {*self._words, *_numeric(first, [n for n in chosen if n not in self._words])}
            self._columns = tuple(plan.columns) if plan is not None else tuple(n for n in chosen if n in taken)
            self.left_out = tuple(n for n in chosen if n not in self._columns)
        elif any(event[:2]):
            raise ConfigError("time: expected a source of named columns, CSV or a table, or Kafka", where=first.path,
                              fix="leave time.column and time.id out")
        else:
            self._columns = tuple(str(i) for i in range(first.x.shape[1]))
        self.schema: Schema = plan if plan is not None else self._schema(task, labels)
        self.plan = self.schema
        self._places = {name: place for place, name in enumerate(self.schema.labels)}

    def _schema(self, task: Any, labels: Sequence[str] | None) -> Schema:
        """From the first piece and what was given: classes by their text."""
        y = self._raw(0)[1]
        width, words = (1 << self._bits, True) if self._words else (len(self._columns), False)
        numbers = words and len(self._words) < len(self._columns)
        if labels or task != "regression":
            texts = tuple(labels) if labels else tuple(_text(v) for v in np.unique(y[~_empty(y)]).tolist())
            if labels or task or len(texts) <= 64:
                kind: Any = task or ("binary" if len(texts) == 2 else "multiclass" if len(texts) > 2 else "regression")
                if kind != "regression":
                    return Schema(width, words, kind, texts, self._columns, numbers)
        return Schema(width, words, "regression", (), self._columns, numbers)

    def narrow(self, columns: Array) -> TableSource:
        """The same rows with some neighbouring feature columns alone; the others are not read."""
        if self._words:
            raise ConfigError("data.rule: expected dense rows to cut by columns, found data.categorical",
                              fix="data.columns without them, or data.rule=deal")
        made, low, high = copy.copy(self), int(columns[0]), int(columns[-1]) + 1
        made._columns, made._slab = self._columns[low:high], slice(low, high)
        made.schema = replace(self.schema, width=high - low, columns=made._columns)
        return made

    def streamed(self, piece: int) -> bool:
        return False

    def reader(self, piece: int, size: int) -> int:
        return piece % size

    def _raw(self, piece: int) -> tuple[Array | list[Array], Array, list[Array | None]]:
        """Features (by column where some are words), targets, and time and id where they are asked for."""
        file = int(np.searchsorted(self._starts, piece, "right")) - 1
        held, place = self._files[file], piece - int(self._starts[file])
        if isinstance(held, Slabs):
            return *held.rows(place, self._slab), [None, None]
        names = [*self._columns, *filter(None, [self._target]), *(t[0] for t in self._tests), *filter(None, self._event[:2])]
        absent = [n for n in names if n not in held.names]
        if absent:
            raise DataError(f"expected a column {absent[0]!r}, found {', '.join(held.names[:12])}: the columns have changed",
                            where=held.path, fix="give files with the same columns")
        found = held.columns(place, list(dict.fromkeys(names)))
        rows = len(next(iter(found.values()), ()))
        y = found[self._target] if self._target else np.full(rows, np.nan, np.float32)
        keep = np.ones(rows, bool)
        for name, compare, value in self._tests:
            keep &= compare(found[name], value)
        more = [found[n][keep] if n else None for n in self._event[:2]]
        if self._words:
            return [found[name][keep] for name in self._columns], y[keep], more
        x = np.stack([found[name] for name in self._columns], 1) if self._columns else np.empty((len(keep), 0))
        return x[keep], y[keep], more

    def read(self, piece: int, skip: int = 0) -> Iterator[Batch]:
        if self.pieces is not None and not 0 <= piece < self.pieces:
            return
        x, y, (time, name) = self._raw(piece)
        y = self._labels(y, piece)
        entries = self._sparse(x, len(y), piece) if isinstance(x, list) else {"x": self._numbers(x, piece)}
        previous = np.concatenate([np.full(min(1, len(y)), np.nan, np.float32), y[:-1]])
        if len(y) > skip:
            self.stats["rows"] += len(y) - skip
            batch = Batch(y, np.arange(len(y), dtype=np.int64), previous, **entries,
                          time=None if time is None else stamps(time, self._event[2]), id=None if name is None else ids(name))
            yield batch.slice(skip, len(y))

    def _numbers(self, x: Array, piece: int) -> Array:
        """float32 of numbers `(n, …)`; what is missing in them follows `missing`."""
        try:
            x = np.ascontiguousarray(x, np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"expected numbers, found: {error}", where=f"piece {piece}",
                            fix="choose numeric columns") from error
        if self._missing == "zero":
            x = np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=-np.inf)
        elif self._missing == "error" and np.isnan(x).any():
            row = int(np.isnan(x).reshape(len(x), -1).any(1).argmax())
            raise DataError(f"row {row}: a feature is missing", where=f"piece {piece}", fix="data.missing=zero")
        return x

    def _sparse(self, columns: list[Array], rows: int, piece: int) -> dict[str, Array]:
        """indptr, keys and values of rows with words in them: the entries that the same rows as CSV have, in their order."""
        keys = np.empty((rows, len(columns)), np.uint32)
        values = np.ones((rows, len(columns)), np.float32)
        there = np.ones((rows, len(columns)), bool)
        for place, (name, column) in enumerate(zip(self._columns, columns, strict=True)):
            seed, mask = text_hash(name.encode()), self.schema.width - 1
            if name not in self._words:
                keys[:, place], values[:, place] = mix(seed) & mask, self._numbers(column, piece)
                continue
            words, which = np.unique(["" if v is None or v != v else _text(v) for v in column.tolist()],
                                     return_inverse=True)
            hashes = [text_hash(word.encode(), seed) & mask for word in words.tolist()]
            keys[:, place] = np.array(hashes, np.uint32)[which]
            there[:, place] = np.array([word.lower() not in MISSING for word in words.tolist()], bool)[which]
        return {"indptr": np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int64), "keys": keys[there],
                "values": values[there]}

    def _labels(self, y: Array, piece: int) -> Array:
        if self.schema.task == "regression":
            return np.asarray(y, np.float32)
        out = np.full(len(y), np.nan, np.float32)
        for value in np.unique(y[~_empty(y)]).tolist():
            if _text(value) not in self._places:
                raise DataError(f"unknown label: expected one of {', '.join(self.schema.labels[:12])}, found {value!r}",
                                where=f"piece {piece}", fix="labels=[...] with every label")
            out[y == value] = self._places[_text(value)]
        return out

    def close(self) -> None:
        """Files are closed with the process."""


def stamps(values: Array, unit: str) -> Array:
    """Times of a column as microseconds: dates as they are, numbers by their unit, text by ISO 8601."""
    if values.dtype.kind == "M":
        return values.astype("datetime64[us]").astype(np.int64)
    if values.dtype.kind in "fiu":
        known = values[~_empty(values)] if values.dtype.kind == "f" else values
        scaled = np.full(len(values), float(NO_TIME))
        np.multiply(values, scale_of(unit, float(known[0]) if len(known) else 0.0), out=scaled, where=~_empty(values))
        return np.rint(scaled).astype(np.int64)
    text = "".join(f"{'' if v is None else v}\n" for v in values.tolist()).encode()
    at = np.cumsum([0, *(len(line) + 1 for line in text.split(b"\n")[:-2])], dtype=np.int64)[: len(values)]
    out = np.empty(len(values), np.int64)
    _native.parse_times(text, at, 0, 1, True, UNITS["s"], out)
    return out


def ids(values: Array) -> Array:
    """Ids of a column as the hashes of their text; 0 where there is none."""
    text = [b"" if v is None or v != v else str(v).encode() for v in values.tolist()]
    return np.array([text_hash(t) | 1 if t else 0 for t in text], np.uint64)


def _test(text: str) -> tuple[str, Callable[[Any, Any], Any], Any]:
    match = re.fullmatch(r"\s*([^<>=!]+?)\s*(<=|>=|!=|==|<|>)\s*(.+?)\s*", text)
    if not match:
        raise ConfigError(f"data.where: expected COLUMN<VALUE, joined by &, found {text!r}", fix='data.where="a>3&b<=0.5"')
    try:
        return match[1], OPS[match[2]], float(match[3])
    except ValueError:
        return match[1], OPS[match[2]], match[3].strip("\"'")


def _numeric(file: Parquet, names: Sequence[str]) -> Iterator[str]:
    found = file.columns(0, names) if file.count else {}
    return (name for name in names if found[name].dtype.kind in "fiub")


def _empty(y: Array) -> Array:
    return y != y if y.dtype.kind == "f" else np.array([v is None for v in y.tolist()], bool)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def open_table(spec: str, paths: Callable[[str], list[str]], **options: Any) -> TableSource | ArraySource:
    """The source of the files a spec names."""
    path, _, query = spec.partition("?")
    found = [path] if "://" in path or path.rstrip("/").endswith(".zarr") else paths(path)
    return TableSource(found, dict(parse_qsl(query)), **options)
