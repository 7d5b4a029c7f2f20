"""The spool: rows that cannot be asked for again, on disk before they are acknowledged to their sender.

A spool is a folder of segments `<first row, 20 digits>.rows`; a segment is a sequence of records

    magic `SPL1` | crc32c of the next 28 bytes u32 | crc32c of name and frames u32 | length of these u32 | rows u32
    | first row u64 | sender's count u64 | sender's name u16 length, text | frames of rows (docs/format.md), or plain arrays
    | `END1`

A record cut short at the end of the last segment (or zeros there, after a power failure) was never acknowledged and is cut
off; damage anywhere else is refused by name. Rows before the cursor that all kept checkpoints have passed are dropped a
segment at a time, unless `keep` holds them for retraining.
The bound is on what is on disk: a full spool takes no more rows, so its feed reads no more, and the sender waits.
"""
from __future__ import annotations

import errno
import os
import struct
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engine.codec.rows import rows_decode, rows_encode
from engine.errors import StoreError
from engine.kernels import _native
from engine.types import Batch, join

MAGIC, END = b"SPL1", b"END1"
HEAD = struct.Struct("<4sIIIIQQ")
SEGMENT_BYTES = 64 << 20
PLAIN = 1 << 31
SMALL, VECTORS = 512, min(1024, os.sysconf("SC_IOV_MAX"))  # bytes; buffers of one write
PROBE, PAYS = 64, 0.8  # a record in 64 is tried; coded where it is a fifth smaller


def columns(batch: Batch) -> list[dict[str, Any]]:
    """The arrays of a batch in groups of equal length: what every row has, then the entries of sparse rows."""
    rows: dict[str, Any] = {"y": batch.y}
    rows |= {name: value for name in ("weight", "time", "id") if (value := getattr(batch, name)) is not None}
    if batch.x is not None:
        return [{**rows, "x": batch.x}]
    assert batch.indptr is not None
    entries = {"keys": batch.keys} | ({} if batch.values is None else {"values": batch.values})
    return [{**rows, "count": np.diff(batch.indptr)}, entries]


def pack(batch: Batch, *, plain: bool = False) -> bytes:
    """A batch as frames of the row codec, or `plain`: arrays as they are, where coding would not make them smaller."""
    return b"".join(parts([batch], plain))


def parts(batches: Sequence[Batch], plain: bool) -> list[Any]:
    """The buffers of the rows of all, in order, as one batch; plain arrays are not copied."""
    held = [columns(batch) for batch in batches]
    alike = all([list(group) for group in one] == [list(group) for group in held[0]] for one in held)
    if len(held) > 1 and not (plain and alike):  # a column that only some have, or rows that are coded together
        held = [columns(join(batches))]
    found: list[Any] = []
    for groups in zip(*held, strict=True):
        if plain:
            for name in groups[0]:
                arrays = [np.ascontiguousarray(group[name]) for group in groups]
                rows, *sides = sum(map(len, arrays)), *arrays[0].shape[1:]
                text = f"{name} {arrays[0].dtype.str} {','.join(map(str, (rows, *sides)))}".encode()
                found.append(struct.pack("<I", PLAIN | len(text)) + text)
                found += [array.reshape(-1).view(np.uint8).data for array in arrays]
        else:
            frame = rows_encode(groups[0], fast=True)
            found += [struct.pack("<I", len(frame)), frame.data]
    return found


def checksum(buffers: Sequence[Any]) -> int:
    """crc32c of the buffers as one; small ones are put together first, since a call costs more than their bytes."""
    crc, small = 0, bytearray()
    for part in buffers:
        if len(part) < SMALL:
            small += part
            continue
        if small:
            crc, small = _native.crc32c(small, crc), bytearray()
        crc = _native.crc32c(part, crc)
    return _native.crc32c(small, crc) if small else crc


def write(file: int, buffers: Sequence[Any]) -> None:
    """All the buffers to the end of the file, as few calls as the system allows."""
    left = deque([memoryview(part) for part in buffers])
    while left:
        done = os.writev(file, list(islice(left, VECTORS)))
        while left and done >= len(left[0]):
            done -= len(left.popleft())
        if done:
            left[0] = left[0][done:]


def _plain(data: memoryview, size: int) -> tuple[str, Any, int]:
    """(name, array, bytes used) of a plain array whose head has `size` bytes."""
    name, kind, shape = bytes(data[4 : 4 + size]).decode().split(" ")
    sides = tuple(map(int, shape.split(",")))
    count = int(np.prod(sides))
    array = np.frombuffer(data, np.dtype(kind), count, 4 + size).reshape(sides)
    return name, array, 4 + size + array.nbytes


