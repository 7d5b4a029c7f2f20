"""A record: what one committed step changed, and where the input stood. The unit of journal, replica, audit and migration.

A frame of kind `journal`; its extension is

    epoch u64 | state hash u64 | shard u32 | shards u32 | chain 16 bytes

`chain` is the BLAKE2b-128 of the head of the record before it (head = header, extension and table of chunk checksums), so
a record vouches for all that came before. Chunk 0 is JSON: `meta`, then a row a change. Then, a change: its row numbers
(absent where the whole block is given) and its rows.
"""
from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..codec.frame import CODECS, CORE, KINDS, Frame, decode_frame, encode_frame, numpy_dtype
from ..codec.index import index_decode, index_encode
from ..errors import FrameError
from ..kernels.rows import scatter
from ..types import Array, Block, State

HEAD = struct.Struct("<QQII16s")
START = bytes(16)  # chain of the first record
RAW, CODED = 0, 1  # chunk modes of row numbers


@dataclass(frozen=True, slots=True)
class Change:
    """New rows of one block. `rows` uint32 `(m,)` ascending, or None where `data` is the whole block; `total`: its rows.

    `data` `(m, …)`: the rows after the step, so that applying a change twice is the same as once.
    """

    path: str
    rows: Array | None
    data: Array
    total: int
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.rows is None else self.rows.nbytes)


@dataclass(frozen=True, slots=True)
class Record:
    """Step `version` of one shard, after step `base`. `meta` is JSON: cursors, clock, label; the same in every copy.

    `state_hash`: 64-bit digest of the step, equal on all ranks where they agree.
    """

    version: int
    base: int
    changes: tuple[Change, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 0
    state_hash: int = 0
    shard: int = 0
    shards: int = 1
    chain: bytes = START

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays; a frame is a little more."""
        return sum(change.nbytes for change in self.changes)

    def without(self, paths: Set[str]) -> Record:
        """The record less the changes of these blocks."""
        return replace(self, changes=tuple(c for c in self.changes if c.path not in paths)) if paths else self


def encode_record(record: Record, *, small: bool = False) -> list[memoryview]:
    """Buffers of the frame, arrays not copied; `small` codes row numbers (about a byte a row at 1 %)."""
    chunks: list[Any] = [b""]
    modes, about = [0], []
    for change in record.changes:
        about.append([change.path, change.data.dtype.name, list(change.data.shape), change.total,
                      change.rows is not None, [list(c) for c in change.columns]])
        if change.rows is not None:
            rows = np.ascontiguousarray(change.rows, np.uint32)
            chunks.append(index_encode(rows, change.total) if small else rows)
            modes.append(CODED if small else RAW)
        chunks.append(np.ascontiguousarray(change.data))
        modes.append(0)
    chunks[0] = json.dumps({"meta": dict(record.meta), "changes": about}, sort_keys=True).encode()
    ext = HEAD.pack(record.epoch, record.state_hash, record.shard, record.shards, record.chain)
    return encode_frame(KINDS["journal"], CODECS["raw"], chunks, name=record.shard, base=record.base, new=record.version,
                        ext=ext, modes=modes)


def decode_record(buffer: Any) -> Record:
    """The record in these bytes, every checksum verified; its arrays are views of them. FrameError says what is wrong."""
    return opened(decode_frame(buffer))


def opened(frame: Frame) -> Record:
    """The record of a decoded frame, every chunk verified."""
    if frame.kind != KINDS["journal"] or len(frame.ext) != HEAD.size or not frame.chunks:
        raise FrameError(f"record: expected a journal frame, found kind {frame.kind} with {len(frame.ext)} bytes")
    epoch, digest, shard, shards, chain = HEAD.unpack(frame.ext)
    try:
        said = json.loads(bytes(frame.chunk(0)))
        about, meta = said["changes"], said["meta"]
    except (ValueError, KeyError, TypeError) as error:
        raise FrameError(f"record: chunk 0 is not its description: {error}") from None
    changes, at = [], 1
    for path, dtype, shape, total, keyed, columns in about:
        if at + keyed >= len(frame.chunks):
            raise FrameError(f"record: {path} has no chunk {at + keyed}")
        rows = _rows(frame, at) if keyed else None
        at += keyed
        data = np.frombuffer(frame.chunk(at), numpy_dtype(dtype)).reshape(shape)
        at += 1
        if rows is not None and len(rows) != len(data):
            raise FrameError(f"record: {path} has {len(rows)} row numbers for {len(data)} rows")
        changes.append(Change(path, rows, data, total, tuple((name, merge) for name, merge in columns)))
    if at != len(frame.chunks):
        raise FrameError(f"record: {len(frame.chunks) - at} chunks are left over")
    return Record(frame.new, frame.base, tuple(changes), meta, epoch, digest, shard, shards, chain)


def _rows(frame: Frame, at: int) -> Array:
    data = frame.chunk(at)
    return np.frombuffer(data, np.uint32) if frame.chunks[at].mode == RAW else index_decode(data)


def link_of(buffers: Sequence[Any]) -> bytes:
    """The chain value that the next record carries: the digest of this one's head (`buffers[0]`)."""
    return hashlib.blake2b(buffers[0], digest_size=16).digest()


def head_of(frame: memoryview) -> memoryview:
    """The head of an encoded frame: all but its chunks."""
    payload = int.from_bytes(frame[40:48], "little")  # offset of `payload bytes` in the core header (docs/format.md)
    return frame[: len(frame) - payload]


def apply(state: State, *records: Record) -> None:
    """Bring `state` (a shard's blocks) from the base of the first record to the last one's step, in place where shapes allow.

    The rows of a block in several records are put there at once, in their order.
    """
    later: dict[str, list[Change]] = {}
    for record in records:
        for change in record.changes:
            block = state.get(change.path)
            if change.rows is None:
                later.pop(change.path, None)
                columns = change.columns or (block.columns if block else ())
                state[change.path] = Block(change.data.copy(), columns, record.version)  # type: ignore[arg-type]
                continue
            if block is None or len(block.data) != change.total or block.data.shape[1:] != change.data.shape[1:]:
                found = None if block is None else block.data.shape
                raise FrameError(f"record {record.version}: {change.path} has shape {found}, "
                                 f"expected {change.total} rows of {change.data.shape[1:]}")
            if len(change.rows) and int(change.rows.max()) >= change.total:
                raise FrameError(f"record {record.version}: row {int(change.rows.max())} of {change.total} of {change.path}")
            later.setdefault(change.path, []).append(change)
            block.version = record.version
    for path, changes in later.items():
        _put(state[path].data, changes)


def _put(block: Array, changes: Sequence[Change]) -> None:
    if not block.flags.c_contiguous or block.dtype.hasobject or any(change.data.dtype != block.dtype for change in changes):
        for change in changes:
            block[change.rows] = change.data
    elif block.size:
        rows = np.concatenate([change.rows for change in changes]).astype(np.uint32, copy=False)
        data = np.concatenate([change.data for change in changes])
        scatter(block.reshape(-1).view(np.uint8), block.nbytes // len(block), rows, data.reshape(-1).view(np.uint8),
                np.zeros(1, np.uint8), 0, 62)


assert CORE.size == 64
