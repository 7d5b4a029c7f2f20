"""Consistency of a table, chosen for each and switched at a clock boundary. What a reader may see:

    plain        each row as it stands (linearizable a row); rows of one read may be of different moments
    optimistic   the rows of a transaction are of one moment, or it is tried again: it commits only if none of the rows it
                 read has changed. Rows of one owner: one step at the owner. Of several (`wide`): under the slots' locks,
                 checked, written, released
    pessimistic  rows are locked first, in one order for all, first come first served; a lock is leased, so that a holder who
                 dies does not keep it: past the lease, or after the membership's epoch changed, it is passed over. A migration
                 queues for the locks of its slots as anybody does: none is held while its slot changes hands, and who waited
                 is sent to the new owner
    replicated   an acknowledged update is at the owner and at its backups: all (sync), one (semi) or none yet (async);
                 reads go to the owner
    Copies       hot rows read here, at most `staleness` clocks old, and written once a clock

Mixing `table.inc` with transactions is safe for one owner (the version tells); with `wide` write through the guard alone.
"""
from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

from engine.errors import ConfigError, PeerError, ShardError
from engine.types import Array

MODES = ("plain", "optimistic", "pessimistic", "replicated")
OK, MOVED, BUSY, FULL, CONFLICT, WAITING, BROKEN = range(7)
TRIES = 1000
Change = Callable[[Array], Array]


def retry(attempt: int) -> None:
    """Back-off before the next try: random, longer each time, to 1 ms."""
    if attempt > 2:
        time.sleep(random.random() * min(1e-3, 1e-6 * 2**attempt))


class Optimistic:
    """Transactions that read, compute and commit if nothing they read has changed."""

    def __init__(self, table: Any, *, wide: bool = False, lease_s: float = 5.0) -> None:
        self.table, self.wide, self.retries = table, wide, 0
        self._locks = Pessimistic(table, lease_s=lease_s) if wide else None

    def update(self, keys: Array, change: Change) -> Array:
        """rows <- change(rows) in one step; `change` may be called several times. Returns the rows written."""
        keys = np.unique(np.asarray(keys, np.uint64))
        versions = np.empty(len(keys), np.uint32)
        for attempt in range(TRIES):
            if self._locks is not None:
                with self._locks.held(keys) as lock:
                    return lock.update(change)
            rows = self.table.get(keys, versions=versions)
            made = np.asarray(change(rows.copy()), np.float32)
            try:
                if self.table.commit(keys, versions, made) is None:
                    return made
            except ShardError:
                if len(np.unique(self.table.ledger.route(keys))) > 1:
                    raise
            self.retries += 1
            retry(attempt)
        raise PeerError(f"a transaction over {len(keys)} rows was overtaken {TRIES} times",
                        fix="use mode pessimistic for hot rows")


class Lock:
    """Held tickets of the slots of some keys."""

    def __init__(self, owner: Pessimistic, keys: Array, tickets: list[tuple[int, int, int]]) -> None:
        self.owner, self.keys, self.tickets = owner, keys, tickets

    def check(self) -> None:
        """PeerError where a lease ran out or a slot changed hands: what was to be written must not be."""
        for rank, slot, ticket in self.tickets:
            if self.owner._turn(rank, slot, ticket) != OK:
                raise PeerError(f"the lock of slot {slot} at rank {rank} was passed on: its lease ran out",
                                fix="hold locks for less than the lease, or raise it")
        if (self.owner.table.ledger.owner[[slot for _, slot, _ in self.tickets]] != [rank for rank, *_ in self.tickets]).any():
            raise PeerError("a slot moved while it was locked", fix="try again")

    def update(self, change: Change) -> Array:
        """rows <- change(rows), owner by owner, every version as read; under the lock nobody else writes."""
        table = self.owner.table
        versions = np.empty(len(self.keys), np.uint32)
        rows = np.asarray(change(table.get(self.keys, versions=versions)), np.float32)
        self.check()
        owners = table.ledger.route(self.keys)
        for rank in np.unique(owners).tolist():
            part = owners == rank
            if table.commit(self.keys[part], versions[part], rows[part]) is not None:
                raise ShardError("a row was written past its lock", where=f"rank {rank}",
                                 fix="write rows of this table through its guard alone")
        return rows


