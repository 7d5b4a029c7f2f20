"""Images: one shard's committed state as a memory-backed file that any later process can map and verify.

    image-0, image-1     head (64 KiB or more) | blocks, each on a page of its own

The two alternate: each is brought forward by the records it missed, never copied whole. The head is wiped before the body is
touched and written last; it holds the version, the layout, the cursors and a checksum of every 64 KiB of the body, so that
what a killed writer leaves is either the old image, the new one, or plainly none.
"""
from __future__ import annotations

import errno
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..codec.frame import CODECS, CORE, KINDS, decode_frame, encode_frame, frame_size, numpy_dtype
from ..errors import FrameError, StoreError
from ..kernels import _native
from ..kernels.rows import scatter as rows_scatter
from ..types import Array, Block, State
from .atomic import refused
from .crash import point
from .differ import packed
from .record import START, Change, Record

CHUNK_SHIFT = 16
CHUNK_BYTES = 1 << CHUNK_SHIFT
HEAD_BYTES = 64 << 10
PAGE_BYTES = 4096
POPULATE_READ = 22  # of madvise: Linux 5.14 on
POUR_BYTES = 4 * CHUNK_BYTES  # written at once: summed and copied while it is in the cache
PART_BYTES = 1 << 18  # of a block, brought forward by several records before the next
GROWS_BYTES = 1 << 18  # blocks below this (meters, cursors) get room to double


@dataclass(slots=True)
class Head:
    """What an image says of itself. `layout[path]` = dtype, shape, columns, offset, room (bytes)."""

    version: int
    epoch: int
    shard: int
    shards: int
    state_hash: int
    chain: bytes
    meta: dict[str, Any]
    layout: dict[str, dict[str, Any]]
    crcs: Array = field(default_factory=lambda: np.zeros(0, np.uint32))

    @property
    def body_bytes(self) -> int:
        return sum(entry["room"] for entry in self.layout.values())


