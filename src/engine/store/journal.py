"""Journals: append-only records of committed steps, bounded and compacted. In memory, or in files that outlive the process.

    journal.append(record) -> bytes written        journal.since(version) -> records after it, in order
    journal.compact(version)                       forgets records up to it

Each record carries the digest of the one before it, so replay also proves that none is missing, swapped or altered. `since`
a version that is no longer there is a StoreError: ask for a whole copy (a keyframe) instead.

Files: `journal-000000000042.log` = frames one after another, named by the first record's version; `tip` = two 64-byte cells
written in turn after each append (version, digest, checksum), so that a lost or damaged end is told from a clean one.
"""
from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..codec.frame import CORE, MAGIC, decode_frame, frame_size
from ..errors import FrameError, StoreError
from ..kernels import _native
from .atomic import make_dir, refused, sync_dir
from .record import START, Record, decode_record, encode_record, head_of, link_of, opened

SEGMENT_BYTES = 8 << 20
LIMIT_BYTES = 256 << 20
CELL_BYTES = 64
CELL = struct.Struct("<QQ16s")  # version, serial, digest; then the crc


class Journal(Protocol):
    """`version`: of the last record, or what was given at the start; `first`: oldest version `since` can start from."""

    version: int
    first: int
    chain: bytes

    def append(self, record: Record) -> int: ...
    def since(self, version: int) -> Iterator[Record]: ...
    def compact(self, version: int) -> None: ...
    def close(self) -> None: ...


class Memory:
    """A journal of this process: records are kept as they are, oldest forgotten beyond `limit_bytes`."""

    def __init__(self, *, version: int = 0, chain: bytes = START, limit_bytes: int = LIMIT_BYTES) -> None:
        self.version = self.first = version
        self.chain, self.limit_bytes, self.size_bytes = chain, limit_bytes, 0
        self._records: deque[Record] = deque()

    def append(self, record: Record) -> int:
        record = _next(self, record)
        self.chain = link_of(encode_record(record))
        self._records.append(record)
        self.version = record.version
        self.size_bytes += record.nbytes
        while self.size_bytes > self.limit_bytes and len(self._records) > 1:
            self._forget()
        return record.nbytes

    def since(self, version: int) -> Iterator[Record]:
        _held(self, version)
        yield from [record for record in self._records if record.version > version]

    def compact(self, version: int) -> None:
        while self._records and self._records[0].version <= version:
            self._forget()

    def _forget(self) -> None:
        gone = self._records.popleft()
        self.first = gone.version
        self.size_bytes -= gone.nbytes

    def close(self) -> None:
        self._records.clear()


@dataclass(slots=True)
class _Segment:
    """A file: versions and offsets of its records; `base` = version before its first record."""

    path: Path
    base: int
    versions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    end: int = 0


