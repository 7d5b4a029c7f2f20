"""General compressors by blosc2 (zstd, lz4) and the standard library (lzma): one thread, GIL released, shuffled bytes.

    "EPAK" | codec u8 | width u8 | 0 | crc u32 (of all that follows) | size u64 | parts u32 | 0 | length u32 each | parts

blosc2 has no checksum of its own and decodes most damaged chunks without a word, so nothing reaches it unchecked. A part
holds 64 MiB, so its 2 GiB limit is never met. Its DELTA, BYTEDELTA and TRUNC_PREC filters are not used.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import FrameError
from ..kernels import _native
from ..types import Array
from .frame import flat

HEAD = struct.Struct("<4sBBxxIQII")  # magic, codec, width, crc, size, parts, 0
PART = 1 << 26
CODECS = ("zstd", "lz4", "lzma")


def pack_encode(data: Any, width: int = 1, *, codec: str = "zstd", level: int = 1) -> bytes:
    """A C-contiguous buffer of elements of `width` bytes, compressed; `codec` zstd, lz4 or lzma."""
    if codec not in CODECS:
        raise ValueError(f"pack: codec {codec}: expected one of {', '.join(CODECS)}")
    view = flat(data)
    make = _blosc(codec, width, level) if codec != "lzma" else _lzma(level)
    parts = [make(view[at : at + PART]) for at in range(0, len(view), PART)]
    rest = b"".join([struct.pack(f"<QII{len(parts)}I", len(view), len(parts), 0, *map(len, parts)), *parts])
    return HEAD.pack(b"EPAK", CODECS.index(codec), width, _native.crc32c(rest), 0, 0, 0)[:12] + rest


def pack_size(data: Any) -> int:
    """Bytes that `data` decodes to; FrameError where it is not packed or its checksum is wrong."""
    return _head(flat(data))[1]


def pack_decode(data: Any, out: Array | None = None) -> Array:
    """The bytes, in `out` where it is given (contiguous, of that size) else new uint8; FrameError where they are damaged."""
    view = flat(data)
    name, size, lengths, at = _head(view)
    made = np.empty(size, np.uint8) if out is None else out.reshape(-1).view(np.uint8)
    if len(made) != size:
        raise FrameError(f"pack: expected {len(made)} bytes, found {size}")
    for start, length in zip(range(0, size, PART), lengths, strict=True):
        target = made[start : start + PART]
        try:
            _undo(name, view[at : at + length], target)
        except (RuntimeError, ValueError, lzma.LZMAError) as error:
            raise FrameError(f"pack: {name} cannot read its own bytes: {error}") from error
        at += length
    return made


def _head(view: memoryview) -> tuple[str, int, tuple[int, ...], int]:
    """Codec, size, lengths of the parts and where they begin."""
    if len(view) < HEAD.size:
        raise FrameError(f"pack: cut: expected {HEAD.size} bytes or more, found {len(view)}")
    magic, code, _, crc, size, count, zero = HEAD.unpack_from(view)
    if magic != b"EPAK":
        raise FrameError(f"pack: foreign: expected b'EPAK', found {magic!r}")
    if _native.crc32c(view[12:]) != crc:
        raise FrameError("pack: checksum is wrong", fix="ask the sender again, or read an older copy")
    at = HEAD.size + 4 * count
    if code >= len(CODECS) or zero or count != -(-size // PART) or len(view) < at or bytes(view[6:8]) != bytes(2):
        raise FrameError(f"pack: layout: codec {code}, {count} parts of {size} bytes")
    lengths = struct.unpack_from(f"<{count}I", view, HEAD.size)
    if at + sum(lengths) != len(view):
        raise FrameError(f"pack: layout: parts end at {at + sum(lengths)}, found {len(view)} bytes")
    return CODECS[code], size, lengths, at


def _blosc(codec: str, width: int, level: int) -> Callable[[memoryview], bytes]:
    import blosc2

    blosc2.set_releasegil(True)
    options = {
        "codec": blosc2.Codec.ZSTD if codec == "zstd" else blosc2.Codec.LZ4,
        "clevel": level,
        "typesize": width,
        "filters": [blosc2.Filter.SHUFFLE if width > 1 else blosc2.Filter.NOFILTER],
        "filters_meta": [0],
        "nthreads": 1,
    }

    def make(part: memoryview) -> bytes:
        packed: bytes = blosc2.compress2(part, **options)
        return packed

    return make


def _lzma(level: int) -> Callable[[memoryview], bytes]:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": level}]
    return lambda part: lzma.compress(part, lzma.FORMAT_RAW, filters=filters)


def _undo(name: str, part: memoryview, target: Array) -> None:
    if name == "lzma":
        # A raw stream carries no dictionary size: the largest that a preset uses reads every one.
        found = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9}]).decompress(
            part, len(target) + 1
        )
        if len(found) != len(target):
            raise ValueError(f"expected {len(target)} bytes, found {len(found)}")
        target[:] = np.frombuffer(found, np.uint8)
        return
    import blosc2

    blosc2.set_releasegil(True)
    size, packed, _ = blosc2.get_cbuffer_sizes(part)
    if size != len(target) or packed != len(part):
        raise ValueError(f"expected {len(target)} bytes from {len(part)}, found {size} from {packed}")
    blosc2.decompress2(part, dst=target, nthreads=1)
