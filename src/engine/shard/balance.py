"""Who owns what, so that nobody waits: replicate hot keys, split hot slots, then move little. Pure plans."""
from __future__ import annotations

import numpy as np

from engine.types import Array


def resize(owner: Array, before: int, after: int, weight: Array | None = None) -> tuple[Array, Array]:
    """(slots, owners) to reassign so that ranks 0..after-1 share what 0..before-1 had, moving the least.

    `owner` (slots,): rank of each; `weight`: load of each (all 1). Growing, every rank gives its share to the new ones;
    shrinking, only slots of the ranks that leave move.
    """
    load = np.ones(len(owner)) if weight is None else np.asarray(weight, np.float64)
    target = load.sum() / after
    have = np.bincount(owner, load, max(before, after))[:after]
    if after < before:
        slots = np.flatnonzero(owner >= after)
    else:
        order = np.argsort(owner, kind="stable")
        inside = np.cumsum(load[order])
        inside -= np.concatenate([[0.0], np.cumsum(np.bincount(owner, load, before))])[owner[order]]
        excess = inside - load[order] / 2 - target  # of a slot's middle: the nearest whole number of slots goes
        first = np.argsort(-excess, kind="stable")
        first = first[excess[first] > 0]
        slots = order[first[np.cumsum(load[order[first]]) <= target * (after - before) + load.max() / 2]]
        have = np.minimum(have, np.bincount(np.delete(owner, slots), np.delete(load, slots), after)[:after])
    place = np.cumsum(load[slots]) - load[slots] / 2
    room = np.cumsum(np.maximum(0.0, target - have))
    return slots, np.minimum(np.searchsorted(room, place * (room[-1] / max(load[slots].sum(), 1e-300))), after - 1)
