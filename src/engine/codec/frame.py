"""The frame: one byte layout for wire, shared window, journal and file (docs/format.md has the byte tables).

    head = 64-byte core | extension | shape | chunk table | zeros to 64        payload = chunks, each padded to 64

The core is under `header crc`, the rest of the head under `table crc`, every chunk with its padding under its own crc
in the table, so that no bit of a frame is outside a checksum and each is laid out in exactly one way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import FrameError
from ..kernels import _native
from ..types import Array

MAGIC = b"EFRM"
VERSION = 1
ALIGN = 64
CORE = struct.Struct("<4sHBBBBHIQQQQIIII")  # ends with the header crc at byte 60
ENTRY = struct.Struct("<QIIIIQ")  # offset, length, count, mode, crc, hash
DELTA = struct.Struct("<QQQQ")
SHAPE_LIMIT = 32

Bytes = bytes | bytearray | memoryview

# Kinds and codecs are numbers for ever; a room that adds one takes the next number here and in docs/format.md.
KINDS = {"raw": 0, "block": 1, "update": 2, "delta": 3, "journal": 4, "rows": 5}
CODECS = {"raw": 0, "pack": 1, "sparse": 2, "quant": 3, "delta": 4, "lowrank": 5, "chain": 6, "rows": 7}
DTYPES = (
    "bytes",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bool",
    "bfloat16",
)
_DTYPE = {name: code for code, name in enumerate(DTYPES)}


class Delta(NamedTuple):
    """Extension of a frame that needs its base: hashes of base and result, seed and step of counter-based
    randomness.
    """

    base_hash: int
    result_hash: int
    seed: int = 0
    step: int = 0

    def encode(self) -> bytes:
        return DELTA.pack(*self)

    @classmethod
    def decode(cls, ext: Bytes) -> Delta:
        if len(ext) < DELTA.size:
            raise FrameError(f"delta extension: expected {DELTA.size} bytes, found {len(ext)}")
        return cls(*DELTA.unpack_from(ext))


class Chunk(NamedTuple):
    """One row of the chunk table; `offset` and `length` in bytes of payload, `hash` of the decoded bytes or 0."""

    offset: int
    length: int
    items: int
    mode: int
    crc: int
    hash: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame: fields, and views of the bytes it was read from. `chunk(i)` verifies before it returns."""

    kind: int
    codec: int
    dtype: str
    shape: tuple[int, ...]
    flags: int
    name: int
    base: int
    new: int
    ext: memoryview
    chunks: tuple[Chunk, ...]
    payload: memoryview
    size: int

    def chunk(self, at: int) -> memoryview:
        """Bytes of chunk `at`, a view; FrameError where its checksum is wrong."""
        entry = self.chunks[at]
        found = _native.crc32c(self.payload[entry.offset : entry.offset + padded(entry.length)])
        if found != entry.crc:
            raise FrameError(
                f"chunk {at} checksum: expected {entry.crc:08x}, found {found:08x}",
                where=f"payload byte {entry.offset}",
                fix="ask the sender for a keyframe, or read an older copy",
            )
        return self.payload[entry.offset : entry.offset + entry.length]

    def verify(self) -> Frame:
        for at in range(len(self.chunks)):
            self.chunk(at)
        return self

    def array(self) -> Array:
        """The one raw chunk as an array of `shape`, a read-only view where the buffer is; codec must be raw."""
        if self.codec != CODECS["raw"] or len(self.chunks) != 1:
            raise FrameError(f"expected one raw chunk, found codec {self.codec} with {len(self.chunks)} chunks")
        dtype = numpy_dtype(self.dtype)
        data = self.chunk(0)
        if len(data) != dtype.itemsize * int(np.prod(self.shape, dtype=object)):
            raise FrameError(f"array {self.dtype}{list(self.shape)}: found {len(data)} bytes")
        return np.frombuffer(data, dtype).reshape(self.shape)


