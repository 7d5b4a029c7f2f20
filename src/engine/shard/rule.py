"""Which rank learns which row, and which pieces can be read side by side. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from engine.errors import ConfigError
from engine.types import Array, Batch

RULES = ("deal", "hash", "range", "random", "part")


def mixed(x: Array) -> Array:
    """splitmix64's finaliser of each uint64."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def row_key(batch: Batch, column: int | None) -> Array:
    """uint64 `(n,)`: the row's first key (sparse; 0 where it has none) or the bits of a dense column."""
    if batch.x is not None:
        value = np.ascontiguousarray(batch.x[:, column or 0]) + np.float32(0)  # -0 and 0 are one key
        return value.view(np.uint32).astype(np.uint64)
    assert batch.indptr is not None and batch.keys is not None
    key = np.zeros(len(batch), np.uint64)
    full = np.diff(batch.indptr) > 0
    key[full] = batch.keys[batch.indptr[:-1][full]]
    return key


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
) -> Array:
    """int32 `(n,)`: the one rank of `size` that learns each row; `order` int64 `(n,)` is the global order.

    `deal`: blocks of `block_rows` in turn; `hash`: of `row_key`; `range`: `row_key` (a dense column by value) against
    ascending `bounds` `(size - 1,)`; `random`: by (seed, order); `part`: `reader`, the rank that read the piece.
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
        value = batch.x[:, key_column or 0] if batch.x is not None else row_key(batch, None)
        return np.searchsorted(bounds, value, "right").astype(np.int32)
    raise ConfigError(f"rule: expected one of {', '.join(RULES)}, found {rule!r}")


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
