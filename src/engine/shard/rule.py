"""Which rank learns which row, and which pieces can be read side by side. Pure functions."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine.errors import ConfigError, DataError, ShardError
from engine.types import Array, Batch

RULES = ("deal", "hash", "range", "random", "part", "window", "user")
User = Callable[[Array, Batch, int], Array]


def mixed(x: Array) -> Array:
    """splitmix64's finaliser of each uint64."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def row_key(batch: Batch, column: int | None) -> Array:
    """uint64 `(n,)`: the row's first key (sparse; 0 where it has none) or the bits of a dense column."""
    if batch.x is not None:
        need_column(batch, column)
        value = np.ascontiguousarray(batch.x[:, column or 0]) + np.float32(0)  # -0 and 0 are one key
        return value.view(np.uint32).astype(np.uint64)
    assert batch.indptr is not None and batch.keys is not None
    key = np.zeros(len(batch), np.uint64)
    full = np.diff(batch.indptr) > 0
    key[full] = batch.keys[batch.indptr[:-1][full]]
    return key


def need_column(batch: Batch, column: int | None) -> None:
    """DataError where a dense batch has no such column."""
    if batch.x is not None and not 0 <= (column or 0) < batch.x.shape[1]:
        raise DataError(f"the key column is missing: expected column {column or 0}, found {batch.x.shape[1]} columns",
                        fix="name a column that the rows have: data.key=NAME")


def owner(
    rule: str,
    order: Array,
    batch: Batch,
    size: int,
    *,
    block_rows: int = 1,
    seed: int = 0,
    key_column: int | None = None,
    bounds: Array | None = None,
    reader: int = 0,
    time: Array | None = None,
    window: float = 0.0,
    user: User | None = None,
) -> Array:
    """int32 `(n,)`: the one rank of `size` that learns each row; `order` int64 `(n,)` is the global order.

    `deal`: blocks of `block_rows` in turn; `hash`: of `row_key`; `range`: `row_key` (a dense column by value) against
    ascending `bounds` `(size - 1,)`; `random`: by (seed, order); `part`: `reader`, the rank that read the piece;
    `window`: spans of `window` seconds of `time` (the event time, float64 `(n,)`; else of `order`, in rows) in turn;
    `user`: what `user(order, batch, size)` says, held to be whole ranks of 0..size-1.
    """
    if rule == "deal":
        return (order // block_rows % size).astype(np.int32)
    if rule == "part":
        return np.full(len(order), reader, np.int32)
    if rule == "random":
        return (
            mixed(mixed(np.uint64(seed) + np.zeros(1, np.uint64)) ^ order.astype(np.uint64)) % np.uint64(size)
        ).astype(np.int32)
    if rule == "hash":
        return (mixed(row_key(batch, key_column) + np.uint64(seed)) % np.uint64(size)).astype(np.int32)
    if rule == "range":
        if bounds is None or len(bounds) != size - 1:
            raise ConfigError(f"rule range: expected {size - 1} bounds, found {0 if bounds is None else len(bounds)}")
        need_column(batch, key_column)
        value = batch.x[:, key_column or 0] if batch.x is not None else row_key(batch, None)
        return np.searchsorted(bounds, value, "right").astype(np.int32)
    if rule == "window":
        return windowed(order if time is None else time, window, size)
    if rule == "user":
        return told(user, order, batch, size)
    raise ConfigError(f"rule: expected one of {', '.join(RULES)}, found {rule!r}")


def windowed(time: Array, window: float, size: int) -> Array:
    """int32: spans of `window` in turn, so that rows of one span are together and spans spread evenly."""
    if not window > 0:
        raise ConfigError(f"rule window: expected a span above 0, found {window}", fix="set data.window, for example 60s")
    if not np.isfinite(time).all():
        bad = int(np.flatnonzero(~np.isfinite(time))[0])
        raise DataError("rule window: a row has no time", where=f"row {bad} of the batch")
    return (np.floor(np.asarray(time, np.float64) / window).astype(np.int64) % size).astype(np.int32)


def told(user: User | None, order: Array, batch: Batch, size: int) -> Array:
    """int32 of the user's own rule; ShardError where it names a shard that is not there, or not one for each row."""
    if user is None:
        raise ConfigError("rule user: expected a function (order, batch, size) -> shard of each row, found none")
    try:
        found = np.asarray(user(order, batch, size))
    except Exception as error:
        raise ShardError(f"the user's rule raised {type(error).__name__}: {error}", where=f"rows {order[0]} to {order[-1]}"
                         if len(order) else "", fix="it is called with (order, batch, size)") from error
    if found.shape != (len(order),) or found.dtype.kind not in "iu":
        raise ShardError(f"the user's rule: expected {len(order)} whole numbers, found {found.dtype} of shape {found.shape}")
    bad = np.flatnonzero((found < 0) | (found >= size))
    if len(bad):
        raise ShardError(f"the user's rule: expected shards 0 to {size - 1}, found {found[bad[0]]}",
                         where=f"row {int(order[bad[0]])}", fix="return a shard that exists; `size` is the number of them")
    return found.astype(np.int32)


def named(text: str) -> User:
    """The function `(order, batch, size) -> shard of each row` that "module:function" or "path/file.py:function" names."""
    home, _, attribute = text.rpartition(":")
    try:
        if home.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"engine_rule_{Path(home).stem}", home)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(home)
        found: User = getattr(module, attribute)
    except Exception as error:  # whatever the user's module raises
        raise ConfigError(f"data.user: cannot import {text!r}: {error}",
                          fix="data.user=package.module:function or file.py:function") from None
    if not callable(found):
        raise ConfigError(f"data.user: expected a function, found {text!r} of type {type(found).__name__}")
    return found


def waves(pieces: int, reader: Callable[[int, int], int], size: int, start: int = 0) -> Iterator[range]:
    """The pieces from `start` on, cut into the longest runs of consecutive pieces with distinct readers."""
    while start < pieces:
        seen: set[int] = set()
        stop = start
        while stop < pieces and (rank := reader(stop, size)) not in seen:
            seen.add(rank)
            stop += 1
        yield range(start, stop)
        start = stop
