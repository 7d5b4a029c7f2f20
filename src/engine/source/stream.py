"""One global order of rows over many ranks: pieces are read where they lie, rows go to the rank that learns them.

The global order is the order of the pieces and of the rows in them. A window of `size * k` consecutive rows is one
step of the whole job; `take(k)` gives this rank's rows of the next window. Two ways, one interface:

- dealt: pieces are read a wave at a time (consecutive pieces with distinct readers), rows move to the owner the rule
  names. Position = the piece and row of the first row of the next window.
- in place (rule `part`, or a source whose pieces are blocks of k rows, so that dealing them moves nothing): each rank
  reads its own pieces; a window is k rows of each rank. Position = piece and row of every rank.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from engine.types import Array, Batch, Cursor, Link, Source, join

Owner = Callable[[Batch], Array]
Vote = Callable[..., Array]
NO_LABEL = np.float32(np.nan)


class Wire(Protocol):
    """How rows change rank (collective): `parts[rank]` are the rows for each, what comes is what the others sent here."""

    def move(self, link: Link, parts: Sequence[Batch | None], name: str) -> list[Batch]: ...


class Plain:
    """Rows as they are (`pack`)."""

    def move(self, link: Link, parts: Sequence[Batch | None], name: str) -> list[Batch]:
        none = np.empty(0, np.uint8)
        out = [pack(part) if part is not None and len(part) else none for part in parts]
        return [unpack(data) for data in link.alltoall(out, name=name) if len(data)]


class Position:
    """Where a stream stands, named by piece: restarts on any number of ranks.

    `cursors`: pieces begun or skipped, in order; `rest`: every piece from here on is untouched; `order`: rows of the
    global order behind us; `label`: the last label seen (for the no-change baseline).
    """

    def __init__(self, cursors: Sequence[Cursor] = (), rest: int = 0, order: int = 0, label: float = np.nan,
                 live: dict[str, Any] | None = None) -> None:
        self.cursors, self.rest, self.order, self.label = list(cursors), rest, order, label
        self.live = live or {}

    def dump(self) -> dict[str, Any]:
        rows = [[c.piece, c.row, c.order, int(c.done)] for c in self.cursors]
        live = {"live": self.live} if self.live else {}
        return {"cursors": rows, "rest": self.rest, "order": self.order, "label": float(self.label), **live}

    @classmethod
    def parse(cls, dump: dict[str, Any]) -> Position:
        cursors = [Cursor(piece, row, order, bool(done)) for piece, row, order, done in dump["cursors"]]
        return cls(cursors, dump["rest"], dump["order"], dump["label"], dump.get("live"))


class Dealt:
    """Rows in global order, moved to the rank `owner(batch)` names; `vote` is `comm.sync.vote`."""

    def __init__(self, source: Source, link: Link, owner: Owner, vote: Vote, position: Position | None = None) -> None:
        self._source, self._link, self._owner, self._vote = source, link, owner, vote
        self._parts = link.size  # shares of `k` rows in a window
        at = position or Position()
        cursor = at.cursors[0] if at.cursors else Cursor(at.rest, 0)
        self._next, self._skip = cursor.piece, cursor.row
        self._read = self.order = at.order
        self._label = at.label
        self._mine: deque[Batch] = deque()
        self._pieces: deque[tuple[Cursor, int, float]] = deque()  # where its rows begin, how many, label before them
        self._ended = False
        self._open: Iterator[Batch] | None = None
        self.wire: Wire = Plain()

    def take(self, k: int) -> Batch | None:
        """This rank's rows (perhaps none) of the next `size * k` rows of the job; None after the last, on all ranks."""
        end = self.order + k * self._parts
        while self._read < end and not self._ended:
            self._wave()
        end = min(end, self._read)
        if end == self.order:
            return None
        self.order = end
        while len(self._pieces) > 1 and self._pieces[1][0].order <= end:
            self._pieces.popleft()
        return self._cut(end)

    @property
    def position(self) -> Position:
        """Of the first row not yet taken."""
        for at, count, label in self._pieces:
            done = self.order - at.order
            if 0 <= done < count:
                begun = Cursor(at.piece, at.row + done, self.order)
                return Position([begun], at.piece + 1, self.order, np.nan if done else label)
        return Position([Cursor(self._next, self._skip, self._read)], self._next + 1, self._read, self._label)

    def _cut(self, end: int) -> Batch:
        taken = []
        while self._mine:
            head = self._mine[0]
            n = int(np.searchsorted(head.order, end))
            if n == len(head):
                taken.append(self._mine.popleft())
                continue
            if n:
                taken.append(head.slice(0, n))
                self._mine[0] = head.slice(n, len(head))
            break
        return join(taken) if taken else empty(self._source)

    def _wave(self) -> None:
        """Reads the next pieces that different ranks can read at once, numbers their rows, moves them to the owners."""
        link, first = self._link, self._next
        readers = self._readers(first)
        rows, error, finished = None, None, True
        if link.rank in readers:
            mine = readers.index(link.rank)
            try:
                if self._endless(first):
                    rows, finished = self._portion(first)
                else:
                    rows = gathered(self._source.read(first + mine, self._skip if mine == 0 else 0))
            except Exception as caught:
                error = caught
        count = 0 if rows is None else len(rows)
        last = float(rows.y[-1]) if rows is not None and count else np.nan
        known = -1 if self._source.pieces is None else self._source.pieces
        table = self._vote(link, [count, last, known, finished], error, name="read pieces")
        self._enter(table, readers, rows)

    def _readers(self, first: int) -> list[int]:
        """Ranks that read pieces first, first + 1, … in this wave; a piece of unknown length is read alone."""
        total = self._source.pieces
        if total is not None and first >= total:
            return []
        readers = [self._source.reader(first, self._link.size)]
        while (len(readers) < self._link.size and not self._endless(first + len(readers) - 1)
               and (total is None or first + len(readers) < total) and not self._endless(first + len(readers))):
            reader = self._source.reader(first + len(readers), self._link.size)
            if reader in readers:
                break
            readers.append(reader)
        return readers

    def _endless(self, piece: int) -> bool:
        """True for a pipe or a compressed file: its length is known only at its end, so it is taken in portions."""
        return getattr(self._source, "streamed", lambda piece: False)(piece)

    def _portion(self, piece: int) -> tuple[Batch | None, bool]:
        if self._open is None:
            self._open = iter(self._source.read(piece, self._skip))
        rows = next(self._open, None)
        if rows is None:
            self._open = None
        return rows, rows is None

    def _enter(self, table: Array, readers: list[int], rows: Batch | None) -> None:
        link, base, label = self._link, self._read, self._label
        for place, reader in enumerate(readers):
            count, skip = int(table[reader, 0]), self._skip if place == 0 else 0
            if reader == link.rank and rows is not None and count:
                rows.order = rows.order - rows.order[0] + base
                if np.isnan(rows.previous[0]):
                    rows.previous = rows.previous.copy()
                    rows.previous[0] = label
            if count:
                self._pieces.append((Cursor(self._next + place, skip, base), count, label))
                label = float(table[reader, 1])
            base += count
        self._label = label
        if readers and table[readers[0], 3]:
            self._next += len(readers)
            self._skip = 0
        else:
            self._skip += base - self._read
        self._read = base
        known = int(table[:, 2].max())
        self._ended = known >= 0 and self._next >= known
        self._mine.extend(self._move(rows))

    def _move(self, rows: Batch | None) -> list[Batch]:
        link = self._link
        if link.size == 1:
            return [rows] if rows is not None and len(rows) else []
        parts, error = list[Batch | None]([None] * link.size), None
        if rows is not None and len(rows):
            try:
                parts = self._cuts(rows)
            except Exception as caught:  # before anything moves, on every rank
                error = caught
        self._vote(link, [], error, name="rows to owners")
        found = self.wire.move(link, parts, "rows to owners")
        return sorted(found, key=lambda batch: int(batch.order[0]))

    def _cuts(self, rows: Batch) -> list[Batch | None]:
        """What goes to each rank."""
        return parted(rows, self._owner(rows), self._link.size)


