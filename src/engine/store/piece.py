"""Rows of blocks as frames of a part file, about 2 MiB each: written with checksums made ahead, read into their place."""
from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..codec.frame import (
    CODECS,
    KINDS,
    Frame,
    decode_frame,
    decode_head,
    encode_frame,
    flat,
    head_size,
    name_hash,
    numpy_dtype,
    padded,
)
from ..errors import FrameError, StoreError
from ..kernels import _native
from ..types import Array, Block
from .atomic import refused
from .bulk import Summed, ahead, threads

CHUNK_BYTES = 2 << 20
PLACE = struct.Struct("<QQQ")  # frame extension: first row, last row + 1, step
Pack = Callable[[Array], Any]
Unpack = Callable[[memoryview, int], Any]
Job = tuple[str, Block, int, int, Array]  # path, block, first row, last row + 1, the rows


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start, stop) of one block in a part file; `at` = offset of each frame, `step` = rows a frame, then
    `end`.
    """

    path: str
    start: int
    stop: int
    step: int
    at: tuple[int, ...]
    end: int


def kept(columns: Sequence[Sequence[str]]) -> list[int] | None:
    """Columns that are saved, or None for all."""
    keep = [i for i, column in enumerate(columns) if column[1] != "none"]
    return None if len(keep) == len(columns) else keep


def saved_bytes(block: Block, rows: Array) -> int:
    keep = kept(block.columns)
    return rows.nbytes if keep is None else rows.nbytes * len(keep) // len(block.columns)


def frames(jobs: Sequence[Job], step: int, pieces: list[Piece], pack: Pack | None) -> Iterator[Any]:
    """Buffers of a part file, a frame at a time; `pieces` is filled as they are taken."""
    spans = [(place, low) for place, (_, _, _, _, rows) in enumerate(jobs) for low in range(0, len(rows), _each(rows))]
    offsets: list[list[int]] = [[] for _ in jobs]
    end = 0
    ends = [0] * len(jobs)
    made = ahead(lambda span: _frame(jobs[span[0]], span[1], step, pack), spans, 1 if pack is None and len(spans) < 4 else 2)
    for (place, _), buffers in zip(spans, made, strict=True):
        offsets[place].append(end)
        for buffer in buffers:
            end += sum(part.nbytes for part in buffer.buffers) if isinstance(buffer, Summed) else buffer.nbytes
            yield buffer
        ends[place] = end
    at = 0
    for (path, _, start, stop, rows), found, last in zip(jobs, offsets, ends, strict=True):
        at = max(at, last)
        pieces.append(Piece(path, start, stop, _each(rows), tuple(found), at))


def _each(rows: Array) -> int:
    """Rows a frame."""
    return max(1, CHUNK_BYTES // max(1, rows.nbytes // max(1, len(rows))))


def _frame(job: Job, low: int, step: int, pack: Pack | None) -> list[Any]:
    path, block, start, _, rows = job
    keep = kept(block.columns)
    part = rows[low : low + _each(rows)]
    part = np.ascontiguousarray(part if keep is None else part[:, keep])
    body, codec = (part, "raw") if pack is None else (pack(part), "pack")
    head, *rest = encode_frame(
        KINDS["block"], CODECS[codec], [body], dtype=part.dtype.name, shape=part.shape, name=name_hash(path),
        new=block.version, ext=PLACE.pack(start + low, start + low + len(part), step), counts=[len(part)])
    return [head, Summed(rest, decode_head(head).chunks[0].crc)] if rest else [head]


def read_pieces(pieces: Sequence[tuple[Path, Mapping[str, Any], Block, int]], step: int, unpack: Unpack | None) -> None:
    """Fills blocks from (part file, piece, block, global row of the block's first) at once; every chunk is verified.

    StoreError names the file and byte of a bad one.
    """
    jobs = [(path, piece, block, start, number) for path, piece, block, start in pieces for number in range(len(piece["at"]))
            if piece["start"] + number * piece["step"] < start + len(block.data)
            and min(piece["start"] + (number + 1) * piece["step"], piece["stop"]) > start]
    handles: dict[Path, int] = {}
    try:
        for path, *_ in jobs:
            if path not in handles:
                handles[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        for _ in ahead(lambda job: _read(handles[job[0]], *job, step, unpack), jobs, threads() if len(jobs) > 3 else 1):
            pass
    except OSError as error:
        raise refused(error, Path(error.filename or path), 0) from error
    finally:
        for handle in handles.values():
            os.close(handle)


def _read(handle: int, path: Path, piece: Mapping[str, Any], block: Block, start: int, number: int, step: int,
          unpack: Unpack | None) -> None:
    """Copies what `block`, whose first row is global row `start`, wants of one frame."""
    at, end = piece["at"][number], [*piece["at"], piece["end"]][number + 1]
    low = piece["start"] + number * piece["step"]
    high = min(low + piece["step"], piece["stop"])
    first, last = max(low, start), min(high, start + len(block.data))
    rows, keep = block.data[first - start : last - start], kept(block.columns)
    try:
        if (first, last) == (low, high) and keep is None and rows.flags.c_contiguous:
            shape = rows.shape
            size = head_size(shape, bytes(PLACE.size), 1)
            if end - at == size + padded(rows.nbytes):  # raw: from the file to where it belongs
                return _straight(handle, at, size, rows, (piece["path"], low, high, step))
        data = _decoded(decode_frame(os.pread(handle, end - at, at)), piece["path"], low, high, step, unpack)
        data = data[first - low : last - low]
        if keep is None:
            rows[...] = data
        else:
            rows[:, keep] = data
    except FrameError as error:
        raise StoreError(f"checkpoint chunk of {piece['path']}: {error.message}", where=f"{path}:{at}",
                         fix="use the one before it") from error


def _straight(handle: int, at: int, size: int, rows: Array, place: tuple[str, int, int, int]) -> None:
    """Reads a raw frame with its rows straight into `rows`, then verifies them there."""
    head, body, pad = bytearray(size), flat(rows), bytearray(padded(rows.nbytes) - rows.nbytes)
    if (found := os.preadv(handle, [head, body, pad], at)) != size + body.nbytes + len(pad):
        raise FrameError(f"frame: cut: expected {size + body.nbytes + len(pad)} bytes, found {found}")
    frame = decode_head(head)
    _check(frame, *place)
    if frame.codec != CODECS["raw"] or frame.dtype != rows.dtype.name or frame.shape != rows.shape:
        raise FrameError(f"expected raw {rows.dtype} {rows.shape}, found codec {frame.codec} of {frame.dtype} {frame.shape}")
    crc = _native.crc32c(pad, _native.crc32c(body))
    if crc != frame.chunks[0].crc:
        raise FrameError(f"chunk 0 checksum: expected {frame.chunks[0].crc:08x}, found {crc:08x}")


def _check(frame: Frame, path: str, low: int, high: int, step: int) -> None:
    if frame.name != name_hash(path) or bytes(frame.ext) != PLACE.pack(low, high, step):
        raise FrameError(f"expected rows [{low}, {high}) of {path} at step {step}, found another chunk")


def _decoded(frame: Frame, path: str, low: int, high: int, step: int, unpack: Unpack | None) -> Array:
    _check(frame, path, low, high, step)
    if frame.codec == CODECS["raw"]:
        return frame.array()
    if unpack is None:
        raise FrameError("chunk is packed and no unpack was given")
    dtype = numpy_dtype(frame.dtype)
    size = dtype.itemsize * int(np.prod(frame.shape, dtype=object))
    return np.frombuffer(flat(unpack(frame.chunk(0), size)), dtype).reshape(frame.shape)
