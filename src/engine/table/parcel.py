"""Rows on their way from one rank to another: raw, or packed where the link is slower than the codec.

The first parcel of a migration is sent as it is and timed; it is also packed, and timed. Where packing and unpacking take less
time than the link did and save bytes, what follows is packed: rows sent for the first time alone, by byte planes; rows sent
before as a delta against what the target has acknowledged, which the source keeps until the migration ends (one copy of the
rows). A delta names the version of each row it is against; the target refuses it whole where one is another, and gets it raw.
"""
from __future__ import annotations

import time
from typing import Any

import numpy as np

from engine.codec.call import HEAD_BYTES
from engine.kernels import _native
from engine.store.table import BODY_BYTES, Rows, Table
from engine.types import Array

FEW_BYTES = 1 << 16  # fewer are not worth packing: their time is the latency's
WORTH = 0.95  # of the bytes
SLOWER = 2.5  # the target, which unpacks by planes, takes some twice as long as the source


class Parcels:
    """Copies of rows to `target`; `room`: rows that are to move. `pack`: whether to pack, None = as measured."""

    def __init__(self, table: Table, target: int, room: int, *, pack: bool | None = None) -> None:
        self.table, self.target = table, target
        self.packs = False if target in table.near else pack
        self.size_bytes = self.wire_bytes = self.packed = 0
        self._few = 0 if pack else FEW_BYTES
        self._room, self._held = room, 0
        self._keys: Array = np.empty(0, np.uint64)
        self._order: Array | None = None

    def begin(self, rows: Rows) -> Any:
        """Begins to send copies; several may be under way, ended in the order they were begun."""
        size = _bytes(rows)
        self.size_bytes += size
        if self.packs is None and size >= self._few:
            self._measure(rows)
            self._keep(rows)
            return None
        frame = self._frame if self.packs and size >= self._few else self._raw
        sent = self.table.put_begin(self.target, rows, frame)
        if self.packs:
            self._keep(rows)
        return sent

    def end(self, sent: Any) -> None:
        """Waits until the target has them."""
        if sent is not None:
            self.table.put_end(sent)

    def _measure(self, rows: Rows) -> None:
        began = time.perf_counter()
        self.table.put_end(self.table.put_begin(self.target, rows, self._raw))
        link_s = time.perf_counter() - began
        head = Rows(*(np.ascontiguousarray(field[: self.table.block_rows]) for field in rows))
        _native.rows_pack(*head)  # its memory is there from here on
        began = time.perf_counter()
        size = len(_native.rows_pack(*head))
        pack_s = (time.perf_counter() - began) * len(rows.keys) / len(head.keys)
        self.packs = SLOWER * pack_s < link_s and size < WORTH * _bytes(head)

    def _raw(self, part: Rows) -> Array:
        made = self.table.frame("stage", part, len(part.keys))
        self.wire_bytes += len(made)
        return made

    def _frame(self, part: Rows) -> Array:
        """A part, which fills one frame at most, packed: against what the target has, if it has had all of these rows."""
        place = self._places(part.keys)
        if place is None:
            body = _native.rows_pack(*part)
        else:
            body = _native.rows_pack(*part, self._versions[place], self._values[place])
        if len(body) > min(BODY_BYTES, _bytes(part)):
            return self._raw(part)
        made = self.table.frame("pack", [body], len(part.keys))
        self.wire_bytes += len(made)
        self.packed += 1
        return made

    def _keep(self, rows: Rows) -> None:
        """Remembers what the target is told."""
        if not self.packs:
            return
        if not len(self._keys):
            self._keys, self._versions = np.empty(self._room, np.uint64), np.empty(self._room, np.uint32)
            self._values = np.empty((self._room, self.table.width), np.float32)
        place = self._places(rows.keys, some=True)
        if place is None:
            count = min(len(rows.keys), self._room - self._held)
            low, self._held = self._held, self._held + count
            self._keys[low : low + count], self._versions[low : low + count] = rows.keys[:count], rows.versions[:count]
            self._values[low : low + count] = rows.values[:count]
            return
        known = place >= 0
        if known.all():
            self._versions[place], self._values[place] = rows.versions, rows.values
        else:
            self._versions[place[known]], self._values[place[known]] = rows.versions[known], rows.values[known]

    def again(self) -> None:
        """All rows have been sent once: what follows are changes of them."""
        if self.packs:
            self._order = np.argsort(self._keys[: self._held])
            self._sorted = self._keys[self._order]

    def _places(self, keys: Array, *, some: bool = False) -> Array | None:
        """Where each key is kept, -1 where it is not; None while rows are sent for the first time, or (not `some`) where one
        is not kept."""
        if self._order is None or not len(self._order):
            return None
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._order) - 1)
        place = np.where(self._sorted[at] == keys, self._order[at], -1)
        return None if not some and (place < 0).any() else place


def _bytes(rows: Rows) -> int:
    return sum(field.nbytes for field in rows) + HEAD_BYTES
