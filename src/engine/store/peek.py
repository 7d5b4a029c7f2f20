"""One-sided reads of other ranks' rows: the row's version before and after, and the generation of its slab, prove it whole.

Each round is three batches of reads, each done before the next begins: the head of each key's bucket, the row, the head
again. Where both heads are the same and no writer was inside, the row between them is one that stood there.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engine.kernels import _native
from engine.types import Array

GENERATION_AT = 64
ROW_HEAD = np.dtype([("key", "<u8"), ("version", "<u4"), ("clock", "<u4")])
ROUNDS = 32


class OneSided(Protocol):
    """How other ranks' memory is read (comm.window)."""

    def get(self, rank: int, offsets: Sequence[int], outs: Sequence[Array]) -> None: ...


class Peek:
    """Reads rows of slabs of one shape: `buckets` places of `row_bytes` from byte `rows_at` on, `width` floats a row."""

    def __init__(self, window: OneSided, width: int, buckets: int, row_bytes: int, rows_at: int) -> None:
        self.window, self.width, self.buckets, self.row_bytes, self.rows_at = window, width, buckets, row_bytes, rows_at
        self._generation: dict[int, int] = {}

    def rows(self, owner: int, keys: Array, init: Array) -> tuple[Array, Array, Array] | None:
        """(rows, versions, known) of the keys; None where the owner's rows moved since it was last heard, or are moving."""
        if not self._settled(owner):
            return None
        place = np.empty(len(keys), np.uint64)
        _native.slab_find(keys, self.buckets, place)
        found = self._read(owner, keys, place, init)
        return found if self._settled(owner) else None

    def _settled(self, owner: int) -> bool:
        word = np.empty(8, np.uint8)
        self.window.get(owner, [GENERATION_AT], [word])
        now = int(word.view(np.uint64)[0])
        before = self._generation.setdefault(owner, 0)
        self._generation[owner] = now
        return now == before and not now & 1

    def _read(self, owner: int, keys: Array, place: Array, init: Array) -> tuple[Array, Array, Array]:
        n, size = len(keys), self.row_bytes
        rows, versions, known = np.empty((n, self.width), np.float32), np.zeros(n, np.uint32), np.zeros(n, bool)
        todo = np.arange(n)
        for _ in range(ROUNDS):
            offsets = (self.rows_at + place[todo].astype(np.int64) * size).tolist()
            heads, whole = np.empty((2, len(todo), 16), np.uint8), np.empty((len(todo), size), np.uint8)
            for outs in (heads[0], whole, heads[1]):
                self.window.get(owner, offsets, list(outs))
            first, last = (h.reshape(-1).view(ROW_HEAD) for h in heads)
            still = (first["key"] == last["key"]) & (first["version"] == last["version"]) & (first["version"] & 1 == 0)
            hit = still & (first["key"] == keys[todo] + np.uint64(1))
            none = still & (first["key"] == 0) & (first["version"] == 0)
            rows[todo[hit]] = whole[hit, 16 : 16 + 4 * self.width].view(np.float32).reshape(-1, self.width)
            versions[todo[hit]] = first["version"][hit]
            rows[todo[none]] = init
            known[todo[hit | none]] = True
            place[todo[still & ~hit & ~none]] += np.uint64(1)  # another key lives here: the next bucket
            place[todo] &= np.uint64(self.buckets - 1)
            todo = todo[~(hit | none)]
            if not len(todo):
                break
        return rows, versions, known
