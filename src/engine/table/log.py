"""The log of a table: what changed in a rank's rows, clock by clock, in a journal of store/journal.

    append() -> version       the rows changed since the last append, whole, each with its version; `Table.clock` calls it
    since(version) -> rows    what was appended after it, in order; migration reads its rounds from here
    compact()                 all rows anew, then forgets what was before; done by itself when the journal is twice the rows

In memory, or in a folder, where it outlives the process: a table that is opened again over the same folder, on any number of
ranks, has every row as of the last clock of the rank that owned it; or survivors take the rows of a rank that died over
(`table.migrate.take_over` with `lost`). Records carry rows as they are after a change, so replaying one twice is the same as
once, and of two the higher version is right. A page cache survives a process; `sync` makes an append survive the machine.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.errors import StoreError
from engine.store.journal import Durable, Journal, Memory
from engine.store.record import Change, Record
from engine.store.table import Rows, Table
from engine.types import Array

SET = 1  # of dirty bits
ROWS = 1 << 13  # of a record
FIELDS = ("keys", "versions", "clocks", "values")
LIMIT_BYTES = 1 << 40  # compacted here, never cut off by the journal


class Log:
    """The log of a rank's own rows; `begin` starts it."""

    def __init__(self, table: Table, journal: Journal) -> None:
        self.table, self.journal = table, journal
        self._whole_bytes = 0  # of all rows when they were last written
        self._bytes = 0

    @property
    def version(self) -> int:
        return self.journal.version

    def begin(self) -> None:
        """Notes changes from now on; what is there already is the first of them."""
        self.table.watch(SET)
        self.table.log = self.append
        self.compact()

    def append(self) -> int:
        """Appends the rows changed since the last time; the version of the journal after."""
        for rows in self.table.rows(dirty=SET, batch_rows=ROWS):
            self._bytes += self._put(rows)
        if self._bytes > 2 * self._whole_bytes + (1 << 20):
            self.compact()
        return self.journal.version

    def since(self, version: int) -> Iterator[Rows]:
        """Rows appended after a version, in order; StoreError where older ones were forgotten."""
        return unpacked(self.journal, version)

    def compact(self) -> None:
        """Appends all rows, then forgets what was before."""
        before, self._whole_bytes = self.journal.version, 0
        for rows in self.table.rows(batch_rows=ROWS):
            self._whole_bytes += self._put(rows)
        self._bytes = 0
        if self.journal.version > before:
            self.journal.compact(before)

    def _put(self, rows: Rows) -> int:
        changes = tuple(Change(name, None, part, len(part)) for name, part in zip(FIELDS, rows, strict=True))
        version = self.journal.version
        return self.journal.append(Record(version + 1, version, changes, {"width": self.table.width}, shard=self.table.rank,
                                          shards=self.table.ranks))

    def close(self) -> None:
        self.table.log = None
        self.journal.close()


def unpacked(journal: Journal, version: int) -> Iterator[Rows]:
    """The rows of a journal after a version."""
    for record in journal.since(version):
        yield Rows(*(change.data for change in record.changes))


def place(folder: Path | str, rank: int) -> Path:
    """Where the log of a rank is."""
    return Path(folder) / f"rank-{rank:06d}"


def rows_of(folder: Path | str, rank: int, *, width: int) -> Iterator[Rows]:
    """What the log of a rank holds, for who takes its slots over. A last record that was being written is left out."""
    journal = Durable(place(folder, rank), read_only=True)
    try:
        for record in journal.since(journal.first):
            if record.meta["width"] != width:
                raise StoreError(f"table log: expected rows of {width} floats, found {record.meta['width']}",
                                 where=str(place(folder, rank)), fix="open the table with the width it was made with")
            yield Rows(*(np.array(change.data) for change in record.changes))
    finally:
        journal.close()


def lost(table: Table, folder: Path | str, slots: Array) -> Iterator[Rows]:
    """Rows of lost slots from every log in `folder`, for `table.migrate.take_over`: what moved to a rank that died before its
    next clock is in the log of the rank it came from."""
    wanted = np.zeros(table.ledger.room, bool)
    wanted[slots] = True
    for path in sorted(Path(folder).glob("rank-*")):
        for rows in rows_of(folder, int(path.name.removeprefix("rank-")), width=table.width):
            mine = wanted[table.ledger.slots(rows.keys)]
            if mine.any():
                yield Rows(*(field[mine] for field in rows))


def restore(table: Table, folder: Path | str) -> int:
    """Rows of every log in `folder` that falls to this rank (log r to rank r mod ranks) go to the owners of their keys, who
    keep the newest; returns how many were read. All ranks are to call it, before any of them begins a log of its own."""
    count = 0
    for path in sorted(Path(folder).glob("rank-*")):
        rank = int(path.name.removeprefix("rank-"))
        if rank % table.ranks != table.rank:
            continue
        for rows in rows_of(folder, rank, width=table.width):
            owners, count = table.ledger.route(rows.keys), count + len(rows.keys)
            for owner in np.unique(owners).tolist():
                mine = owners == owner
                table.put(owner, Rows(*(field[mine] for field in rows)))
    return count


def opened(table: Table, folder: Path | str | None, *, sync: bool = False) -> Log:
    """A log in memory, or in the rank's part of `folder`, after what it held."""
    if folder is None:
        return Log(table, Memory(limit_bytes=LIMIT_BYTES))
    size = min(1 << 26, max(1 << 20, table.buckets * (16 + 4 * table.width) // 64))  # files are forgotten whole
    return Log(table, Durable(place(folder, table.rank), sync=sync, segment_bytes=size, limit_bytes=LIMIT_BYTES))