def unpack(data: memoryview) -> Batch:
    """Inverse of `pack`; `order` counts from 0, `previous` is NaN."""
    found: dict[str, Any] = {}
    while len(data):
        (size,) = struct.unpack_from("<I", data)
        if size & PLAIN:
            name, found[name], used = _plain(data, size ^ PLAIN)
        else:
            used = 4 + size
            found |= rows_decode(data[4:used])
        data = data[used:]
    y, count = found["y"], found.pop("count", None)
    indptr = None if count is None else np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    more = {name: found.get(name) for name in ("x", "keys", "values", "weight", "time", "id")}
    return Batch(y, np.arange(len(y), dtype=np.int64), np.full(len(y), np.nan, np.float32), indptr=indptr, **more)


def damage(data: memoryview) -> str:
    """What is wrong with the record at the start of `data`, or ""."""
    if len(data) < HEAD.size or data[:4] != MAGIC:
        return "other bytes"
    _, own, crc, length, *_ = HEAD.unpack_from(data)
    if _native.crc32c(data[8 : HEAD.size]) != own:
        return "a damaged header"
    if len(data) < HEAD.size + length:
        return "one cut short"
    return "" if _native.crc32c(data[HEAD.size : HEAD.size + length]) == crc else "damaged rows"


def torn(data: memoryview) -> bool:
    """Whether `data`, the end of a spool, begins a record that was never finished."""
    if len(data) < HEAD.size or not any(data[: HEAD.size]):
        return len(data) < HEAD.size or not any(data)
    problem = damage(data)
    unwritten = problem == "damaged rows" and not any(data[-len(END) :])  # the end never reached the disk
    return problem == "one cut short" or unwritten


