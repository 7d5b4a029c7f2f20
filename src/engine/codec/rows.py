"""Blocks of rows as one frame, column by column: what is moved between ranks, spooled and cached.

    frame = rows_encode({"x": x, "y": y, "order": order})      # uint8; any mix of dtypes, equal first axes
    columns = rows_decode(frame)                                # the same arrays, bit for bit

A column of numbers is taken for a series: floats that are decimals become integers, differences of order 0, 1 or 2 are
class-coded. Where a sample packs better (repeated words, categories) blosc2 takes the column instead. A `bound` lets
float columns differ by less than it, checked for every value at encode; what misses it is stored exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import FrameError
from ..kernels import _native
from ..types import Array
from . import pack
from .frame import CODECS, DTYPES, KINDS, Frame, decode_frame, encode_frame, frame_bytes, numpy_dtype

ENTRY = struct.Struct("<BBHI")  # dtype, axes (1 or 2), bytes of the name, width of the second axis
RAW, PACKED, SERIES = range(3)  # modes of a chunk
SAMPLE = 4096  # rows that decide between series and packing
POOR = 4  # a column that a series shrinks more than so many times is not tried otherwise
_KIND = {"float16": 4, "bfloat16": 5, "float32": 6, "float64": 7}

Bound = float | Mapping[str, float]


def rows_encode(
    columns: Mapping[str, Array], *, bound: Bound = 0.0, name: int = 0, base: int = 0, new: int = 0, fast: bool = False
) -> Array:
    """The frame uint8 `(bytes,)` of arrays `(n,)` or `(n, d)` by name; C-contiguous or not, any dtype of a frame.

    `bound`: one for all float32 and float64 columns, or by name; 0 is exact.  `name`, `base`, `new`: free fields of the
    frame (a source, first and last row).  `fast`: never tries blosc2.  ValueError where lengths differ.
    """
    arrays = {key: np.asarray(data) for key, data in columns.items()}
    lengths = {len(data) if data.ndim else -1 for data in arrays.values()}
    if len(lengths) > 1 or any(data.ndim not in (1, 2) for data in arrays.values()):
        shapes = ", ".join(f"{key} {list(data.shape)}" for key, data in arrays.items())
        raise ValueError(f"rows: expected arrays (n,) or (n, d) of one n, found {shapes}")
    n = lengths.pop() if lengths else 0
    ext = [struct.pack("<I", len(arrays))]
    scratch = np.empty(n * max((data.itemsize for data in arrays.values()), default=0), np.uint8)
    chunks: list[Any] = []
    modes: list[int] = []
    hashes: list[int] = []
    for key, data in arrays.items():
        ext.append(_entry(key, data))
        limit = float(bound.get(key, 0.0)) if isinstance(bound, Mapping) else float(bound)
        limit = limit if data.dtype in (np.float32, np.float64) else 0.0
        for column in np.ascontiguousarray(data.T).reshape(-1, n) if data.size else ():
            mode, body, digest = _column(column, limit, fast, scratch)
            chunks.append(body)
            modes.append(mode)
            hashes.append(digest)
    return np.frombuffer(
        frame_bytes(
            encode_frame(
                KINDS["rows"], CODECS["rows"], chunks, shape=(n,), name=name, base=base, new=new, ext=b"".join(ext),
                modes=modes, counts=[min(n, 0xFFFFFFFF)] * len(chunks), hashes=hashes,
            )
        ),
        np.uint8,
    )  # fmt: skip


def rows_decode(frame: Any, *, names: set[str] | None = None) -> dict[str, Array]:
    """The arrays by name, C-contiguous, in the order they were given; only `names` where these are given.

    FrameError where a checksum, a length or the hash of a decoded column is wrong.
    """
    opened = frame if isinstance(frame, Frame) else decode_frame(frame)
    if opened.kind != KINDS["rows"] or opened.codec != CODECS["rows"] or len(opened.shape) != 1:
        raise FrameError(f"rows: expected a frame of rows, found kind {opened.kind}, codec {opened.codec}")
    n, at, found = opened.shape[0], 0, {}
    for key, dtype, axes, width in _entries(bytes(opened.ext)):
        count = width if n else 0
        if at + count > len(opened.chunks):
            raise FrameError(f"rows: column {key}: chunk {at + count - 1} of {len(opened.chunks)}")
        if names is None or key in names:
            found[key] = _array(opened, key, at, dtype, axes, n, width)
        at += count
    if at != len(opened.chunks):
        raise FrameError(f"rows: {len(opened.chunks)} chunks, columns have {at}")
    return found


def _entry(key: str, data: Array) -> bytes:
    if data.dtype.name not in DTYPES[1:] or data.dtype.byteorder == ">":
        raise ValueError(f"rows: column {key}: dtype {data.dtype}: expected one of {', '.join(DTYPES[1:])}")
    word = key.encode()
    width = data.shape[1] if data.ndim == 2 else 1
    return ENTRY.pack(DTYPES.index(data.dtype.name), data.ndim, len(word), width) + word


def _entries(ext: bytes) -> list[tuple[str, np.dtype[Any], int, int]]:
    """Name, dtype, axes and width of each array."""
    if len(ext) < 4:
        raise FrameError("rows: the names of the columns are cut")
    count, at = int.from_bytes(ext[:4], "little"), 4
    found = []
    for _ in range(count):
        if len(ext) < at + ENTRY.size:
            raise FrameError("rows: the names of the columns are cut")
        code, axes, size, width = ENTRY.unpack_from(ext, at)
        at += ENTRY.size
        word = ext[at : at + size]
        if len(word) != size or not 0 < code < len(DTYPES) or axes not in (1, 2) or (axes == 1 and width != 1):
            raise FrameError(f"rows: column {word!r}: dtype {code}, {axes} axes, width {width}")
        try:
            found.append((word.decode(), numpy_dtype(DTYPES[code]), axes, width))
        except UnicodeDecodeError as error:
            raise FrameError(f"rows: column {word!r}: not a name") from error
        at += size
    if at != len(ext):
        raise FrameError(f"rows: {len(ext) - at} bytes after the names of the columns")
    return found


def _kind(dtype: np.dtype[Any]) -> int:
    return _KIND.get(dtype.name, (1, 2, 4, 8).index(dtype.itemsize))


def _column(column: Array, bound: float, fast: bool, out: Array) -> tuple[int, Array | bytes, int]:
    """Mode, bytes and hash of one column, of the bounded values where there is a bound; `out` is scratch of its size."""
    kind, data, width = _kind(column.dtype), column.view(np.uint8), column.itemsize
    used = _native.series_encode(kind, data, bound, out[: len(data)])
    poor = not used or used > len(data) // POOR
    if poor and not fast and not bound and _packs_better(data, width, used or len(data)):
        body = pack.pack_encode(data, width)
        if len(body) < (used or len(data)):
            return PACKED, body, _native.hash64(data)
    if not used:
        return RAW, data, _native.hash64(data)
    body = out[:used].tobytes()
    if bound:
        data = out[: len(data)]
        _native.series_decode(kind, np.frombuffer(body, np.uint8), data)
    return SERIES, body, _native.hash64(data)


def _packs_better(data: Array, width: int, size: int) -> bool:
    """True where blosc2 makes a sample of the column a tenth smaller than its share of the `size` it has as a series."""
    rows = len(data) // width
    count = min(rows, max(SAMPLE, rows // 16))
    first = (rows - count) // 2
    part = data[first * width : (first + count) * width]
    return 10 * len(pack.pack_encode(part, width)) < 9 * size * len(part) // len(data)


def _array(frame: Frame, key: str, at: int, dtype: np.dtype[Any], axes: int, n: int, width: int) -> Array:
    """The array whose columns are chunks `at` and on."""
    if n and any(entry.items != min(n, 0xFFFFFFFF) for entry in frame.chunks[at : at + width]):
        raise FrameError(f"rows: column {key}: expected {n} rows a chunk")
    try:
        columns = np.empty((width, n), dtype)
    except (MemoryError, ValueError) as error:
        raise FrameError(f"rows: column {key}: {n} rows of {width} {dtype.name}: {error}") from error
    for number in range(width if n else 0):
        entry, body = frame.chunks[at + number], np.frombuffer(frame.chunk(at + number), np.uint8)
        out = columns[number].view(np.uint8)
        _undo(key, entry.mode, body, _kind(dtype), out)
        if _native.hash64(out) != entry.hash:
            raise FrameError(f"rows: column {key}: hash of the values is wrong", where=f"column {number}")
    return columns.reshape(n) if axes == 1 else np.ascontiguousarray(columns.T)


def _undo(key: str, mode: int, body: Array, kind: int, out: Array) -> None:
    if mode == RAW and len(body) == len(out):
        out[:] = body
    elif mode == PACKED:
        pack.pack_decode(body, out)
    elif mode == SERIES:
        try:
            _native.series_decode(kind, body, out)
        except ValueError as error:
            raise FrameError(f"rows: column {key}: {error}") from error
    else:
        raise FrameError(f"rows: column {key}: mode {mode}, {len(body)} bytes for {len(out)}")
