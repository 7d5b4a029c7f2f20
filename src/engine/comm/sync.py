"""Synchronous exchange of Updates: every rank ends with the same sum, bit for bit, whatever the number of rows each had.

Two routes, chosen from sizes all ranks know: few rows are gathered everywhere and summed in rank order by each rank;
many rows go to the owner of their key range, which sums them in rank order and sends the sums to all, so each rank
handles about 1/P of the rows (reduce-scatter, then allgather). Both sum in rank order, so both give the same bits.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from engine.types import Array, Link, Update

GATHER_ROWS = 4096
Combine = Callable[[Sequence[Update]], Update]


def vote(link: Link, values: Sequence[float], error: BaseException | None = None, *, name: str) -> Array:
    """Every rank's `values` as float64 `(size, len(values))`; if any rank brings an error, all raise the first one."""
    table = link.vote(np.array([error is not None, *values], np.float64), name=name)
    failed = np.flatnonzero(table[:, 0])
    if len(failed):
        first = int(failed[0])
        raise link.bcast(error, root=first, name=f"{name}: error of rank {first}")
    return table[:, 1:]


def pack(update: Update) -> Array:
    """Rows as uint32 `(m, 1 + w)`: the key, then the float32 values as they are (float64: two words a value)."""
    assert update.keys is not None
    words = np.ascontiguousarray(update.values).view(np.uint32)
    rows = np.empty((len(update.keys), 1 + words.shape[1]), np.uint32)
    rows[:, 0] = update.keys
    rows[:, 1:] = words
    return rows


def unpack(rows: Array, weight: float, dtype: Any = np.float32) -> Update:
    """Inverse of `pack`."""
    return Update(np.ascontiguousarray(rows[:, 0]), np.ascontiguousarray(rows[:, 1:]).view(dtype), weight)


def total(link: Link, update: Update, combine: Combine, counts: Sequence[int], weights: Sequence[float]) -> Update:
    """Sum over ranks of Updates, the same bytes on every rank; `counts` = rows, `weights` = weight of each."""
    weight = float(sum(weights))
    if update.keys is None:
        return Update(None, link.allreduce(update.values, name="dense updates"), weight)
    dtype = update.values.dtype
    if sum(counts) <= GATHER_ROWS or link.size == 1:
        parts = link.allgather(pack(update), counts=counts, name="updates")
        return _sum([unpack(p, w, dtype) for p, w in zip(parts, weights, strict=True)], combine, weight)
    bounds = _bounds(link, update.keys)
    rows = pack(update)
    cuts = np.searchsorted(update.keys, bounds)
    edges = [0, *cuts.tolist(), len(rows)]
    parts = link.alltoall([rows[a:b].ravel() for a, b in pairwise(edges)], name="updates to owners")
    width = rows.shape[1]
    owned = _sum([unpack(p.reshape(-1, width), 0.0, dtype) for p in parts], combine, 0.0)
    whole = link.allgather(pack(owned), name="sums from owners")
    return unpack(np.concatenate(whole), weight, dtype)


def ordered(link: Link, updates: Sequence[Update], combine: Combine) -> Update:
    """Sum of every replica's Update in the order of replicas over all ranks: the same bits for any number of ranks.

    Each rank holds the same number of replicas; everything travels to everyone, which is what the order costs.
    """
    weights = link.vote(np.array([u.weight for u in updates]), name="weights of replicas").ravel().tolist()
    first = updates[0]
    if first.keys is None:
        parts = link.allgather(np.stack([u.values for u in updates]), name="updates of replicas")
        return combine([Update(None, values, w) for values, w in zip(np.concatenate(parts), weights, strict=True)])
    sizes = np.array([0 if u.keys is None else len(u.keys) for u in updates], np.int64)
    counts = link.vote(sizes, name="sizes of replicas").ravel()
    rows = np.concatenate(link.allgather(np.concatenate([pack(u) for u in updates]), name="updates of replicas"))
    cuts = np.concatenate([[0], np.cumsum(counts)]).tolist()
    whole = [unpack(rows[a:b], weight, first.values.dtype) for (a, b), weight in zip(pairwise(cuts), weights, strict=True)]
    return combine(whole)


def _sum(parts: list[Update], combine: Combine, weight: float) -> Update:
    summed = combine(parts)
    return Update(summed.keys, summed.values, weight)


def _bounds(link: Link, keys: Array) -> Array:
    """Key ranges of equal work: quantiles of a sample of every rank's keys, the same on all; (size - 1,) uint32."""
    at = (np.arange(64) * len(keys)) // 64
    sample = keys[at].astype(np.uint32) if len(keys) else np.full(64, 0xFFFFFFFF, np.uint32)
    table = np.sort(link.vote(sample, name="key sample"), axis=None)
    table = table[table != 0xFFFFFFFF]
    if not len(table):
        return np.zeros(link.size - 1, np.uint32)
    return table[(np.arange(1, link.size) * len(table)) // link.size]


def same(link: Link, value: Any, what: str) -> None:
    """An error on every rank, naming both values, if `value` differs between ranks (by repr); of dicts what differs."""
    from engine.comm.world import hash_name
    from engine.errors import PeerError

    table = link.vote(np.array([hash_name(repr(value))], np.int64), name=f"compare {what}")[:, 0]
    if (table == table[0]).all():
        return
    other = int(np.flatnonzero(table != table[0])[0])
    first, found = link.bcast(value, root=0, name=what), link.bcast(value, root=other, name=what)
    if isinstance(first, dict) and isinstance(found, dict):
        odd = [name for name in {**first, **found} if repr(first.get(name)) != repr(found.get(name))]
        first, found = ({name: held.get(name) for name in odd} for held in (first, found))
    raise PeerError(
        f"{what} differs between ranks: rank 0 has {first!r}, rank {other} has {found!r}",
        fix="start every rank with the same configuration",
    )