class Pessimistic:
    """Locks of slots: tickets in order of asking, leased for `lease_s`, void when `epoch` (of the membership) moves on."""

    def __init__(self, table: Any, *, lease_s: float = 5.0, epoch: int = 0) -> None:
        self.table, self.lease_s, self.epoch, self.breaks = table, lease_s, epoch, 0

    @contextmanager
    def held(self, keys: Array) -> Generator[Lock]:
        """The locks of all slots of the keys, taken in slot order."""
        keys = np.unique(np.asarray(keys, np.uint64))
        tickets: list[tuple[int, int, int]] = []
        try:
            slots = np.unique(self.table.ledger.slots(keys)).tolist()
            for slot in sorted(slots, key=lambda slot: (self._line(slot), slot)):  # one order for all, migrations too
                rank = int(self.table.ledger.owner[slot])
                if any(self._line(slot) == self._line(s) and r == rank for r, s, _ in tickets):
                    continue  # two slots of one lock line
                rank, ticket = self._take(slot)
                tickets.append((rank, slot, ticket))
            yield Lock(self, keys, tickets)
        finally:
            for rank, slot, ticket in reversed(tickets):
                self.breaks += self._release(rank, slot, ticket) != OK

    def update(self, keys: Array, change: Change) -> Array:
        """rows <- change(rows) under the locks."""
        with self.held(keys) as lock:
            return lock.update(change)

    @staticmethod
    def _line(slot: int) -> int:
        return slot % 1024

    def _take(self, slot: int) -> tuple[int, int]:
        """(owner, ticket) of the lock, held; asked for anew at the new owner where the slot moved while it was waited for."""
        until, attempt = time.monotonic() + self.table.timeout_s, 0
        while True:
            rank = int(self.table.ledger.owner[slot])
            near = self.table.near.get(rank)
            if near is not None:
                ticket = int(near.ticket(slot))
                status = self._turn(rank, slot, ticket)
            else:
                status, ticket = self._far(rank, slot, 0, take=True)
            while status == WAITING:
                if time.monotonic() > until:
                    raise PeerError(f"rank {self.table.rank} waited {self.table.timeout_s:g} s for the lock of slot {slot} "
                                    f"at rank {rank}")
                if not self.table.poll():
                    retry(attempt)
                    attempt += 1
                status = self._turn(rank, slot, ticket)
            if status == OK and int(self.table.ledger.owner[slot]) == rank:
                return rank, ticket
            if status == OK:
                self._release(rank, slot, ticket)

    def _turn(self, rank: int, slot: int, ticket: int) -> int:
        near = self.table.near.get(rank)
        if near is None:
            return self._far(rank, slot, ticket, take=False)[0]
        return int(near.turn(slot, ticket, self.epoch, time.monotonic_ns(), int(self.lease_s * 1e9)))

    def _far(self, rank: int, slot: int, ticket: int, *, take: bool) -> tuple[int, int]:
        parts = [np.array([slot, ticket], np.uint32), np.array([self.lease_s * 1e9], np.uint64)]
        reply = self.table.ask(rank, "lock", parts, 1, op=int(not take), epoch=self.epoch)
        if reply.status == MOVED:
            self.table.node.learn(np.ascontiguousarray(reply.body[4 : 4 + self.table.ledger.change.itemsize]))
        return reply.status, int(reply.body[:4].view(np.uint32)[0])

    def _release(self, rank: int, slot: int, ticket: int) -> int:
        near = self.table.near.get(rank)
        if near is not None:
            return int(near.release(slot, ticket))
        parts = [np.array([slot, ticket], np.uint32), np.zeros(1, np.uint64)]
        return int(self.table.ask(rank, "release", parts, 1).status)


def backups_of(node: Array, count: int) -> Array:
    """int32 `(ranks, count)`: for each rank the next ranks of other nodes, all of different nodes; -1 where there are none."""
    ranks = len(node)
    made = np.full((ranks, count), -1, np.int32)
    for rank in range(ranks):
        taken, at = {int(node[rank])}, 0
        for other in ((rank + step) % ranks for step in range(1, ranks)):
            if at < count and int(node[other]) not in taken:
                taken.add(int(node[other]))
                made[rank, at] = other
                at += 1
    return made