class Image:
    """One image file, open for writing. `head` None = nothing committed in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head: Head | None = None
        self._map: mmap.mmap | None = None
        self._body = 0
        self._bytes = np.empty(0, np.uint8)
        self._dirty = np.empty(0, bool)

    def write(self, state: Mapping[str, Block], record: Record) -> None:
        """A whole image of `state` as of `record` (its changes are not looked at)."""
        layout: dict[str, dict[str, Any]] = {}
        at = 0
        for path in sorted(state):
            block = state[path]
            spare = block.data.nbytes if block.data.nbytes < GROWS_BYTES else 0
            room = -(-max(block.data.nbytes + spare, 1) // PAGE_BYTES) * PAGE_BYTES
            layout[path] = _entry(block, at, room)
            at += room
        chunks = -(-at // CHUNK_BYTES)
        head = HEAD_BYTES + 4 * chunks + 2 * len(json.dumps(layout)) + 2 * len(json.dumps(dict(record.meta)))
        sums: list[int] = []
        self._create(-(-head // PAGE_BYTES) * PAGE_BYTES, at, _poured(state, layout, at, sums))
        self.head = Head(0, 0, 0, 1, 0, START, {}, layout, np.array(sums, np.uint32))
        self._dirty = np.zeros(chunks, bool)
        self._seal(record, record.chain)

    @property
    def raw(self) -> Array:
        """The whole file, as another may keep it (`copy`)."""
        return self._bytes

    def copy(self, data: Array) -> None:
        """Becomes the image whose file is `data`, uint8; FrameError where it is none."""
        head, start = _parse(data, len(data))
        self._create(start, len(data) - start, iter([data[start:]]))
        self._bytes[CORE.size : start] = data[CORE.size : start]
        self._bytes[: CORE.size] = data[: CORE.size]
        self.head, self._dirty = head, np.zeros(len(head.crcs), bool)

    def advance(self, records: Sequence[Record], chain: bytes, newer: Image | None = None) -> bool:
        """Bring the image forward; False where a block has outgrown its room, and then there is no image here.

        Where `newer` has most of it already, its body is copied: one pass in order is cheaper than many rows out of order.
        """
        assert self.head is not None
        self._wipe()
        if newer is not None:
            self._follow(newer, records)
        fresh = [record for record in records if record.version > self.head.version]
        runs: dict[str, list[Change]] = {}  # of each block the rows to be written, oldest first
        for record in fresh:
            for change in record.changes:
                entry = self.head.layout.get(change.path)
                if change.rows is not None:
                    if entry is None or entry["shape"][0] != change.total:
                        self.head = None
                        return False
                    runs.setdefault(change.path, []).append(change)
                    continue
                if entry is None or change.data.nbytes > entry["room"]:
                    self.head = None
                    return False
                runs.pop(change.path, None)  # all of it is written over
                entry["shape"] = list(change.data.shape)
                entry["dtype"] = change.data.dtype.name
                self._view(entry)[...] = change.data
                self._touch(entry["offset"], change.data.nbytes)
            point("advance")
        for path, changes in runs.items():
            self._scatter(self.head.layout[path], changes)
        if fresh:
            self._seal(fresh[-1], chain)
        return True

    def _follow(self, newer: Image, records: Sequence[Record]) -> None:
        head, theirs = self.head, newer.head
        if head is None or theirs is None:
            return
        if [_place(entry) for entry in head.layout.values()] != [_place(entry) for entry in theirs.layout.values()]:
            return
        behind = sum(record.nbytes for record in records if head.version < record.version <= theirs.version)
        if behind * 4 < head.body_bytes or self._body != newer._body:
            return
        self._bytes[self._body :] = newer._bytes[self._body :]
        self.head = Head(theirs.version, theirs.epoch, theirs.shard, theirs.shards, theirs.state_hash, theirs.chain,
                         dict(theirs.meta), json.loads(json.dumps(theirs.layout)), theirs.crcs.copy())
        self._dirty[:] = newer._dirty

    def close(self) -> None:
        self._bytes = np.empty(0, np.uint8)
        if self._map is not None:
            with suppress(BufferError):  # where a view is still out, the mapping goes when it does
                self._map.close()
        self._map = None

    def _create(self, start: int, size: int, body: Iterator[Array]) -> None:
        """A new file: no head, and at `start` the body of `size` bytes, written whole and then mapped.

        Written and not stored through the mapping: no page is cleared first, and a full memory folder is an error here and not
        a SIGBUS later. New and not written over: whoever has the file before mapped keeps what he has read.
        """
        self.close()
        at = start
        try:
            self.path.unlink(missing_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _put(handle, np.zeros(start, np.uint8), 0)
                for part in body:
                    _put(handle, part, at)
                    at += part.nbytes
                self._map = mmap.mmap(handle, at, mmap.MAP_SHARED)
            finally:
                os.close(handle)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG):
                self.path.unlink(missing_ok=True)
            raise refused(error, self.path, start + size) from error
        self._body = start
        self._bytes = np.frombuffer(self._map, np.uint8)

    def _view(self, entry: Mapping[str, Any]) -> Array:
        dtype, shape = numpy_dtype(entry["dtype"]), entry["shape"]
        start = self._body + entry["offset"]
        size = dtype.itemsize * int(np.prod(shape, dtype=object))
        return self._bytes[start : start + size].view(dtype).reshape(shape)

    def _scatter(self, entry: Mapping[str, Any], changes: Sequence[Change]) -> None:
        """Rows of several records, each part of the block with all that is for it while it is in the cache."""
        block = self._view(entry)
        for change in changes:
            if change.data.dtype != block.dtype or change.data.shape[1:] != block.shape[1:]:
                raise FrameError(f"change of {change.data.dtype} {change.data.shape[1:]} rows, "
                                 f"expected {block.dtype} {block.shape[1:]}")
        given = [(np.ascontiguousarray(change.rows, np.uint32), _flat(np.ascontiguousarray(change.data)))
                 for change in changes if change.rows is not None and len(change.rows)]
        if not given:
            return
        width, flat, dirty = block.nbytes // len(block), _flat(block), self._dirty.view(np.uint8)
        each = len(block) if len(given) == 1 else max(1, PART_BYTES // max(1, width))
        edges = np.arange(each, len(block), each, dtype=np.uint32)
        cuts = [[0, *np.searchsorted(rows, edges).tolist(), len(rows)] for rows, _ in given]
        for at in range(len(edges) + 1):
            for (rows, data), cut in zip(given, cuts, strict=True):
                low, high = cut[at : at + 2]
                if high > low:
                    part_rows, part_data = rows[low:high], data[low * width : high * width]
                    rows_scatter(flat, width, part_rows, part_data, dirty, entry["offset"], CHUNK_SHIFT)

    def _touch(self, at: int, size: int) -> None:
        self._dirty[at // CHUNK_BYTES : (at + size - 1) // CHUNK_BYTES + 1] = True

    def _wipe(self) -> None:
        self._bytes[: CORE.size] = 0

    def _seal(self, record: Record, chain: bytes) -> None:
        head = self.head
        assert head is not None and self._map is not None
        for chunk in np.flatnonzero(self._dirty).tolist():
            start = self._body + chunk * CHUNK_BYTES
            head.crcs[chunk] = _native.crc32c(self._bytes[start : start + CHUNK_BYTES])
        self._dirty[:] = False
        head.version, head.epoch, head.shard, head.shards = record.version, record.epoch, record.shard, record.shards
        head.state_hash, head.chain, head.meta = record.state_hash, chain, {**head.meta, **record.meta}
        point("torn")
        about = {"layout": head.layout, "meta": head.meta, "epoch": head.epoch, "shard": head.shard, "shards": head.shards,
                 "state_hash": head.state_hash, "chain": chain.hex(), "body": self._body}
        text = json.dumps(about, sort_keys=True).encode()
        frame = b"".join(encode_frame(KINDS["journal"], CODECS["raw"], [text, head.crcs], new=record.version, flags=1))
        if len(frame) > self._body:
            raise StoreError(f"image head: {len(frame)} bytes do not fit {self._body}", where=str(self.path))
        self._bytes[CORE.size : len(frame)] = np.frombuffer(frame, np.uint8)[CORE.size :]
        self._bytes[: CORE.size] = np.frombuffer(frame, np.uint8)[: CORE.size]


def _poured(state: Mapping[str, Block], layout: Mapping[str, dict[str, Any]], size: int, sums: list[int]) -> Iterator[Array]:
    """The `size` bytes of a body in pieces of one buffer; the checksum of each chunk is added to `sums`."""
    buffer, fill = np.zeros(POUR_BYTES, np.uint8), 0
    for path in sorted(layout):
        for part in _parts(state[path].data, layout[path]["room"]):
            while len(part):
                take = min(len(part), POUR_BYTES - fill)
                buffer[fill : fill + take] = part[:take]
                part, fill = part[take:], fill + take
                if fill == POUR_BYTES:
                    yield _summed(buffer, sums)
                    fill = 0
    if fill or not size:
        yield _summed(buffer[: max(fill, 1)], sums) if size else buffer[:1]


def _summed(part: Array, sums: list[int]) -> Array:
    sums.extend(_native.crc32c(part[low : low + CHUNK_BYTES]) for low in range(0, len(part), CHUNK_BYTES))
    return part


def _parts(data: Array, room: int) -> Iterator[Array]:
    """A block's bytes, then zeros up to `room`."""
    data = data if data.ndim else data[None]
    if data.flags.c_contiguous:
        yield _flat(data)
    elif data.size:
        each = max(1, CHUNK_BYTES * len(data) // data.nbytes)
        for low in range(0, len(data), each):
            yield _flat(packed(data[low : low + each]))
    yield np.zeros(room - data.nbytes, np.uint8)


def _put(handle: int, data: Array, at: int) -> None:
    while len(data):
        wrote = os.pwrite(handle, data, at)  # type: ignore[arg-type]
        data, at = data[wrote:], at + wrote


def _place(entry: Mapping[str, Any]) -> tuple[int, int]:
    return entry["offset"], entry["room"]


def _flat(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


def _entry(block: Block, offset: int, room: int) -> dict[str, Any]:
    return {"dtype": block.data.dtype.name, "shape": list(block.data.shape), "columns": [list(c) for c in block.columns],
            "offset": offset, "room": room}


def read_head(path: Path) -> Head:
    """The head of an image file; FrameError where there is none or it is damaged."""
    try:
        with open(path, "rb") as file:
            core = file.read(CORE.size)
            data = np.frombuffer(core + file.read(frame_size(core) - CORE.size), np.uint8)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise refused(error, path, 0) from error
    return _parse(data, size)[0]


def load_image(path: Path, *, repair: Any = None, skip: Set[str] = frozenset()) -> tuple[State, Head]:
    """The blocks, every chunk verified, in memory that may be written to.

    `repair(chunk) -> bytes` is asked for a chunk whose checksum is wrong. `skip`: blocks that are not read.

    FrameError names the first bad chunk that could not be repaired. Nobody may write to the file while the blocks are in use:
    their pages are its own until they are written to.
    """
    data = _mapped(path, whole=not skip)  # private: a repair, or a record applied, hurts nobody
    head, start = _parse(data, len(data))
    body = data[start:]
    layout = {name: entry for name, entry in head.layout.items() if name not in skip}
    wanted = np.full(len(head.crcs), not skip)
    for entry in layout.values():
        wanted[entry["offset"] // CHUNK_BYTES : -(-(entry["offset"] + entry["room"]) // CHUNK_BYTES)] = True
    for chunk in np.flatnonzero(wanted).tolist():
        crc = int(head.crcs[chunk])
        part = body[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
        if _native.crc32c(part) == crc:
            continue
        fresh = repair(chunk) if repair else None
        if fresh is None or len(fresh) != len(part) or _native.crc32c(fresh) != crc:
            raise FrameError(f"image {path.name}: chunk {chunk} of {len(head.crcs)} is damaged",
                             where=f"{path}:{start + chunk * CHUNK_BYTES}")
        part[:] = np.frombuffer(fresh, np.uint8)
    state: State = {}
    for name, entry in layout.items():
        dtype = numpy_dtype(entry["dtype"])
        size = dtype.itemsize * int(np.prod(entry["shape"], dtype=object))
        array = body[entry["offset"] : entry["offset"] + size].view(dtype).reshape(entry["shape"])
        state[name] = Block(array, tuple((c, m) for c, m in entry["columns"]), head.version)
    return state, head


def chunk_of(path: Path, chunk: int) -> bytes | None:
    """Bytes of a chunk if they are as the head says, for the repair of a copy; None otherwise."""
    try:
        data = _bytes_of(path)
        head, start = _parse(data, len(data))
        part = data[start + chunk * CHUNK_BYTES : start + (chunk + 1) * CHUNK_BYTES]
        return part.tobytes() if chunk < len(head.crcs) and _native.crc32c(part) == head.crcs[chunk] else None
    except (FrameError, StoreError):
        return None


def _bytes_of(path: Path) -> Array:
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise refused(error, path, 0) from error


def _mapped(path: Path, *, whole: bool) -> Array:
    """The file's bytes: its own pages, private to the one who writes to them. `whole`: all will be read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                return np.empty(0, np.uint8)
            pages = mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise refused(error, path, 0) from error
    with suppress(OSError):
        if whole:
            pages.madvise(POPULATE_READ)  # all at once; older kernels find them one by one
    return np.frombuffer(pages, np.uint8)


def _parse(data: Array, whole: int) -> tuple[Head, int]:
    """The head in these bytes of a file of `whole` bytes, and where its body begins."""
    view = memoryview(data)  # type: ignore[arg-type]
    size = frame_size(view[: CORE.size])
    frame = decode_frame(view[:size])
    if frame.kind != KINDS["journal"] or frame.flags != 1 or len(frame.chunks) != 2:
        raise FrameError(f"image: expected its head, found kind {frame.kind}")
    try:
        said = json.loads(bytes(frame.chunk(0)))
        head = Head(frame.new, said["epoch"], said["shard"], said["shards"], said["state_hash"], bytes.fromhex(said["chain"]),
                    said["meta"], said["layout"], np.frombuffer(frame.chunk(1), np.uint32).copy())
        start = said["body"]
    except (ValueError, KeyError, TypeError) as error:
        raise FrameError(f"image: its head cannot be read: {error}") from None
    if whole - start < head.body_bytes:
        raise FrameError(f"image: cut: expected {start + head.body_bytes} bytes, found {whole}")
    return head, start