class Spread(Dealt):
    """Every rank is sent what `share(rows, rank)` says: the same rows with some of their keys or columns, or none.

    A window has `parts` shares of `k` rows (0: one for each rank).
    """

    def __init__(self, source: Source, link: Link, share: Callable[[Batch, int], Batch], vote: Vote,
                 position: Position | None = None, parts: int = 0) -> None:
        super().__init__(source, link, lambda rows: rows.order, vote, position)
        self._share, self._parts = share, parts or link.size

    def _cuts(self, rows: Batch) -> list[Batch | None]:
        return [self._share(rows, rank) for rank in range(self._link.size)]


class Placed:
    """Rows learned where they are read. `grid`: pieces are k-row blocks, so piece and row give the global order."""

    def __init__(self, source: Source, link: Link, *, grid: int = 0, position: Position | None = None) -> None:
        self._source, self._link, self._grid = source, link, grid
        at = position or Position()
        self.order, self._label = at.order, at.label
        self._todo = deque(c for c in at.cursors if not c.done and c.piece % link.size == link.rank)
        rest, self._stride = at.rest, link.size
        self._nexts = [rest + (link.rank - rest) % link.size]  # a series of pieces each: mine, and those of ranks that died
        self._rows: deque[tuple[int, int, Batch]] = deque()

    def take(self, k: int) -> Batch | None:
        """This rank's next rows, up to k; None where it has none left (the loop's vote ends the run for all)."""
        taken, need = [], k
        while need:
            head = self._head()
            if head is None:
                break
            piece, row, batch = head
            n = min(need, len(batch))
            taken.append(self._numbered(batch.slice(0, n), piece, row, k - need))
            need -= n
            self._rows.popleft()
            if n < len(batch):
                self._rows.appendleft((piece, row + n, batch.slice(n, len(batch))))
        if not taken:
            return None
        batch = join(taken)
        gaps = np.flatnonzero(np.isnan(batch.previous[1:])) + 1
        batch.previous = batch.previous.copy()
        batch.previous[gaps] = batch.y[gaps - 1]
        return batch

    def _numbered(self, batch: Batch, piece: int, row: int, before: int) -> Batch:
        start = piece * self._grid + row if self._grid else self.order + before
        batch.order = np.arange(start, start + len(batch))
        return batch

    def _head(self) -> tuple[int, int, Batch] | None:
        """The next rows to learn as (piece, row of the piece, rows)."""
        while not self._rows:
            if self._todo:
                piece, skip = self._todo[0].piece, self._todo.popleft().row
            elif self._source.pieces is None or min(self._nexts) < self._source.pieces:
                piece, skip = min(self._nexts), 0
                self._nexts[self._nexts.index(piece)] += self._stride
            else:
                return None
            for batch in self._source.read(piece, skip):
                if len(batch):
                    self._rows.append((piece, skip, batch))
                    skip += len(batch)
            if not self._rows and self._source.pieces is None:
                return None
        return self._rows[0]

    @property
    def left(self) -> bool:
        """Whether this rank may still find rows."""
        return bool(self._rows or self._todo) or self._source.pieces is None or min(self._nexts) < self._source.pieces

    def mark(self) -> list[list[int]]:
        """This rank's share of the position: begun pieces as [piece, row], then [-1, next untouched piece] a series."""
        begun = [[piece, row] for piece, row, _ in list(self._rows)[:1]]
        return [*begun, *([c.piece, c.row] for c in self._todo), *([-1, n] for n in self._nexts)]

    def adopt(self, mark: Sequence[Sequence[int]]) -> None:
        """Takes over the rest of the rows of a rank that stood at `mark`."""
        self._todo.extend(Cursor(piece, row) for piece, row in mark if piece >= 0)
        self._nexts += [n for piece, n in mark if piece < 0]


