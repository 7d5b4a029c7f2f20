"""Pieces read by several threads at once, for a source that says it may be (`pure`): its `read` keeps no state."""
from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from engine.types import Batch, Source


class Ahead:
    """`source`, with the next `threads` pieces of this rank read together when the first of them is asked for.

    Reading and learning then take turns, each with all threads, and none waits for another's core.  `stride`: from
    one piece of this rank to its next.
    """

    def __init__(self, source: Source, threads: int, stride: int) -> None:
        self._source, self._threads, self._stride = source, threads, stride
        self._pool = ThreadPoolExecutor(threads, "read")
        self._ready: dict[int, Future[list[Batch]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, piece: int, skip: int = 0) -> Iterator[Batch]:
        if skip:
            yield from self._source.read(piece, skip)
            return
        if piece not in self._ready:
            self._ready = {next_: self._pool.submit(self._whole, next_) for next_ in self._next(piece)}
        yield from self._ready.pop(piece).result()

    def _next(self, piece: int) -> list[int]:
        found = range(piece, piece + self._threads * self._stride, self._stride)
        return [p for p in found if p == piece or self._source.pieces is None or p < self._source.pieces]

    def _whole(self, piece: int) -> list[Batch]:
        return list(self._source.read(piece))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._source.close()