class Replicated:
    """Primary and backups. Copies are whole rows with their versions, taken where newer, so they may come in any order.

    `ack`: sync (all backups have it when `inc` returns), semi (the first has), async (they have it after `flush`).
    """

    def __init__(self, table: Any, *, ack: str = "sync") -> None:
        if ack not in ("sync", "semi", "async"):
            raise ConfigError(f"replicated: expected sync, semi or async, found {ack!r}")
        if not table.ledger.backups:
            raise ConfigError("replicated: the ledger keeps no backups", fix="set shard.backups to 1 or more")
        if hasattr(table, "flush"):
            raise ConfigError("replicated: copies are made when a write is at its owner, and this table combines adds",
                              fix="open it with combine=0")
        self.table, self.ack = table, ack
        self._late: dict[int, set[int]] = {}

    def protect(self, node: Array) -> Array:
        """Names the backups of every slot this rank owns, on distinct nodes; the changes to tell everybody."""
        ledger = self.table.ledger
        mine = ledger.owned(self.table.rank)
        return ledger.protect(mine, np.tile(backups_of(node, ledger.backups)[self.table.rank], (len(mine), 1)))

    def inc(self, keys: Array, items: Array, **rule: Any) -> Array:
        """As the table's; done when as many copies are made as `ack` says."""
        versions = self.table.inc(keys, items, **rule)
        keys = np.unique(np.asarray(keys, np.uint64))
        backup = self.table.ledger.backup[self.table.ledger.slots(keys)]
        for place in range(backup.shape[1]):
            for rank in np.unique(backup[:, place]).tolist():
                part = keys[backup[:, place] == rank]
                if rank < 0:
                    continue
                if self.ack == "sync" or (self.ack == "semi" and place == 0):
                    self._copy(rank, part)
                else:
                    self._late.setdefault(rank, set()).update(part.tolist())
        return versions

    def flush(self) -> int:
        """Makes the copies that are late; returns how many rows."""
        late, self._late = self._late, {}
        for rank, keys in late.items():
            self._copy(rank, np.fromiter(sorted(keys), np.uint64, len(keys)))
        return sum(map(len, late.values()))

    def _copy(self, rank: int, keys: Array) -> None:
        versions = np.empty(len(keys), np.uint32)
        values = self.table.get(keys, versions=versions)
        here = versions > 0
        clocks = np.full(int(here.sum()), self.table.now, np.uint32)
        self.table.put(rank, (keys[here], versions[here], clocks, values[here]))


class Copies:
    """Hot rows kept here: a read is at most `staleness` clocks old, writes are added up and sent once a clock.

    What this rank added since the last clock is in what it reads.
    """

    def __init__(self, table: Any, keys: Array, *, staleness: int = 1) -> None:
        self.table, self.staleness = table, staleness
        self.keys = np.unique(np.asarray(keys, np.uint64))
        self._rows = np.zeros((len(self.keys), table.width), np.float32)
        self._sum = np.zeros_like(self._rows)
        self._touched = np.zeros(len(self.keys), bool)
        self._fetched = -1 - staleness
        self.hits = self.misses = 0

    def _place(self, keys: Array) -> tuple[Array, Array]:
        at = np.minimum(np.searchsorted(self.keys, keys), max(0, len(self.keys) - 1))
        return at, self.keys[at] == keys if len(self.keys) else np.zeros(len(keys), bool)

    def get(self, keys: Array) -> Array:
        keys = np.asarray(keys, np.uint64)
        if self.table.now - self._fetched > self.staleness:
            self._rows = self.table.get(self.keys)
            self._fetched = self.table.now
        at, hot = self._place(keys)
        out = np.empty((len(keys), self.table.width), np.float32)
        out[hot] = self._rows[at[hot]] + self._sum[at[hot]]
        if not hot.all():
            out[~hot] = self.table.get(np.ascontiguousarray(keys[~hot]))
        self.hits += int(hot.sum())
        self.misses += int((~hot).sum())
        return out

    def inc(self, keys: Array, items: Array) -> None:
        """Adds; hot keys are sent with the next `clock`."""
        keys, items = np.asarray(keys, np.uint64), np.asarray(items, np.float32)
        at, hot = self._place(keys)
        np.add.at(self._sum, at[hot], items[hot])
        self._touched[at[hot]] = True
        if not hot.all():
            self.table.inc(np.ascontiguousarray(keys[~hot]), items[~hot])

    def clock(self) -> int:
        """Sends what was added up, then counts the clock."""
        if self._touched.any():
            sent = self._sum[self._touched]
            self.table.inc(self.keys[self._touched], sent)
            self._rows[self._touched] += sent
            self._sum[:], self._touched[:] = 0, False
        return int(self.table.clock())


class Guard:
    """A table's mode, and the switch to another. `switch` is collective: every rank calls it at the same clock."""

    def __init__(self, table: Any, mode: str = "plain", **options: Any) -> None:
        self.table, self.mode = table, "plain"
        self.way: Any = table
        self._set(mode, options)

    def _set(self, mode: str, options: dict[str, Any]) -> None:
        if mode not in MODES:
            raise ConfigError(f"consistency: expected one of {', '.join(MODES)}, found {mode!r}")
        kinds: dict[str, Any] = {"optimistic": Optimistic, "pessimistic": Pessimistic, "replicated": Replicated}
        self.way = kinds[mode](self.table, **options) if mode in kinds else self.table
        self.mode = mode

    def switch(self, mode: str, **options: Any) -> int:
        """Finishes what the old mode has under way, waits until every rank is at this clock, goes on in the new one."""
        if isinstance(self.way, Replicated):
            self.way.flush()
        at = int(self.table.clock())
        self.table.wait(0)
        self._set(mode, options)
        return at
