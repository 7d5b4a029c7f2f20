"""A bounded cache of parsed rows on local disk: a source that is read again gives them without parsing.

Blocks are kept as they come until the bound is reached and stay: passes go over the pieces in order, so that throwing out the
oldest would throw out what is asked for next. Each block has a CRC-32C; one that does not match is read from the source again.
The file has no name, so that it goes with the process, however that ends. Its own reading keeps no rows in memory.
"""
from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from engine.errors import StoreError
from engine.kernels import _native
from engine.source.stream import pack, unpack
from engine.types import Array, Batch, Source


class Kept(NamedTuple):
    """A block of the file: where it is, its bytes, its check sum, its rows."""

    offset: int
    size_bytes: int
    crc: int
    rows: int


class Cached:
    """`source`, its pieces kept in at most `limit_bytes` of a file in `folder` (where none is named, the temporary one).

    `kept_bytes`, `hits` (pieces given from the file), `damaged` (pieces read from the source after all), `full` ("" or why no
    more is kept).
    """

    def __init__(self, source: Source, limit_bytes: int, folder: str = "") -> None:
        self._source, self.limit_bytes = source, limit_bytes
        self._index: dict[int, list[Kept]] = {}
        self._lock = threading.Lock()
        self.kept_bytes, self.hits, self.damaged, self.full = 0, 0, 0, ""
        try:
            self._file = tempfile.TemporaryFile(dir=folder or None, prefix="engine-cache-")  # noqa: SIM115  (open until close)
        except OSError as error:
            raise StoreError(f"cannot make the cache: {error.strerror}", where=folder or tempfile.gettempdir(),
                             fix="data.cache_dir, a folder this user may write to, or no data.cache") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, piece: int, skip: int = 0) -> Iterator[Batch]:
        """The piece's rows from row `skip` on: from the file where they are kept and whole, else from the source."""
        kept = self._index.get(piece)
        if kept is None:
            yield from self._read(piece) if not skip and not self.full else self._source.read(piece, skip)
            return
        done = 0
        for block in kept:
            if done + block.rows > skip:
                rows = self._block(block)
                if rows is None:
                    self.damaged += 1
                    self._index.pop(piece, None)
                    yield from self._source.read(piece, max(skip, done))
                    return
                yield rows.slice(max(0, skip - done), block.rows) if skip > done else rows
            done += block.rows
        self.hits += 1

    def _read(self, piece: int) -> Iterator[Batch]:
        kept = list[Kept]()
        for rows in self._source.read(piece):
            block = None if self.full else self._keep(pack(rows), len(rows))
            if block is not None:
                kept.append(block)
            yield rows
        if not self.full:
            self._index[piece] = kept

    def _keep(self, data: Array, rows: int) -> Kept | None:
        with self._lock:
            if self.kept_bytes + len(data) > self.limit_bytes:
                self.full = f"the bound of {self.limit_bytes} bytes"
                return None
            offset, self.kept_bytes = self.kept_bytes, self.kept_bytes + len(data)
        try:
            left, at = data.data, offset
            while len(left):
                written = os.pwrite(self._file.fileno(), left, at)
                left, at = left[written:], at + written
        except OSError as error:
            self.full = error.strerror or "an error of the disk"
            return None
        return Kept(offset, len(data), _native.crc32c(data), rows)

    def _block(self, block: Kept) -> Batch | None:
        data = np.empty(block.size_bytes, np.uint8)
        done = 0
        while done < len(data) and (got := os.preadv(self._file.fileno(), [data.data[done:]], block.offset + done)):
            done += got
        return unpack(data) if done == len(data) and _native.crc32c(data) == block.crc else None

    def close(self) -> None:
        self._file.close()
        self._source.close()
