"""Memory that all ranks of one node map: anonymous, so nothing is left behind however the run ends."""
from __future__ import annotations

import mmap
import os

import numpy as np

from engine.errors import ConfigError, StoreError
from engine.types import Array, Link


def slab(link: Link, size_bytes: int, *, name: str) -> Array:
    """uint8 `(size_bytes,)`, zeros, page-aligned, the same memory on every rank of `link` (collective).

    Rank 0 makes a memory file and the others open it through /proc; it lives as long as somebody maps it.  ConfigError
    where the ranks are on several nodes, StoreError on every rank where the node has not the memory.
    """
    if getattr(link, "node_size", link.size) != link.size:
        raise ConfigError(f"{name}: expected all {link.size} ranks on one node, found {link.node_size} on this one",  # type: ignore[attr-defined]
                          fix="start one rank a node with threads, or use exchange.split=rows")
    pages = -(-max(size_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    file, said = -1, ""
    if link.rank == 0:
        try:
            _room(pages)
            file = os.memfd_create("engine")
            os.posix_fallocate(file, 0, pages)  # now, not as a bus error at the first touch
        except OSError as error:
            said = error.strerror or str(error)
    pid, place, problem = link.bcast((os.getpid(), file, said), root=0, name=f"{name}: memory")
    memory = None
    if not problem:
        try:
            if link.rank:
                file = os.open(f"/proc/{pid}/fd/{place}", os.O_RDWR)
            memory = np.frombuffer(mmap.mmap(file, pages, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE), np.uint8)
        except OSError as error:
            said = error.strerror or str(error)
    failed = link.vote(np.array([memory is None], np.int64), name=f"{name}: memory mapped")[:, 0]
    if file >= 0:
        os.close(file)
    if failed.any() or memory is None:
        first = int(np.flatnonzero(failed)[0])
        why = problem or link.bcast(said, root=first, name=f"{name}: why")
        raise StoreError(f"{name}: cannot map {size_bytes / 2**20:.0f} MiB shared by the ranks of this node: {why}",
                         where=f"rank {first}", fix="free memory, use fewer keys, or exchange.split=rows")
    return memory[:size_bytes]


def _room(size_bytes: int) -> None:
    """OSError where the node has not so much memory: the kernel would end some process instead of refusing."""
    try:
        with open("/proc/meminfo") as lines:
            free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return
    if size_bytes > free:
        raise OSError(f"the node has {free / 2**20:.0f} MiB free")
