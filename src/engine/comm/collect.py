"""The collective calls of a Link, over its own messages between two ranks: for Links that have nothing else."""
from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.comm import dense
from engine.errors import PeerError
from engine.types import Array, Op, Transfer

TALK, MOVE = 1, 2  # tags: small and urgent, and data
SHORT_BYTES = 1 << 15
_FOLD = {"max": np.maximum, "min": np.minimum}


class Collective:
    """Needs `rank`, `size`, `send`, `take` and `kept`. Every call is made by all ranks, in the same order."""

    rank: int
    size: int

    def send(self, data: Array, to: int, *, name: str, tag: int = 0) -> Transfer:
        raise NotImplementedError

    def take(self, source: int, *, name: str, tag: int) -> Array:
        raise NotImplementedError

    def _swap(self, parts: Sequence[Array], name: str, tag: int) -> list[Array]:
        """`parts[r]` to rank r; what each rank sent here, as uint8, the next in rank first."""
        found: list[Array] = [np.empty(0, np.uint8)] * self.size
        order = [(self.rank + k) % self.size for k in range(1, self.size)]
        going = [self.send(np.ascontiguousarray(parts[r]), r, name=name, tag=tag) for r in order]
        for r in reversed(order):
            found[r] = self.take(r, name=name, tag=tag)
        for one in going:
            one.wait()
        return found

    def vote(self, values: Array, *, name: str) -> Array:
        mine = np.ascontiguousarray(values)
        found = self._swap([mine] * self.size, name, TALK)
        found[self.rank] = mine.reshape(-1).view(np.uint8)
        wrong = [r for r in range(self.size) if len(found[r]) != mine.nbytes]
        if wrong:
            raise PeerError(f"ranks disagree on what is exchanged in {name!r}: rank {self.rank} has {mine.nbytes} bytes, "
                            f"rank {wrong[0]} has {len(found[wrong[0]])}")
        return np.concatenate(found).view(mine.dtype).reshape(self.size, *mine.shape)

    def allgather(self, data: Array, *, name: str, counts: Sequence[int] | None = None) -> list[Array]:
        mine = np.ascontiguousarray(data)
        found = self._swap([mine] * self.size, name, MOVE)
        return [mine.copy() if r == self.rank else part.view(mine.dtype).reshape(-1, *mine.shape[1:])
                for r, part in enumerate(found)]

    def alltoall(self, parts: Sequence[Array], *, name: str) -> list[Array]:
        found = self._swap(parts, name, MOVE)
        return [parts[r].copy() if r == self.rank else part.view(parts[0].dtype) for r, part in enumerate(found)]

    def allreduce(self, data: Array, *, op: Op = "sum", name: str, out: Array | None = None) -> Array:
        mine = np.ascontiguousarray(data)
        if op != "sum":
            table = self.vote(mine, name=name)
            return _FOLD[op].reduce(table, axis=0, out=out)
        way = "doubling" if mine.nbytes <= SHORT_BYTES else "ring"
        return dense.allreduce(self, mine, route=way, name=name, checked=True, out=out)  # type: ignore[arg-type]

    def bcast(self, value: Any, *, root: int = 0, name: str) -> Any:
        """Down a binomial tree from `root`."""
        me, bit = (self.rank - root) % self.size, 1
        data = np.frombuffer(pickle.dumps(value), np.uint8) if me == 0 else np.empty(0, np.uint8)
        while bit < self.size and not me & bit:
            bit *= 2
        if me:
            data = self.take((self.rank - bit) % self.size, name=name, tag=TALK)
        going = []
        bit = bit // 2 if me else 1 << ((self.size - 1).bit_length() - 1) if self.size > 1 else 0
        while bit:
            if me + bit < self.size:
                going.append(self.send(data, (self.rank + bit) % self.size, name=name, tag=TALK))
            bit //= 2
        for one in going:
            one.wait()
        return pickle.loads(data.tobytes())

    def gather(self, value: Any, *, root: int = 0, name: str) -> list[Any] | None:
        if self.rank != root:
            self.send(np.frombuffer(pickle.dumps(value), np.uint8), root, name=name, tag=TALK).wait()
            return None
        return [value if r == root else pickle.loads(self.take(r, name=name, tag=TALK).tobytes()) for r in range(self.size)]

    def barrier(self, *, name: str) -> None:
        self.vote(np.zeros(1, np.uint8), name=name)
