"""Files that are there whole or not at all: temporary name, sync, rename, sync of the directory."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..kernels import _native
from .bulk import Summed

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}


def write_file(path: Path, buffers: Iterable[Any], *, need: int = 0) -> tuple[int, int]:
    """Write the buffers to `path`, all or nothing; returns (size in bytes, crc32c).

    `need`: bytes expected, for an early refusal and for the message.  StoreError names path, bytes needed and free,
    and a fix; whatever was at `path` before stays.  Buffers are taken one at a time, so a generator streams in
    bounded memory; one that is `Summed` is not summed again.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if need > (free := _free(path.parent)):
            raise OSError(errno.ENOSPC, f"{free} bytes free")
        size, crc = _stream(scratch, buffers)
        os.rename(scratch, path)
        sync_dir(path.parent)
    except OSError as error:
        _discard(scratch)
        raise refused(error, path, need) from error
    except BaseException:
        _discard(scratch)
        raise
    return size, crc


def _stream(path: Path, buffers: Iterable[Any]) -> tuple[int, int]:
    size = crc = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        for item in buffers:
            known = item.crc if isinstance(item, Summed) else None
            for buffer in item.buffers if isinstance(item, Summed) else (item,):
                view = memoryview(buffer).cast("B")
                crc = _native.crc32c(view, crc) if known is None else crc
                size += len(view)
                while len(view):
                    view = view[os.write(handle, view) :]
            if known is not None:
                crc = _native.crc32c_join(crc, known, sum(buffer.nbytes for buffer in item.buffers))
        os.fsync(handle)
    finally:
        os.close(handle)
    return size, crc


def sync_dir(path: Path) -> None:
    """Make renames inside `path` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_dir(path: Path) -> None:
    """Make `path` and its parents; StoreError where the disk refuses."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise refused(error, path, 0) from error


def writable(paths: Iterable[Path]) -> None:
    """Makes each directory where it is absent; StoreError where a file cannot be made in it."""
    for path in paths:
        make_dir(path)
        write_file(path / ".probe", [b"x"])
        with suppress(OSError):
            os.unlink(path / ".probe")


def move_dir(source: Path, target: Path) -> None:
    """Rename a directory and make it durable; StoreError where the disk refuses."""
    try:
        os.rename(source, target)
        sync_dir(target.parent)
    except OSError as error:
        raise refused(error, target, 0) from error


def remove_dir(path: Path) -> None:
    """Remove a directory; under a hidden name first, so that half of it is never met under its own."""
    scratch = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}.old")
    try:
        os.rename(path, scratch)
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused(error, path, 0) from error
    shutil.rmtree(scratch, ignore_errors=True)


def refused(error: OSError, path: Path, need: int) -> StoreError:
    """What a system error means to the user, with the bytes needed and free where space is the matter."""
    if error.errno in _FULL:
        asked = f"{need} bytes needed, " if need else ""
        return StoreError(
            f"disk full: {asked}{_free(path.parent)} bytes free; nothing was overwritten",
            where=str(path),
            fix="free some space, or give a directory on another disk",
        )
    if error.errno in _DENIED:
        return StoreError(
            f"cannot write: {error.strerror}; nothing was overwritten",
            where=str(path),
            fix="give a directory this user may write to",
        )
    return StoreError(
        f"cannot write: {error.strerror or error}; nothing was overwritten",
        where=str(path),
        fix="check that the path is a directory on a working disk",
    )


def _free(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _discard(path: Path) -> None:
    with suppress(OSError):
        os.unlink(path)
