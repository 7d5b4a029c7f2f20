"""Big files at the speed of the disk: checksums on the cores beside the one that reads or writes."""
from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..kernels import _native

BLOCK_BYTES = 4 << 20
THREADS_MAX = 8
T = TypeVar("T")
R = TypeVar("R")


class Summed(NamedTuple):
    """Buffers to be written one after another whose crc32c together is known."""

    buffers: list[memoryview]
    crc: int


def threads() -> int:
    """How many this process may keep busy."""
    return max(1, min(THREADS_MAX, len(os.sched_getaffinity(0))))


def ahead(work: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """`work(item)` in order, up to `count` items at a time in threads beside the caller; with one core in the caller's own.

    What `work` raises is raised where its item's turn comes; what was begun after it is waited for.
    """
    if count < 2 or threads() < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(count) as pool:
        under: deque[Future[R]] = deque()
        for item in items:
            under.append(pool.submit(work, item))
            if len(under) >= 2 * count:
                yield under.popleft().result()
        while under:
            yield under.popleft().result()


def file_crc(path: Path) -> int:
    """crc32c of a file's bytes. OSError where it cannot be read or shrinks meanwhile."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size

        def block(at: int) -> tuple[int, int]:
            data = os.pread(file.fileno(), min(BLOCK_BYTES, size - at), at)
            return _native.crc32c(data), len(data)

        crc = 0
        for part, length in ahead(block, range(0, size, BLOCK_BYTES), threads() if size > BLOCK_BYTES else 1):
            crc = _native.crc32c_join(crc, part, length)
    return crc
