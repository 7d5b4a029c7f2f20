"""Plain definition of routing: key -> slot -> owner through a table whose slots may be split."""
from __future__ import annotations

import numpy as np

from engine.types import Array

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hashed(keys: Array) -> Array:
    """uint64 of each uint64 key; its top bits name the slot (Fibonacci hashing of the folded key)."""
    return (keys ^ keys >> np.uint64(32)) * GOLDEN


def slots(keys: Array, owner: Array, forks: Array, bits: int) -> Array:
    """uint32 slot of each uint64 key. `owner[slot]` < 0 is ~number of a row `(base, bits)` of `forks`: the next bits of
    the hash choose one of 2^bits slots from base on."""
    h = hashed(keys)
    slot = (h >> np.uint64(64 - bits)).astype(np.int64)
    h = h << np.uint64(bits)
    while (forked := owner[slot] < 0).any():
        base, more = forks[~owner[slot[forked]].astype(np.int64)].T
        slot[forked] = base + (h[forked] >> (64 - more).astype(np.uint64)).astype(np.int64)
        h[forked] <<= more.astype(np.uint64)
    return slot.astype(np.uint32)


def route(keys: Array, owner: Array, forks: Array, bits: int, out: Array) -> None:
    """int32 rank of each key."""
    out[:] = owner[slots(keys, owner, forks, bits)]