class Spool:
    """Rows of one feed. `next`: the number the next row gets; `senders`: rows taken from each named sender."""

    def __init__(self, folder: str | Path, *, limit_bytes: int = 1 << 30, keep: bool = False,
                 segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder, self.limit_bytes, self.keep = Path(folder), limit_bytes, keep
        self._segment_bytes = min(segment_bytes, max(1 << 16, limit_bytes // 4))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.next, self._file, self._first, self._written, self._end, self._dirty = 0, -1, 0, 0, 0, False
        self.senders: dict[str, int] = {}
        self._records, self._coded, self._total = 0, True, 0
        self._lock = threading.Lock()  # one thread appends and syncs, another trims
        self._segments: dict[int, int] = {}  # first row -> bytes
        self._recover()

    @property
    def size_bytes(self) -> int:
        return self._total

    @property
    def full(self) -> bool:
        return self.size_bytes >= self.limit_bytes

    def append(self, batch: Batch, *, sender: str = "", count: int = 0) -> None:
        """Write rows behind those there; `count`: what the named sender has given by then. Not durable before `sync`."""
        self.extend([batch], sender=sender, count=count)

    def extend(self, batches: Sequence[Batch], *, sender: str = "", count: int = 0) -> None:
        """`append` the rows of one batch or more as one record."""
        with self._lock:
            self._append(batches, sender, count)

    def _append(self, batches: Sequence[Batch], sender: str, count: int) -> None:
        name, rows = sender.encode(), sum(map(len, batches))
        if self._records % PROBE == 0:  # does coding these rows pay? else they go as they are, for less than a copy's price
            some = batches[0].slice(0, min(len(batches[0]), 4096))
            self._coded = len(pack(some)) < PAYS * len(pack(some, plain=True))
        self._records += 1
        body = [struct.pack("<H", len(name)) + name, *parts(batches, not self._coded), END]
        size = sum(map(len, body))
        head = HEAD.pack(MAGIC, 0, checksum(body), size, rows, self.next, count)
        record = [MAGIC + struct.pack("<I", _native.crc32c(head[8:])) + head[8:], *body]
        if self._file < 0 or self._written >= self._segment_bytes:
            self._begin()
        try:
            write(self._file, record)
        except OSError as error:
            os.ftruncate(self._file, self._written)
            fix = "free space, or move the spool; unacknowledged rows are still with their senders"
            raise StoreError(f"cannot write to the spool: {error.strerror}", where=str(self.folder),
                             fix=fix if error.errno == errno.ENOSPC else "check the disk") from error
        self._written += HEAD.size + size
        self._total += HEAD.size + size
        self._segments[self._first] = self._written
        self.next += rows
        self._dirty = True
        if sender:
            self.senders[sender] = count

    def sync(self) -> None:
        """What was appended survives a crash from here on: now it may be acknowledged."""
        with self._lock:
            self._sync()

    def _sync(self) -> None:
        if self._dirty:
            os.fdatasync(self._file)
            self._dirty = False

    def _begin(self) -> None:
        self._shut()
        self._first, path = self.next, self.folder / f"{self.next:020d}.rows"
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        self._written = self._segments[self._first] = os.fstat(self._file).st_size
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def read(self, row: int) -> Iterator[tuple[int, Batch]]:
        """(first row, rows) from row `row` on to the end; StoreError where they are dropped or damaged."""
        starts = sorted(self._segments)
        if row < self.next and (not starts or row < starts[0]):
            raise StoreError(f"expected row {row} in the spool, found rows from {starts[0] if starts else self.next}",
                             where=str(self.folder), fix="start anew, or keep more (data.spool_keep)")
        for place, first in enumerate(starts):
            if place + 1 < len(starts) and starts[place + 1] <= row:
                continue
            for at, count, body, _, _ in self._walk(self.folder / f"{first:020d}.rows", place + 1 == len(starts)):
                if at + count > row:
                    batch = unpack(body)
                    yield max(at, row), batch.slice(max(0, row - at), count)

    def records(self) -> Iterator[tuple[int, int, int]]:
        """(first row, rows, sender's count) of each record."""
        starts = sorted(self._segments)
        for place, first in enumerate(starts):
            for at, count, _, _, given in self._walk(self.folder / f"{first:020d}.rows", place + 1 == len(starts)):
                yield at, count, given

    def cut(self, row: int) -> None:
        """Forgets the records from the one that begins at `row` on; the next row gets this number."""
        with self._lock:
            self._shut()
            for first in sorted(self._segments, reverse=True):
                path, end = self.folder / f"{first:020d}.rows", 0
                for at, *_ in self._walk(path, True) if first < row else ():
                    if at >= row:
                        break
                    end = self._end
                if end:
                    os.truncate(path, end)
                    break
                path.unlink()
            self._segments, self._first, self._written = {}, -1, 0
            self._recover()
            self.next = row

    def trim(self, row: int) -> None:
        """Rows before `row` are in a checkpoint: whole segments of them go, except where they are kept."""
        with self._lock:
            if self.next <= row and self._written > self._segment_bytes // 2 and not self.keep:
                self._begin()
            for first, after in pairwise(sorted(self._segments)):
                if after <= row and not self.keep:
                    (self.folder / f"{first:020d}.rows").unlink(missing_ok=True)
                    self._total -= self._segments.pop(first)

    def _recover(self) -> None:
        paths = sorted(self.folder.glob("*.rows"))
        for place, path in enumerate(paths):
            first, end = int(path.stem), 0
            self.next = first if place == 0 else self.next
            if first != self.next:
                raise StoreError(f"expected a segment from row {self.next}, found one from row {first}", where=str(path),
                                 fix="bring the absent segment back, or start with an empty spool")
            for _, count, _, sender, given in self._walk(path, place + 1 == len(paths)):
                self.next += count
                end = self._end
                if sender:
                    self.senders[sender] = given
            self._segments[first] = end
            if end < path.stat().st_size:
                os.truncate(path, end)
        self._total = sum(self._segments.values())
        if paths:
            self._first, self._written = int(paths[-1].stem), self._segments[int(paths[-1].stem)]
            self._file = os.open(paths[-1], os.O_RDWR | os.O_APPEND)

    def _walk(self, path: Path, last: bool) -> Iterator[tuple[int, int, memoryview, str, int]]:
        """(first row, rows, body, sender, its count) of a segment; a torn end of the last segment ends it."""
        data, at = memoryview(path.read_bytes()), 0
        while at < len(data):
            if last and torn(data[at:]):
                return
            problem = damage(data[at:])
            if problem:
                raise StoreError(f"expected a record of rows, found {problem}", where=f"{path}, byte {at}",
                                 fix="restore the file from a copy; what follows cannot be trusted")
            _, _, _, length, rows, first, given = HEAD.unpack_from(data, at)
            body = data[at + HEAD.size : at + HEAD.size + length - len(END)]
            at += HEAD.size + length
            self._end = at
            width = 2 + int.from_bytes(body[:2], "little")
            yield first, rows, body[width:], bytes(body[2:width]).decode(), given

    def close(self) -> None:
        with self._lock:
            self._shut()

    def _shut(self) -> None:
        if self._file >= 0:
            self._sync()
            os.close(self._file)
            self._file = -1
