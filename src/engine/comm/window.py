"""Memory that the ranks of a node share: one memory-backed file a rank, mapped by all, reserved before it is touched.

The names are gone once everybody has mapped them, so a job that dies leaves nothing behind. `Window` lays an MPI window
over a rank's own part, for one-sided reads from other nodes where the probe finds that they pay.
"""
from __future__ import annotations

import errno
import mmap
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import StoreError
from engine.types import Array, Link

SHM = Path("/dev/shm")


def nodes(link: Link) -> Array:
    """int32 `(size,)`: the node of each rank, numbered by first rank; ranks of one process are one node."""
    mine = getattr(link, "node", None)
    if mine is None:
        return np.zeros(link.size, np.int32)
    table = link.vote(np.array([mine], np.int64), name="nodes")[:, 0]
    _, first, number = np.unique(table, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int32)


def reserve(size_bytes: int, folder: Path | None = None) -> tuple[Path, int]:
    """A new file of that size whose pages are promised (a full disk says so now, not by a signal later), and its handle."""
    refused: list[str] = []
    for place in [folder] if folder else [SHM, Path(tempfile.gettempdir())]:
        path = place / f"engine-{os.getpid()}-{secrets.token_hex(6)}"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            refused.append(f"{place}: {error.strerror}")
            continue
        try:
            os.posix_fallocate(handle, 0, size_bytes)
            return path, handle
        except OSError as error:
            os.close(handle)
            path.unlink()
            refused.append(f"{place}: {os.strerror(error.errno or errno.EIO)}")
    raise StoreError(f"cannot reserve {size_bytes / 2**20:.0f} MiB of shared memory ({'; '.join(refused)})",
                     fix="lower shard.rows or shard.width, or give /dev/shm more room")


def share(link: Link, size_bytes: int, node: Array, *, name: str, folder: Path | None = None) -> dict[int, Array]:
    """Collective: this rank's `size_bytes` of zeros (page-aligned), and those of the other ranks of its node, by rank."""
    error, path, handle = None, "", -1
    try:
        found, handle = reserve(max(1, size_bytes), folder)
        path = str(found)
    except StoreError as failed:
        error = failed
    said = [_said(part) for part in link.allgather(_bytes(f"{path}|{size_bytes}|{error or ''}"), name=name)]
    failed_at = [rank for rank, text in enumerate(said) if not text.startswith(("/", "|0|")) or text.split("|", 2)[2]]
    made: dict[int, Array] = {}
    try:
        if failed_at:
            rank = failed_at[0]
            raise error or StoreError(f"rank {rank}: {said[rank].split('|', 2)[2]}", where=name)
        for rank in np.flatnonzero(node == node[link.rank]).tolist():
            where, size, _ = said[rank].split("|", 2)
            made[rank] = _mapped(where, int(size))
        link.barrier(name=f"{name} mapped")
    finally:
        if handle >= 0:
            os.close(handle)
        if path:
            os.unlink(path)
    return made


def _mapped(path: str, size: int) -> Array:
    with open(path, "r+b") as file:
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # the pages are there: map them in order, not touch by touch
        return np.frombuffer(mmap.mmap(file.fileno(), max(1, size), flags=flags), np.uint8)[:size]


def _bytes(text: str) -> Array:
    return np.frombuffer(text.encode(), np.uint8)


def _said(part: Array) -> str:
    return part.tobytes().decode()


class Window:
    """An MPI window over `memory` of each rank, open for passive access while it lives. Collective to make and free."""

    def __init__(self, comm: Any, memory: Array) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        info = MPI.Info.Create()
        for key, value in (("accumulate_ordering", "none"), ("accumulate_ops", "same_op_no_op"), ("same_disp_unit", "true")):
            info.Set(key, value)
        self._win = MPI.Win.Create(memory, 1, info, comm)
        info.Free()
        self._win.Lock_all(MPI.MODE_NOCHECK)

    def get(self, rank: int, offsets: Sequence[int], outs: Sequence[Array]) -> None:
        """Reads bytes at the offsets of a rank into uint8 arrays, all in flight at once, done when it returns."""
        for offset, out in zip(offsets, outs, strict=True):
            self._win.Get([out, self._mpi.BYTE], rank, (offset, len(out), self._mpi.BYTE))
        self._win.Flush(rank)

    def sync(self) -> None:
        """Own stores become visible to readers, and theirs here."""
        self._win.Sync()

    def free(self) -> None:
        self._win.Unlock_all()
        self._win.Free()
