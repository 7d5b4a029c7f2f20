"""Followed files: a file that grows, is rotated or truncated, and directories into which files come.

A file is known by its inode and a checksum of its first line, so that a rename is no new file and a new file under an
old inode is no old one. The cursor is (that identity, byte offset); only whole lines are read, except that the last line
of a file that was rotated away ends where the file does.
"""
from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import zlib
from collections.abc import Iterator

from engine.errors import DataError
from engine.source.feed import START, At, Lines, Portion

READ_BYTES = 1 << 20


def identity(handle: int) -> str:
    """`inode-checksum` of an open file that holds a whole line; "" where it holds none yet."""
    head = os.pread(handle, 4096, 0)
    line, end, _ = head.partition(b"\n")
    return f"{os.fstat(handle).st_ino}-{zlib.crc32(line):08x}" if end or len(head) == 4096 else ""


class Followed:
    """One path, followed through rotation (rename and a new file) and truncation."""

    def __init__(self, path: str, lines: Lines, *, follow: bool = True, name: str = "", moved: bool = True) -> None:
        self.path, self.name, self.ended = path, name or path, False
        self._lines, self._follow, self._moved = lines, follow, moved
        self._handle, self._place, self._offset = -1, "", 0
        self._later: list[str] = []  # rotated files still to be read after the open one, oldest first

    def seek(self, at: At) -> None:
        """The cursor may lie in a file that has been rotated away since: it and those after it are read first."""
        place, offset = at
        if not place:
            return
        for at_path in self._generations():
            handle = os.open(at_path, os.O_RDONLY)
            if identity(handle) == place and os.fstat(handle).st_size >= offset:
                self._close()
                self._handle, self._place, self._offset = handle, place, offset
                later = self._generations()
                self._later = later[later.index(at_path) + 1 :] if at_path in later else []
                return
            os.close(handle)
        raise DataError(f"expected the file of the checkpoint's cursor (byte {offset} of {place}), found none", where=self.path,
                        fix="bring the rotated file back beside it, or start anew without --resume")

    def _generations(self) -> list[str]:
        """The path and what was rotated away from it, oldest first."""
        found = [self.path] if not self._moved else [*glob.glob(glob.escape(self.path) + "[.-]*"), self.path]
        present: list[tuple[bool, int, str]] = []
        for path in found:
            with contextlib.suppress(FileNotFoundError):  # removed while we look
                if os.path.isfile(path) and not path.endswith((".gz", ".xz", ".zst")):
                    present.append((path == self.path, os.stat(path).st_mtime_ns, path))
        return [path for *_, path in sorted(present)]

    def _since(self, inode: int) -> list[str]:
        """What came after the file of this inode, oldest first: it may have been rotated more than once since the last look."""
        paths = self._generations()
        for place, path in enumerate(paths):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:
                    return paths[place + 1 :] or [self.path]
        return [self.path]

    def poll(self) -> Portion | None:
        if self._handle < 0 and not self._open(self.path):
            return None
        data = os.pread(self._handle, READ_BYTES, self._offset)
        if data:
            found = self._whole(data)
            if found is not None:
                return found
        return self._next(data)

    @property
    def waiting(self) -> int:
        """Rows there but not read yet, by the length of those read before."""
        try:
            size = os.fstat(self._handle).st_size if self._handle >= 0 else os.stat(self.path).st_size
        except FileNotFoundError:
            return 0
        return int(max(0, size - self._offset) / self._lines.row_bytes)

    @property
    def movable(self) -> bool:
        """Whether another process finds the file under its path."""
        try:
            return self._handle < 0 or os.stat(self.path).st_ino == os.fstat(self._handle).st_ino
        except FileNotFoundError:
            return False

    def _open(self, path: str) -> bool:
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if not self._follow:
                self.ended = True
            return False
        self._handle, self._place, self._offset = handle, "", 0
        return True

    def _whole(self, data: bytes, end: bool = False) -> Portion | None:
        """Rows of the whole lines of `data`; `end`: its last line needs no line end."""
        cut = len(data) if end else data.rfind(b"\n") + 1
        while not cut and len(data) >= READ_BYTES:  # a line longer than a read
            more = os.pread(self._handle, READ_BYTES, self._offset + len(data))
            if not more:
                return None
            data += more
            cut = data.rfind(b"\n") + 1
        if not cut:
            return None
        if not self._place:
            self._place = identity(self._handle) or f"{os.fstat(self._handle).st_ino}-{zlib.crc32(data):08x}"
        data, base = data[:cut], self._offset
        self._offset += cut
        skip = self._lines.body(data, self.path) if base == 0 else 0
        return self._lines.rows(data[skip:], self.path, base + skip, self._place) if len(data) > skip else None

    def _next(self, rest: bytes) -> Portion | None:
        """At the end of what is there: rotated away, truncated, or simply quiet."""
        here = os.fstat(self._handle)
        if here.st_size < self._offset:
            self._offset, self._place = 0, ""
            return None
        if self._later:
            return self._leave(rest, self._later.pop(0))
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            now = None
        if now is not None and (now.st_ino, now.st_dev) != (here.st_ino, here.st_dev):
            if os.fstat(self._handle).st_size > self._offset + len(rest):
                return None  # written between the read and the look: read on
            self._later = self._since(here.st_ino)
            return self._leave(rest, self._later.pop(0))
        if not self._follow:
            self.ended = True
            return self._whole(rest, end=True) if rest else None
        return None

    def _leave(self, rest: bytes, path: str) -> Portion | None:
        found = self._whole(rest, end=True) if rest else None
        self._close()
        self._open(path)
        return found

    @property
    def at(self) -> At:
        return (self._place, self._offset)

    def committed(self, at: At) -> None:
        """Files are not ours to remove."""

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    close = _close


def arrivals(folder: str, pattern: str, known: set[int]) -> Iterator[tuple[str, str]]:
    """(name, path) of files in `folder` that are not `known` by inode yet, oldest first; they become known."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "_")) or not fnmatch.fnmatch(entry.name, pattern):
                continue
            if entry.is_file() and (seen := entry.stat()).st_ino not in known:
                found.append((seen.st_mtime_ns, seen.st_ino, entry.path))
    for _, inode, path in sorted(found):
        known.add(inode)
        yield f"inode {inode}", path


__all__ = ["START", "Followed", "arrivals", "identity"]
