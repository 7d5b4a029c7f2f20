"""The sum of Updates. What a total means for a model is the model's own merge rule."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.errors import ShardError
from engine.kernels import _native
from engine.types import Array, Update


def combine(updates: Sequence[Update]) -> Update:
    """Total of keyed Updates with `(m, 6)` values, added in the order given (rank order): all ranks get the same bits.

    Keys of the result ascend; a key that one Update lacks counts as zero there.  Raises ShardError for no Updates, for
    Updates without keys, and for another width.
    """
    if not updates:
        raise ShardError("combine: expected at least one update, found none")
    keys, values = _parts(updates[0])
    for other in updates[1:]:
        keys, values = _add(keys, values, *_parts(other))
    return Update(keys, values, float(sum(u.weight for u in updates)))


def _parts(update: Update) -> tuple[Array, Array]:
    if update.keys is None or update.values.shape != (len(update.keys), 6):
        raise ShardError(f"combine: expected keys and values of shape (keys, 6), found values {update.values.shape}")
    return np.ascontiguousarray(update.keys, np.uint32), np.ascontiguousarray(update.values, np.float32)


def _add(ka: Array, va: Array, kb: Array, vb: Array) -> tuple[Array, Array]:
    keys = np.empty(len(ka) + len(kb), np.uint32)
    values = np.empty((len(keys), 6), np.float32)
    count = _native.update_combine(ka, va, kb, vb, keys, values)
    return keys[:count], values[:count]