class Durable:
    """A journal in `folder`. `sync`: each append is on the disk when it returns (leave it out for memory-backed folders).

    `small` codes row numbers.  Opening verifies every record; a torn last record (a writer that was killed) is cut off, and
    `problems` says so; damage anywhere else is a StoreError that names file and byte.
    """

    def __init__(self, folder: Path | str, *, version: int = 0, chain: bytes = START, sync: bool = True, small: bool = False,
                 segment_bytes: int = SEGMENT_BYTES, limit_bytes: int = LIMIT_BYTES, read_only: bool = False) -> None:
        self.folder = Path(folder)
        self.version = self.first = version
        self.chain, self.sync, self.small, self.read_only = chain, sync, small, read_only
        self.segment_bytes, self.limit_bytes, self.size_bytes = segment_bytes, limit_bytes, 0
        self.problems: list[str] = []
        self.last: list[memoryview] = []
        self._segments: list[_Segment] = []
        self._found: list[Record] = []  # of a reader: what opening has verified is not decoded again
        self._handle = self._tip = -1
        self._serial = 0
        if not read_only:
            make_dir(self.folder)
        self._open()

    def append(self, record: Record) -> int:
        """Bytes written. StoreError where the disk refuses; then the journal is as it was."""
        self.last = encode_record(_next(self, record), small=self.small)
        return self._put(record, self.last)

    def append_frame(self, record: Record, frame: memoryview) -> int:
        """As `append`, of a record that comes encoded and verified, from the owner of the same journal."""
        if record.chain != self.chain:
            raise StoreError(f"record {record.version} does not follow what is here: its digest is another",
                             where=str(self.folder), fix="take a whole copy")
        _next(self, record)
        head = head_of(frame)
        return self._put(record, [head, frame[len(head):]])

    def _put(self, record: Record, buffers: list[memoryview]) -> int:
        assert not self.read_only
        size = sum(buffer.nbytes for buffer in buffers)
        segment = self._segments[-1] if self._segments else None
        if segment is None or (segment.end + size > self.segment_bytes and segment.versions):
            segment = self._begin(record.base)
        try:
            _write_all(self._handle, buffers, segment.end)
            if self.sync:
                os.fdatasync(self._handle)
            segment.versions.append(record.version)
            segment.offsets.append(segment.end)
            segment.end += size
            self.version, self.chain = record.version, link_of(buffers)
            self.size_bytes += size
            self._mark()
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._handle, segment.end)
            raise refused(error, segment.path, size) from error
        while self.size_bytes > self.limit_bytes and len(self._segments) > 1:
            self._drop()
        return size

    def since(self, version: int) -> Iterator[Record]:
        _held(self, version)
        if self.read_only:
            yield from [record for record in self._found if record.version > version]
            return
        for segment in list(self._segments):
            if not segment.versions or segment.versions[-1] <= version:
                continue
            data = _read(segment.path)[: segment.end]
            ends = [*segment.offsets[1:], segment.end]
            for number, start, end in zip(segment.versions, segment.offsets, ends, strict=True):
                if number > version:
                    try:
                        yield decode_record(data[start:end])
                    except FrameError as error:
                        raise _damaged(segment.path, start, error) from error

    def compact(self, version: int) -> None:
        """Forgets whole files whose records are all at or below `version`; the last record's file stays."""
        while len(self._segments) > 1 and self._segments[0].versions[-1] <= version:
            self._drop()

    def restart(self, version: int, chain: bytes = START) -> None:
        """Empties the journal: the next record is the one after `version`."""
        for segment in self._segments:
            segment.path.unlink(missing_ok=True)
        if self._handle >= 0:
            os.close(self._handle)
        self._segments, self._handle, self.size_bytes = [], -1, 0
        self.version = self.first = version
        self.chain = chain
        self._mark()

    def close(self) -> None:
        for handle in (self._handle, self._tip):
            if handle >= 0:
                os.close(handle)
        self._handle = self._tip = -1

    def _begin(self, base: int) -> _Segment:
        path = self.folder / _name(base)
        try:
            if self._handle >= 0:
                os.close(self._handle)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            if self.sync:
                sync_dir(self.folder)
        except OSError as error:
            self._handle = -1
            raise refused(error, path, 0) from error
        self._segments.append(_Segment(path, base))
        return self._segments[-1]

    def _drop(self) -> None:
        gone = self._segments.pop(0)
        self.first, self.size_bytes = gone.versions[-1], self.size_bytes - gone.end
        gone.path.unlink(missing_ok=True)

    def _mark(self) -> None:
        """The tip: written after the record, into the older of two cells."""
        if self._tip < 0:
            self._tip = os.open(self.folder / "tip", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._serial += 1
        cell = CELL.pack(self.version, self._serial, self.chain)
        cell += _native.crc32c(cell).to_bytes(4, "little")
        os.pwrite(self._tip, cell.ljust(CELL_BYTES, b"\0"), self._serial % 2 * CELL_BYTES)
        if self.sync:
            os.fdatasync(self._tip)

    def _open(self) -> None:
        paths = sorted(self.folder.glob("journal-*.log"))
        for at, path in enumerate(paths):
            self._scan(path, last=at == len(paths) - 1)
        tip = self._read_tip()
        if tip is not None and tip[0] > self.version and (self._segments or paths):
            raise StoreError(
                f"journal ends at version {self.version}, expected {tip[0]}: its end is lost or damaged"
                + "".join(f"; {problem}" for problem in self.problems),
                where=str(self.folder), fix="take it from the partner or an older checkpoint")
        if tip is not None and not self._segments:
            self.version = self.first = tip[0]
            self.chain = tip[2]
        if self._segments and not self.read_only:
            last = self._segments[-1]
            self._handle = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
            os.ftruncate(self._handle, last.end)

    def _scan(self, path: Path, *, last: bool) -> None:
        """Enters the records of a file; a torn end of the last file is passed over and named."""
        data = _read(path)
        segment = _Segment(path, 0)
        while segment.end < len(data):
            at = segment.end
            try:
                frame = decode_frame(data[at:], exact=False)
                record = opened(frame)
                self._follow(segment, record, path, at)
            except FrameError as error:
                if not last or _more(data, at + CORE.size):
                    raise _damaged(path, at, error) from error
                self.problems.append(f"{path.name}:{at}: {error.message}")
                break
            self.chain = link_of([head_of(data[at : at + frame.size])])
            if self.read_only:
                self._found.append(record)
            segment.versions.append(record.version)
            segment.offsets.append(at)
            segment.end += frame.size
            self.version = record.version
        if segment.versions:
            self._segments.append(segment)
            self.size_bytes += segment.end
        elif not last:
            raise _damaged(path, 0, FrameError("the file is empty"))
        elif not self.read_only:
            path.unlink()

    def _follow(self, segment: _Segment, record: Record, path: Path, at: int) -> None:
        begins = not self._segments and not segment.versions
        if begins:  # what was before it is forgotten: it vouches for a head we cannot see
            self.first = self.version = record.base
            self.chain = record.chain
        if record.base != self.version or record.chain != self.chain:
            raise _damaged(path, at, FrameError(
                f"record {record.version} is after {record.base}, expected after {self.version} with its digest"))
        if not segment.versions:
            segment.base = record.base
            if path.name != _name(record.base):
                raise _damaged(path, at, FrameError(f"it begins after version {record.base}, its name says otherwise"))

    def _read_tip(self) -> tuple[int, int, bytes] | None:
        """The newest good cell, or None where there is no tip."""
        try:
            data = (self.folder / "tip").read_bytes()
        except OSError:
            return None
        cells = [data[at : at + CELL_BYTES] for at in (0, CELL_BYTES)]
        good = [CELL.unpack_from(cell) for cell in cells if len(cell) >= CELL.size + 4
                and _native.crc32c(cell[: CELL.size]) == int.from_bytes(cell[CELL.size : CELL.size + 4], "little")]
        if not good:
            if self._segments:
                self.problems.append("tip: unreadable")
            return None
        version, self._serial, chain = max(good, key=lambda cell: cell[1])
        return version, self._serial, chain


def _name(base: int) -> str:
    return f"journal-{base + 1:012d}.log"


def _next(journal: Any, record: Record) -> Record:
    """`record` with the chain of `journal`; ValueError where it does not follow its last one."""
    if record.base != journal.version or record.version <= record.base:
        raise ValueError(f"journal: expected a record after {journal.version}, found {record.base} -> {record.version}")
    return replace(record, chain=journal.chain)


def _held(journal: Any, version: int) -> None:
    if not journal.first <= version <= journal.version:
        raise StoreError(f"journal: expected a version in [{journal.first}, {journal.version}], found {version}",
                         fix="take a whole copy: older records were compacted")


def _more(data: memoryview, start: int) -> bool:
    """Whether a readable frame header lies beyond `start`: then what is unreadable before it is damage, not a torn end."""
    raw, at = bytes(data[start:]), -1
    while (at := raw.find(MAGIC, at + 1)) >= 0:
        with suppress(FrameError):
            frame_size(raw[at : at + CORE.size])
            return True
    return False


def _write_all(handle: int, buffers: list[memoryview], at: int) -> None:
    """One vectored write; the rest one by one where the system takes less."""
    wrote = os.pwritev(handle, buffers[:1000], at)
    for buffer in buffers:
        if wrote >= buffer.nbytes:
            wrote -= buffer.nbytes
            at += buffer.nbytes
            continue
        rest, at, wrote = buffer[wrote:], at + wrote, 0
        while rest.nbytes:
            done = os.pwrite(handle, rest, at)
            rest, at = rest[done:], at + done


def _read(path: Path) -> memoryview:
    try:
        return memoryview(path.read_bytes())
    except OSError as error:
        raise refused(error, path, 0) from error


def _damaged(path: Path, at: int, error: FrameError) -> StoreError:
    return StoreError(f"journal is damaged: {error.message}", where=f"{path}:{at}",
                      fix="take it from the partner or an older checkpoint")
