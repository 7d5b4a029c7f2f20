"""The sum of Updates. What a total means for a model is the model's own merge rule."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.errors import ShardError
from engine.kernels import _native
from engine.types import Array, Update

MANY = 48  # updates from which sorting their rows is quicker than adding one after the other


def combine(updates: Sequence[Update]) -> Update:
    """Total of Updates of one width and type, added in the order given (rank order): all ranks get the same bits.

    Keyed: keys of the result ascend, and a key that one Update lacks counts as zero there.  Dense (no keys): shapes are
    equal.  Raises ShardError for no Updates, for keyed and dense together, and for another width, shape or type.
    """
    if not updates:
        raise ShardError("combine: expected at least one update, found none")
    first = updates[0]
    for u in updates:
        rows = len(first.values if u.keys is None else u.keys)
        if ((u.keys is None) != (first.keys is None) or u.values.dtype != first.values.dtype
                or u.values.shape != (rows, *first.values.shape[1:]) or u.values.ndim != 2):
            raise ShardError(f"combine: expected updates of one width and type, all with keys or none, found values "
                             f"{first.values.dtype}{first.values.shape} and {u.values.dtype}{u.values.shape}")
    weight = float(sum(u.weight for u in updates))
    if first.keys is None:
        values = first.values.copy()
        for u in updates[1:]:
            values += u.values
        return Update(None, values, weight)
    if len(updates) >= MANY:
        return _sorted(updates, weight)
    keys, values = np.ascontiguousarray(first.keys, np.uint32), np.ascontiguousarray(first.values)
    for u in updates[1:]:
        keys, values = _add(keys, values, np.ascontiguousarray(u.keys, np.uint32), np.ascontiguousarray(u.values))
    return Update(keys, values, weight)


def distinct(parts: Sequence[Array]) -> Array:
    """All keys uint32, ascending, each once; a sort is about twice as quick here as the hashing of np.unique."""
    keys = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint32)
    fresh = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=fresh[1:])
    return keys[fresh]


def _sorted(updates: Sequence[Update], weight: float) -> Update:
    """As adding one after the other, in O(n log P) instead of O(n P): rows sorted by key stay in the order given, and a key's
    first, second, … row are added in turn."""
    keys = np.concatenate([np.asarray(u.keys, np.uint32) for u in updates])
    values = np.concatenate([u.values for u in updates])
    order = np.argsort(keys, kind="stable")  # merges runs that ascend
    keys = keys[order]
    at = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    count = np.diff(np.append(at, len(keys)))
    total, turn, left = values[order[at]], 1, np.flatnonzero(count > 1)
    while len(left):
        total[left] += values[order[at[left] + turn]]
        turn += 1
        left = left[count[left] > turn]
    return Update(keys[at], total, weight)


def _add(ka: Array, va: Array, kb: Array, vb: Array) -> tuple[Array, Array]:
    if va.dtype != np.float32 or va.shape[1] != 6:
        return _add_any(ka, va, kb, vb)
    keys = np.empty(len(ka) + len(kb), np.uint32)
    values = np.empty((len(keys), 6), np.float32)
    count = _native.update_combine(ka, va, kb, vb, keys, values)
    return keys[:count], values[:count]


def _add_any(ka: Array, va: Array, kb: Array, vb: Array) -> tuple[Array, Array]:
    """As `_native.update_combine`, for any width and type."""
    keys = np.union1d(ka, kb)
    values = np.zeros((len(keys), va.shape[1]), va.dtype)
    values[np.searchsorted(keys, ka)] = va
    values[np.searchsorted(keys, kb)] += vb
    return keys, values
