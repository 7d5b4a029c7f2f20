"""Rounds as messages: what a rank tells of a round (its ticket), its update, and an error, to one peer or to all."""
from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.types import Array, Link, Transfer, Update

LAST = -1  # number of the letter that ends a series
HEAD = 8  # int64: number, keys or -1, rows, width, bytes of a value, tickets, bytes of the error, bytes of the extra


@dataclass(slots=True)
class Letter:
    """One round of one rank. `ticket` float64: figures the mode defines; `extra`: further bytes of the mode."""

    number: int
    ticket: Array
    update: Update | None
    error: BaseException | None = None
    extra: Any = None


def close(letter: Letter) -> Array:
    """The letter as uint8."""
    update, error = letter.update, pickle.dumps(letter.error) if letter.error else b""
    extra = pickle.dumps(letter.extra, protocol=5) if letter.extra is not None else b""
    keys = update.keys if update is not None and update.keys is not None else np.empty(0, np.uint32)
    values = np.ascontiguousarray(update.values) if update is not None else np.empty((0, 1), np.float32)
    kind = -2 if update is None else -1 if update.keys is None else len(keys)
    head = np.array([letter.number, kind, *values.shape, values.itemsize, len(letter.ticket), len(error), len(extra)], np.int64)
    ticket = np.append(np.asarray(letter.ticket, np.float64), 0.0 if update is None else update.weight)
    parts = [head, ticket, values, np.ascontiguousarray(keys, np.uint32)]
    raw = [p.reshape(-1).view(np.uint8) for p in parts if p.size]
    return np.concatenate([*raw, np.frombuffer(error + extra, np.uint8)])


def open_(data: Array) -> Letter:
    """Inverse of `close`."""
    number, kind, rows, width, item, tickets, error, extra = data[: 8 * HEAD].view(np.int64).tolist()
    at = 8 * HEAD
    ticket = data[at : at + 8 * (tickets + 1)].view(np.float64)
    at += 8 * (tickets + 1)
    size = rows * width * item
    values = data[at : at + size].view(np.float32 if item == 4 else np.float64).reshape(rows, width)
    at += size
    keys = data[at : at + 4 * max(0, kind)].view(np.uint32)
    at += 4 * max(0, kind)
    update = None if kind == -2 else Update(None if kind == -1 else keys, values, float(ticket[-1]))
    raised = pickle.loads(data[at : at + error].tobytes()) if error else None
    more = pickle.loads(data[at + error : at + error + extra].tobytes()) if extra else None
    return Letter(number, ticket[:-1], update, raised, more)


class Post:
    """Letters between ranks under one tag. What was sent is held until it has gone."""

    def __init__(self, link: Link, tag: int, name: str) -> None:
        self.link, self.tag, self.name = link, tag, name
        self.others = [r for r in range(link.size) if r != link.rank]
        self._going: dict[int, list[tuple[Transfer, Array]]] = {r: [] for r in self.others}
        self.ended: set[int] = set()  # ranks whose letter LAST has come

    def send(self, letter: Letter, to: int) -> None:
        self.put(close(letter), to)

    def put(self, data: Array, to: int) -> None:
        self._going[to].append((self.link.send(data, to, name=self.name, tag=self.tag), data))

    def broadcast(self, letter: Letter) -> None:
        """To every other rank, the next in rank first, so that not all begin with rank 0."""
        data = close(letter)
        for rank in self.others[self.link.rank :] + self.others[: self.link.rank]:
            self.put(data, rank)

    def waiting(self, to: int) -> int:
        """Letters to `to` that have not gone yet; they go in order, so a look at the first tells of all."""
        going = self._going[to]
        while going and going[0][0].test():
            going.pop(0)
        return len(going)

    def arrived(self) -> list[tuple[int, Letter]]:
        """All that can be received now, with its sender. One look tells of all ranks: a look may give the core away."""
        found = []
        while (seen := self.link.probe(tag=self.tag)) is not None:
            found.append((seen[0], self.take(seen[0])))
        return found

    def until_last(self) -> Iterator[tuple[int, Letter]]:
        """Every other rank's letters up to its LAST, which counts again from here."""
        for rank in self.others:
            while rank not in self.ended:
                yield rank, self.take(rank)
        self.ended.clear()

    def take(self, source: int, name: str = "") -> Letter:
        """The next letter of `source`; waits for it by the deadline of the Link."""
        letter = open_(self.link.take(source, name=name or self.name, tag=self.tag))
        if letter.number == LAST:
            self.ended.add(source)
        return letter

    def finish(self) -> None:
        """Until all that was sent has gone."""
        for rank in self.others:
            for transfer, _ in self._going[rank]:
                transfer.wait()
            self._going[rank] = []