def padded(size: int) -> int:
    """`size` up to the next multiple of 64."""
    return -(-size // ALIGN) * ALIGN


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's type of a frame's dtype name; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(np.uint8 if name == "bytes" else name)


def name_hash(path: str) -> int:
    """64-bit FNV-1a of a state path: the frame's `name`."""
    value = 0xCBF29CE484222325
    for byte in path.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def encode_frame(
    kind: int,
    codec: int,
    chunks: Sequence[Any],
    *,
    dtype: str = "bytes",
    shape: Sequence[int] = (),
    name: int = 0,
    base: int = 0,
    new: int = 0,
    flags: int = 0,
    ext: bytes = b"",
    modes: Sequence[int] = (),
    counts: Sequence[int] = (),
    hashes: Sequence[int] = (),
) -> list[memoryview]:
    """Buffers of a frame, in order, to write or send one after another: the head, then the chunks as they are and
    zeros.

    `chunks`: C-contiguous buffers below 4 GiB each, not copied.  `modes`, `counts` uint32, `hashes` uint64: one a
    chunk, or none given = 0.  ValueError where a field does not fit or the lists differ in length.
    """
    if dtype not in _DTYPE or len(shape) > SHAPE_LIMIT:
        raise ValueError(
            f"frame: dtype {dtype} with {len(shape)} axes; "
            f"expected one of {', '.join(DTYPES)}, at most {SHAPE_LIMIT} axes"
        )
    views = [flat(chunk) for chunk in chunks]
    for given in (modes, counts, hashes):
        if given and len(given) != len(views):
            raise ValueError(f"frame: {len(views)} chunks but {len(given)} modes, counts or hashes")
    none = (0,) * len(views)
    table, body, offset = [], [], 0
    for view, count, mode, digest in zip(views, counts or none, modes or none, hashes or none, strict=True):
        pad = bytes(padded(view.nbytes) - view.nbytes)
        crc = _native.crc32c(view)
        crc = _native.crc32c(pad, crc) if pad else crc
        table.append(_pack(ENTRY, offset, view.nbytes, count, mode, crc, digest))
        body += [view, memoryview(pad)] if pad else [view]
        offset += view.nbytes + len(pad)
    head = frame_head(
        kind, codec, b"".join(table), offset, dtype=dtype, shape=shape, name=name, base=base, new=new, flags=flags, ext=ext
    )
    return [memoryview(head), *body]


def head_size(shape: Sequence[int], ext: bytes, chunks: int) -> int:
    """Bytes before the payload."""
    return padded(CORE.size + len(ext) + 8 * len(shape) + ENTRY.size * chunks)


def frame_head(
    kind: int,
    codec: int,
    table: bytes,
    payload: int,
    *,
    dtype: str = "bytes",
    shape: Sequence[int] = (),
    name: int = 0,
    base: int = 0,
    new: int = 0,
    flags: int = 0,
    ext: bytes = b"",
) -> bytes:
    """All before the payload, whose chunks `table` describes (32 bytes each) in `payload` bytes."""
    rest = b"".join([ext, _pack(struct.Struct(f"<{len(shape)}Q"), *shape), table])
    rest += bytes(padded(CORE.size + len(rest)) - CORE.size - len(rest))
    core = _pack(
        CORE,
        MAGIC,
        VERSION,
        kind,
        codec,
        _DTYPE[dtype],
        len(shape),
        flags,
        len(table) // ENTRY.size,
        name,
        base,
        new,
        payload,
        len(ext),
        0,
        _native.crc32c(rest),
        0,
    )[:60]
    return core + _native.crc32c(core).to_bytes(4, "little") + rest


def encode_array(kind: int, data: Array, **fields: Any) -> list[memoryview]:
    """Frame of one raw little-endian C-contiguous array."""
    return encode_frame(kind, CODECS["raw"], [data], dtype=data.dtype.name, shape=data.shape, **fields)


def frame_bytes(buffers: Iterable[Bytes]) -> bytes:
    return b"".join(buffers)


def decode_frame(buffer: Any, *, exact: bool = True) -> Frame:
    """The frame at the start of `buffer`, without a copy; its chunks are verified when they are taken.

    `exact`: bytes after the frame are an error; else `frame.size` says where the next begins.  FrameError says what
    is wrong: too short, foreign, header checksum, version, cut, trailing bytes, table checksum, layout.
    """
    data = flat(buffer)
    fields, head, size = _core(data)
    if len(data) < size:
        raise _wrong(f"cut: expected {size} bytes, found {len(data)}")
    if exact and len(data) > size:
        raise _wrong(f"trailing bytes: expected {size} bytes, found {len(data)}")
    return _opened(data, fields, head, data.toreadonly()[head:size], size)


def decode_head(buffer: Any) -> Frame:
    """As `decode_frame` of the bytes before the payload alone; its chunks cannot be taken."""
    data = flat(buffer)
    fields, head, size = _core(data)
    if len(data) != head:
        raise _wrong(f"cut: expected a head of {head} bytes, found {len(data)}")
    return _opened(data, fields, head, memoryview(b""), size)


def _opened(data: memoryview, fields: tuple[int, ...], head: int, body: memoryview, size: int) -> Frame:
    kind, codec, dtype, ndim, flags, count, name, base, new, payload, ext_size, _, table_crc = fields
    if _native.crc32c(data[CORE.size : head]) != table_crc:
        raise _wrong("table checksum is wrong")
    at = CORE.size + ext_size
    shape = struct.unpack_from(f"<{ndim}Q", data, at)
    start = at + 8 * ndim
    chunks = tuple(Chunk(*row) for row in ENTRY.iter_unpack(data[start : start + ENTRY.size * count]))
    end = 0
    for chunk in chunks:
        if chunk.offset != end:
            raise _wrong(f"layout: chunk at {chunk.offset}, expected {end}")
        end += padded(chunk.length)
    if end != payload or any(data[start + ENTRY.size * count : head]):
        raise _wrong(f"layout: chunks end at {end}, payload has {payload} bytes")
    ext = data.toreadonly()[CORE.size : at]
    return Frame(kind, codec, DTYPES[dtype], shape, flags, name, base, new, ext, chunks, body, size)


def frame_size(buffer: Any) -> int:
    """Bytes of the frame that begins with this core header (64 bytes are enough); FrameError where it is not one."""
    return _core(flat(buffer))[2]


def _core(data: memoryview) -> tuple[tuple[int, ...], int, int]:
    """Checked fields of the core header, size of the head, size of the frame."""
    if len(data) < CORE.size:
        raise _wrong(f"cut: expected a header of {CORE.size} bytes, found {len(data)}")
    if data[:4] != MAGIC:
        raise _wrong(f"foreign: expected {MAGIC!r}, found {bytes(data[:4])!r}")
    if _native.crc32c(data[:60]) != int.from_bytes(data[60:64], "little"):
        raise _wrong("header checksum is wrong")
    _, version, *fields, _ = CORE.unpack_from(data)
    if version != VERSION:
        raise _wrong(f"version: expected {VERSION}, found {version}", "read it with the engine that wrote it")
    dtype, ndim, count, payload, ext = fields[2], fields[3], fields[5], fields[9], fields[10]
    if dtype >= len(DTYPES) or ndim > SHAPE_LIMIT:
        raise _wrong(f"layout: dtype {dtype}, {ndim} axes")
    head = padded(CORE.size + ext + 8 * ndim + ENTRY.size * count)
    return tuple(fields), head, head + payload


def flat(buffer: Any) -> memoryview:
    """A byte view of a C-contiguous buffer, not copied."""
    if isinstance(buffer, np.ndarray):
        if not buffer.flags.c_contiguous or buffer.dtype.byteorder == ">":
            raise ValueError("frame: expected a C-contiguous little-endian array")
        buffer = buffer.reshape(-1).view(np.uint8)
    view = memoryview(buffer)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _pack(layout: struct.Struct, *values: Any) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise ValueError(f"frame: a field does not fit: {error}") from error


def _wrong(message: str, fix: str = "ask the sender again, or read an older copy") -> FrameError:
    return FrameError(f"frame: {message}", fix=fix)
