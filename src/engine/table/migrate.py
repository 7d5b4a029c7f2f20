"""Carries a migration out: each action of shard/move.py against the table, one at a time, so that other work goes on between.

`steps(...)` is a generator: it does one bounded piece of work (at most a block of rows) each time it is advanced, and
returns the final state. The gate is never closed across a `yield`.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np

from engine.codec.call import CONFLICT, OK, STATUS, encode_call
from engine.errors import PeerError, ShardError, StoreError
from engine.kernels import _native
from engine.shard import move
from engine.store.table import Rows
from engine.table.parcel import Parcels
from engine.table.shards import Store
from engine.types import Array

LOCKS, HOLD_NS = 1024, 60 * 10**9  # lock lines of a slab; lease of a migration, whose end gives the locks back
OK_TURN, WAITING_TURN = STATUS.index("ok"), STATUS.index("waiting")
PROMISE_BYTES = (1 << 20) - 64
UNDER_WAY = 4  # frames that the target has not yet acknowledged: what it unpacks, what travels, what is packed


class Mover:
    """A migration of `slots` of this rank to `target`; `tell`: one rank of every node but this one and the target's."""

    def __init__(self, store: Store, slots: Array, target: int, *, tell: Iterable[int] = (), epoch: int = 0,
                 pack: bool | None = None) -> None:
        self.table, self.ledger, self.server = store.table, store.ledger, store.server
        self.slots, self.target, self.tell = np.unique(np.asarray(slots, np.int64)), target, sorted(set(tell))
        rank = self.table.rank
        astray = self.slots[self.ledger.owner[self.slots] != rank]
        if len(astray):
            owner = int(self.ledger.owner[astray[0]])
            raise ShardError(f"migrate: slot {int(astray[0])} is of rank {owner}, not of rank {rank}")
        if target == rank or not 0 <= target < self.table.ranks:
            raise ShardError(f"migrate: expected a target other than rank {rank} below {self.table.ranks}, found {target}")
        self.wanted = np.zeros(self.ledger.room, np.uint8)
        self.wanted[self.slots] = 1
        self.changes = self.ledger.entries(self.slots)
        self.changes["owner"], self.changes["state"] = target, 0
        self.changes["epoch"] = (self.changes["epoch"] | 1) + 1
        self.frozen_s, self.closed = 0.0, False
        self.crc: int | None = None
        self.parcels, self.log, self._read = Parcels(self.table, target, 0), store.log, 0
        self._pack, self.epoch = pack, epoch
        self._tickets: list[tuple[int, int]] = []
        self.began_s = 0.0

    def steps(self, **options: float) -> Generator[str, None, move.Move]:
        """Advances one piece of work a time; yields the phase it is in."""
        try:
            return (yield from self._steps(**options))
        finally:
            self._release()

    def _steps(self, **options: float) -> Generator[str, None, move.Move]:
        state, actions = move.begin(self.table.rank, self.target, tuple(self.slots.tolist()), **options)
        while actions:
            action, *rest = actions
            event = yield from self._carried(action)
            actions = rest
            if event is not None:
                state, more = move.step(state, event)
                actions = [*more, *rest]
            if state.tries > 50:
                raise PeerError(f"rank {self.target} does not say whether it took the slots: {state.why or 'no answer'}",
                                where=f"migration of {len(self.slots)} slots", fix="recover the slots from survivors")
            if not self.closed:
                yield state.phase
        return state

    def run(self, **options: float) -> move.Move:
        """All of it."""
        steps = self.steps(**options)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def _carried(self, action: move.Action) -> Generator[str, None, move.Event | None]:
        try:
            match action:
                case move.Reserve():
                    rows = self._count()
                    self.parcels = Parcels(self.table, self.target, rows, pack=self._pack)
                    return move.Reserved(self.table.free_rows(self.target), rows)
                case move.Copy():
                    self._promise()
                    if self.log is None:
                        self.table.watch(0)
                    else:
                        self._read = self.log.append()
                    sent = yield from self._sent(-1)
                    self.parcels.again()
                    return sent
                case move.Catch():
                    yield from self._locked()
                    return (yield from self._sent(0))
                case move.Freeze():
                    return self._freeze()
                case move.Flip():
                    return move.Flipped(self._flip())
                case move.Open(moved=moved):
                    self._open(moved)
                case move.Tell():
                    self._tell()
                    return move.Heard()
                case move.Drop(at_target=at_target):
                    self._drop(at_target)
        except (PeerError, StoreError) as error:
            return move.Refused(error.message, dead=isinstance(error, PeerError) and "is dead" in error.message)
        return None

    def _locked(self) -> Generator[str, None, None]:
        """Takes the locks of the moving slots, in the order in which all do, so that nobody holds one across the flip."""
        slab = self.table.slab
        for line in np.unique(self.slots % LOCKS).tolist()[len(self._tickets) :]:
            ticket = int(slab.ticket(line))
            while (turn := slab.turn(line, ticket, self.epoch, time.monotonic_ns(), HOLD_NS)) == WAITING_TURN:
                if not self.table.poll():
                    time.sleep(1e-4)
                yield "catchup"
            self._tickets.append((line, ticket if turn == OK_TURN else -1))  # broken: of a membership that is over

    def _release(self) -> None:
        for line, ticket in reversed(self._tickets):
            if ticket >= 0:
                self.table.slab.release(line, ticket)
        self._tickets.clear()

    def _count(self) -> int:
        """Rows that are to move."""
        return self.table.slab.count(self.table.node, self.wanted)

    def _sent(self, dirty: int) -> Generator[str, None, move.Event]:
        began, size = time.monotonic(), self.parcels.size_bytes
        waited = 0.0
        under_way: deque[Any] = deque()
        for rows in self._changed() if dirty >= 0 else self.table.rows(self.wanted, batch_rows=self.table.block_rows):
            under_way.append(self.parcels.begin(rows))
            if len(under_way) > UNDER_WAY:
                self.parcels.end(under_way.popleft())
            if dirty < 0:
                paused = time.monotonic()
                yield "copy"
                waited += time.monotonic() - paused
        while under_way:
            self.parcels.end(under_way.popleft())
        return move.Sent(self.parcels.size_bytes - size, time.monotonic() - began - waited)

    def _changed(self) -> Iterator[Rows]:
        """Moving rows changed since they were last sent: read from the table's log, where it keeps one."""
        if self.log is None:
            yield from self.table.rows(self.wanted, dirty=0, batch_rows=self.table.block_rows)
            return
        before, self._read = self._read, self.log.append()
        for rows in self.log.since(max(before, self.log.journal.first)):  # compacted meanwhile: all rows, from where it begins
            mine = self.wanted[self.ledger.slots(rows.keys)] != 0
            if mine.any():
                yield Rows(*(np.ascontiguousarray(field[mine]) for field in rows))

    def _freeze(self) -> move.Event:
        self.began_s = time.monotonic()
        self.closed = True
        self.table.slab.gate(True)
        self.table.quiet()
        size = self.parcels.size_bytes
        sent = []
        for rows in self._changed():
            sent.append(self.parcels.begin(rows))
        if self.target not in self.table.near or len(self.table.near) < self.table.ranks:
            recent = self._recent()
            sent_recent = self.table.post(self.target, *recent) if recent else None
        else:
            sent_recent = None
        for one in sent:
            self.parcels.end(one)
        if sent_recent is not None and sent_recent.replies()[0].status != OK:
            raise PeerError(f"rank {self.target} did not take the requests carried out of late")
        return move.Sent(self.parcels.size_bytes - size, time.monotonic() - self.began_s)

    def _recent(self) -> tuple[str, list[Array], int] | None:
        """Which requests this server has carried out, so that one sent again to the target is not carried out twice."""
        room = min(1 << 20, 64 + 144 * self.table.ranks)
        found = self.server.handle(encode_call("recent", client=self.table.rank), room)
        body = np.frombuffer(found, np.uint8)[64:]
        return ("recent", [body], int(np.frombuffer(found, np.uint32, 1, 12)[0])) if len(body) else None

    def _promise(self) -> None:
        """Tells the target the entries while writers still go on, so that the flip itself is a few bytes."""
        if self.ledger.change.itemsize * len(self.changes) <= PROMISE_BYTES:
            status = self._ask("promise", [self.changes.view(np.uint8)], len(self.changes)).status
            self.crc = _native.crc32c(self.changes.view(np.uint8)) if status == OK else None

    def _flip(self) -> bool:
        if self.crc is not None and self._ask("flip", [np.array([self.crc], np.uint32)], 0).status == OK:
            return True
        status = self._ask("flip", [self.changes.view(np.uint8)], len(self.changes)).status
        if status == OK:
            return True
        if status != CONFLICT:
            raise PeerError(f"rank {self.target} answered {status} to flip")
        return self._taken()

    def _taken(self) -> bool:
        """After a refused flip: whether an earlier one, whose answer was lost, had been taken."""
        reply = self._ask("ask", [self.slots[:40].astype(np.uint32)], min(40, len(self.slots)))
        found = reply.body[: reply.count * self.ledger.change.itemsize].view(self.ledger.change)
        return bool((found["owner"] == self.target).all() and (found["epoch"] >= self.changes["epoch"][: len(found)]).all())

    def _ask(self, kind: str, parts: list[Array], count: int) -> Any:
        return self.table.ask(self.target, kind, parts, count)

    def _open(self, moved: bool) -> None:
        if moved:
            self.table.node.learn(self.changes.view(np.uint8))
            self.table.slab.bump(2)
        self.table.slab.gate(False)
        self.closed = False
        self.frozen_s = time.monotonic() - self.began_s
        self._release()
        if self.log is None:
            self.table.watch(0, False)

    def _tell(self) -> None:
        for rank in self.tell:
            if rank not in (self.table.rank, self.target):
                self.table.ask(rank, "ledger", [self.changes.view(np.uint8)], len(self.changes))

    def _drop(self, at_target: bool) -> None:
        if not at_target:
            self.table.slab.drop(self.table.node, self.wanted, 0xFFFFFFFF)
        elif self.target in self.table.near:
            self.table.near[self.target].drop(self.table.node, self.wanted, 0xFFFFFFFF)
        else:
            self._ask("drop", [self.wanted], len(self.wanted))


def take_over(store: Store, slots: Array, rows: Iterable[Rows]) -> Array:
    """Recovery: this rank becomes the owner of slots whose owner is lost, with rows from a backup, parity or checkpoint.

    The rows are taken where they are newer than what is here (copies that a broken migration left count), then the
    slots change hands under an epoch that no dead owner can have given away. Returns the changes to tell everybody.
    """
    table, ledger = store.table, store.ledger
    for part in rows:
        table.put(table.rank, part)
    slots = np.asarray(slots, np.int64)
    ledger.epoch[slots] += np.uint32(16)  # above a flip that died with its owner
    changes = ledger.assign(slots, table.rank)
    table.slab.bump(2)
    return changes
