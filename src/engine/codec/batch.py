"""Rows that change rank: packed as they are, or as frames of the row codec where a measured link makes that the faster way.

The sender decides for what it sends, from the rate that its last moves had and from what a sample of its own rows costs to
encode and decode and how small they become. Every message says which form it has.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from engine.codec.rows import rows_decode, rows_encode
from engine.errors import FrameError
from engine.types import Array, Batch, Link

CODED = -7  # where plain rows have a length
FIRST = 3  # moves that tell the rate of the link before rows are tried
SAMPLE_ROWS, AGAIN = 4096, 64  # of rows tried; moves until they are tried again
LEAST_ROWS, LEAST_BYTES = 256, 64 << 10  # below, a move costs its latency, not its bytes
FAST = 1.5e9  # bytes a second that no coding keeps up with
GAIN = 0.8  # of the time of plain rows: coding must be clearly faster


def encode(batch: Batch) -> Array:
    """Rows as uint8: int64 mark and bytes in all, then frames (docs/format.md) behind their lengths, padded to 8 bytes."""
    rows = {"y": batch.y, "order": batch.order, "previous": batch.previous}
    rows |= {name: data for name in ("weight", "time", "id") if (data := getattr(batch, name)) is not None}
    groups = [rows | ({} if batch.x is None else {"x": batch.x})]
    if batch.indptr is not None and batch.keys is not None:
        groups[0]["count"] = np.diff(batch.indptr)
        groups.append({"keys": batch.keys} | ({} if batch.values is None else {"values": batch.values}))
    parts = [np.array([CODED, 0], np.int64).view(np.uint8)]
    for group in groups:
        frame = rows_encode(group, fast=True)
        parts += [np.array([len(frame)], np.int64).view(np.uint8), frame, np.zeros(-len(frame) % 8, np.uint8)]
    whole = np.concatenate(parts)
    whole[8:16].view(np.int64)[0] = len(whole)
    return whole


def decode(data: Array) -> Batch:
    """Inverse of `encode`; FrameError where a frame is damaged or cut."""
    if len(data) < 16 or int(data[8:16].view(np.int64)[0]) != len(data):
        raise FrameError(f"rows: {len(data)} bytes, which is not what was sent")
    at, found = 16, dict[str, Array]()
    while at + 8 <= len(data):
        size = int(data[at : at + 8].view(np.int64)[0])
        if not 0 < size <= len(data) - at - 8:
            raise FrameError(f"rows: a frame of {size} bytes, of {len(data) - at - 8} there")
        found |= rows_decode(data[at + 8 : at + 8 + size])
        at += 8 + size + -size % 8
    count = found.pop("count", None)
    if count is not None:
        found["indptr"] = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        found.setdefault("keys", np.empty(0, np.uint32))
    return Batch(**found)


def coded(data: Array) -> bool:
    return len(data) >= 8 and int(data[:8].view(np.int64)[0]) == CODED


class Wire:
    """How rows go to other ranks. `form`: auto, plain or rows; `pack`, `unpack`: plain rows as bytes and back.

    `rate` is what the moves themselves showed, which ranks begin together (a vote precedes each); small ones say nothing.
    """

    def __init__(self, pack: Callable[[Batch], Array], unpack: Callable[[Array], Batch], form: str = "auto") -> None:
        self._pack, self._unpack, self.form = pack, unpack, form
        self.coding, self._moves, self._tried = form == "rows", 0, FIRST
        self._seen = np.zeros(2)  # bytes sent and seconds, older ones counting less
        self.sent_bytes = 0

    @property
    def rate(self) -> float:
        """Bytes a second that this rank sends to all others together; 0 before anything large has been sent."""
        return float(self._seen[0] / self._seen[1]) if self._seen[1] else 0.0

    def move(self, link: Link, parts: Sequence[Batch | None], name: str) -> list[Batch]:
        """The rows that all ranks sent to this one; `parts[rank]`: rows for each (collective). Own rows stay where they are."""
        self._moves += 1
        if self.form == "auto" and self._moves > self._tried and self.rate:
            self._try(max((part for rank, part in enumerate(parts) if part is not None and rank != link.rank), key=len,
                          default=None))
        out = [np.empty(0, np.uint8)] * link.size
        for rank, part in enumerate(parts):
            if part is not None and len(part) and rank != link.rank:
                out[rank] = encode(part) if self.coding and len(part) >= LEAST_ROWS else self._pack(part)
        began, size = time.perf_counter(), sum(map(len, out))
        come = link.alltoall(out, name=name)
        if size >= LEAST_BYTES:
            self._seen = 0.8 * self._seen + (size, time.perf_counter() - began)
        self.sent_bytes += size
        found = [decode(data) if coded(data) else self._unpack(data) for data in come if len(data)]
        mine = parts[link.rank]
        return [*found, *([mine] if mine is not None and len(mine) else [])]

    def _try(self, rows: Batch | None) -> None:
        """Whether coding pays for rows like these."""
        if rows is None or len(rows) < LEAST_ROWS:
            return
        self._tried = self._moves + AGAIN
        if self.rate > FAST:
            self.coding = False
            return
        some = rows.slice(0, min(len(rows), SAMPLE_ROWS))
        began = time.perf_counter()
        plain = self._pack(some)
        packed = time.perf_counter()
        small = encode(some)
        decode(small)
        ended = time.perf_counter()
        self.coding = (ended - packed) + len(small) / self.rate < GAIN * ((packed - began) + len(plain) / self.rate)