def merged(marks: Sequence[list[list[int]]], order: int, label: float) -> Position:
    """The position of the job from every rank's `Placed.mark`."""
    nexts = [n for mark in marks for piece, n in mark if piece < 0]
    rest, size = max(nexts), len(nexts)
    cursors = [Cursor(piece, row) for mark in marks for piece, row in mark if piece >= 0]
    cursors += [Cursor(piece, 0) for start in nexts for piece in range(start, rest, size)]
    return Position(sorted(cursors, key=lambda c: c.piece), rest, order, label)


def parted(rows: Batch, owner: Array, size: int) -> list[Batch | None]:
    """The rows of each owner, in their order; `owner` (n,) below `size`."""
    order = np.argsort(owner, kind="stable")
    cuts = np.searchsorted(owner[order], np.arange(size + 1))
    return [rows.take(order[a:b]) if b > a else None for a, b in pairwise(cuts)]


def gathered(batches: Any) -> Batch | None:
    """All batches of a piece as one, or None where it has no rows."""
    found = [batch for batch in batches if len(batch)]
    return join(found) if found else None


def empty(source: Source) -> Batch:
    """A batch of no rows in the source's shape."""
    none, order = np.empty(0, np.float32), np.empty(0, np.int64)
    if source.schema.sparse:
        return Batch(none, order, none, indptr=np.zeros(1, np.int64), keys=np.empty(0, np.uint32), values=none)
    return Batch(none, order, none, x=np.empty((0, source.schema.width), np.float32))


_FIELDS = ("y", "order", "previous", "weight", "x", "indptr", "keys", "values", "time", "id")
_DTYPES = (np.float32, np.int64, np.float32, np.float32, np.float32, np.int64, np.uint32, np.float32, np.int64, np.uint64)


def pack(batch: Batch) -> Array:
    """A row block as bytes: a length a field (-1 = absent) as int64, then the arrays, each padded to 8 bytes."""
    arrays = [getattr(batch, name) for name in _FIELDS]
    sizes = np.array([-1 if a is None else a.size for a in arrays], np.int64)
    parts = [sizes.view(np.uint8)]
    for array in arrays:
        if array is not None:
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            parts += [raw, np.zeros(-len(raw) % 8, np.uint8)]
    return np.concatenate(parts)


def unpack(data: Array) -> Batch:
    """Inverse of `pack`."""
    at = 8 * len(_FIELDS)
    sizes = data[:at].view(np.int64)
    fields: dict[str, Array | None] = {}
    for name, dtype, size in zip(_FIELDS, _DTYPES, sizes.tolist(), strict=True):
        fields[name] = None
        if size >= 0:
            nbytes = size * np.dtype(dtype).itemsize
            fields[name] = data[at : at + nbytes].view(dtype)
            at += nbytes + -nbytes % 8
    x, y = fields["x"], fields["y"]
    if x is not None and y is not None:
        fields["x"] = x.reshape(len(y), -1)
    return Batch(**fields)  # type: ignore[arg-type]
