"""The parameter table: rows of float32 under 64-bit keys, spread over the ranks, each row at the owner of its key's slot.

Contract
    get(keys) -> (n, width)      rows as they are now; the initial row where a key has none (its version is then 0).
                                 A row is whole: never half of one write and half of another.
    inc(keys, items, op=...)     the owner applies: row <- op(row, item); a key that comes twice is applied twice, in order.
                                 Done when it returns, once, whatever is lost or sent again on the way.
    clock() -> int               one more unit of work of this rank is done; `wait(bound)` returns when no rank is more than
                                 `bound` clocks behind (stale synchronous), `clocks()` says where each is.
    poll()                       answers other ranks, where no thread does; every wait of the table does it as well.
Rows are made on demand: a key gets one when it was asked for by `inc` `admit` times. `expire(age)` drops rows that nothing
was applied to for `age` clocks. `op`: add, assign, max, a descent along a gradient: sgd, adagrad, momentum (the last two
keep state in the second half of a row), or merge, by the rule of a learner whose rows these are. Keys are below 2^64 - 1.

How a row is reached is the same for the caller and chosen by `path`:
    shared   load and store in the memory the node shares, under the row's seqlock
    rma      one-sided reads of other ranks' memory, checked by the row's version and the generation of its slab; writes
             go to the owner
    served   request frames to the owner, whose native server answers
`auto` takes shared inside a node and served between nodes, unless the start-up probe found real one-sided reads.

What a reader may see: `get` is linearizable for each row (it is read between two equal versions, at its owner); rows of
one `get` may be of different moments. Reads and writes of one rank are seen by it in order.
"""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from engine.codec import call
from engine.codec.call import BUSY, CONFLICT, FULL, MOVED, OK, Reply, encode_call
from engine.errors import ConfigError, PeerError, ShardError, StoreError
from engine.kernels import _native
from engine.store.peek import OneSided, Peek
from engine.types import Array

PATHS = ("auto", "shared", "rma", "served")
FRAME_BYTES = 1 << 20
BODY_BYTES = FRAME_BYTES - call.HEAD_BYTES
TOLD_BYTES = 64 * 64  # entries of a MOVED answer
PART_BYTES = 1 << 18  # of a request or reply where several may be on their way at once


class Remote(Protocol):
    """How other ranks are asked (comm.service)."""

    def ask(self, frames: Sequence[tuple[int, Array]], rooms: Sequence[int], *, name: str) -> list[Reply]: ...
    def post(self, frames: Sequence[tuple[int, Array]], rooms: Sequence[int], *, name: str) -> Any: ...
    def poll(self) -> bool: ...


class Rows(NamedTuple):
    """Rows as they travel: keys u64 `(n,)`, versions and clocks u32 `(n,)`, values f32 `(n, width)`."""

    keys: Array
    versions: Array
    clocks: Array
    values: Array


def buckets_for(rows: int) -> int:
    """Places for so many rows, at most half full, as a power of two."""
    return 1 << max(6, (2 * rows - 1).bit_length())


class Table:
    """One rank's view of a table. `slabs`: memory of each rank of the node, by rank, this rank's among them."""

    def __init__(
        self, ledger: Any, slabs: dict[int, Array], rank: int, remote: Remote, *, number: int = 0, writer: int = 0,
        init: Array | None = None, path: str = "auto", window: OneSided | None = None, timeout_s: float = 60.0,
    ) -> None:
        if path not in PATHS:
            raise ConfigError(f"path: expected one of {', '.join(PATHS)}, found {path!r}")
        self.ledger, self.rank, self.ranks, self.remote, self.number = ledger, rank, ledger.ranks, remote, number
        self.writer, self.path, self.timeout_s, self.now = writer, path, timeout_s, 0
        self.slab = _native.Slab(slabs[rank])
        stats = self.slab.stats()
        self.width, self.buckets = stats["width"], stats["buckets"]
        self.init = np.zeros(self.width, np.float32) if init is None else np.ascontiguousarray(init, np.float32)
        near = [rank] if path in ("rma", "served") else sorted(slabs)
        if path == "shared" and len(near) < self.ranks:
            away = sorted(set(range(self.ranks)) - set(near))
            raise ConfigError(f"onesided=shared: rank {away[0]} is on another node than rank {rank}",
                              fix="use onesided=auto or served")
        if path == "rma" and window is None:
            raise ConfigError("onesided=rma: no window was made over the table's memory")
        place = np.full(self.ranks, -1, np.int16)
        place[near] = np.arange(len(near))
        head, owner, epoch, stamp, state, backup, forks = ledger.arrays()
        self.node = _native.Node(head, owner, epoch, stamp, state, backup, forks, ledger.bits,
                                 [slabs[r] for r in near], place, self.init)
        self.mine = int(place[rank])
        self.near = {r: _native.Slab(slabs[r]) for r in near}
        self.log: Callable[[], int] | None = None  # called at each clock (table.log)
        self._seq = 0
        self._seen = np.zeros(self.ranks, np.int64)  # last known clock of each rank
        self._row_bytes = stats["row_bytes"]
        rows_at = len(slabs[rank]) - self.buckets * self._row_bytes
        self.window = None if window is None else Peek(window, self.width, self.buckets, self._row_bytes, rows_at)

    # Reading

    def get(self, keys: Array, out: Array | None = None, versions: Array | None = None) -> Array:
        """float32 `(n, width)`; `versions` (uint32 `(n,)`), where given, gets each row's version, 0 where there is none."""
        keys = _keys(keys)
        n = len(keys)
        out = np.empty((n, self.width), np.float32) if out is None else out
        versions = np.empty(n, np.uint32) if versions is None else versions
        todo: Array | None = None
        pause = _Pause(self, "get")
        while todo is None or len(todo):
            if todo is None:
                todo = self._near_get(keys, out, versions, pause)
            else:
                rows, seen = np.empty((len(todo), self.width), np.float32), np.empty(len(todo), np.uint32)
                far = self._near_get(keys[todo], rows, seen, pause)
                near = np.setdiff1d(np.arange(len(todo)), far)
                out[todo[near]], versions[todo[near]] = rows[near], seen[near]
                todo = todo[far]
            if len(todo):
                todo = self._far_get(keys, todo, out, versions)
                if len(todo):
                    pause()
        return out

    def _near_get(self, keys: Array, out: Array, versions: Array, pause: _Pause) -> Array:
        away = np.empty(len(keys), np.uint32)
        while True:
            far, status = self.node.gather(keys, out, versions, away)
            if status == OK:
                return away[:far].astype(np.int64)
            pause()

    def _far_get(self, keys: Array, todo: Array, out: Array, versions: Array) -> Array:
        """Asks the owners for `keys[todo]`; returns what has to be asked again."""
        if self.window is not None:
            todo = self._one_sided(keys, todo, out, versions)
        most = max(1, PART_BYTES // (4 + 4 * self.width))
        cuts = list(self._by_owner(keys, todo, most))
        frames = [(owner, self.frame("get", [keys[part]], len(part))) for owner, part in cuts]
        rooms = [len(part) * (4 + 4 * self.width) + TOLD_BYTES for _, part in cuts]
        again = []
        for (_, part), reply in zip(cuts, self._ask(frames, rooms, "get"), strict=True):
            n = len(part)
            if reply.status == OK:
                versions[part] = reply.body[: 4 * n].view(np.uint32)
                rows = reply.body[4 * n : 4 * n * (1 + self.width)].view(np.float32).reshape(n, self.width)
                if n == len(out):  # all of them, in order
                    out[:] = rows
                else:
                    out[part] = rows
            else:
                self._heed(reply)
                again.append(part)
        return np.concatenate(again) if again else np.empty(0, np.int64)

    def _one_sided(self, keys: Array, todo: Array, out: Array, versions: Array) -> Array:
        """Reads rows from other ranks' memory; returns those that the owner has to be asked for."""
        assert self.window is not None
        left = []
        for owner, part in self._by_owner(keys, todo, 4096):
            found = self.window.rows(owner, keys[part], self.init)
            if found is None:
                left.append(part)
                continue
            rows, seen, known = found
            out[part[known]], versions[part[known]] = rows[known], seen[known]
            left.append(part[~known])
        return np.concatenate(left) if left else todo

    # Writing

    def inc(self, keys: Array, items: Array, *, op: str = "add", rate: float = 0.0, more: float = 0.0) -> Array:
        """Applies `items` (n, width); width / 2 for adagrad, momentum, 7 / 4 for merge. Gives uint32 versions after, 0 where
        a key was not yet admitted, or where the request had been carried out before. `more`: epsilon or decay."""
        keys, items = _keys(keys), np.ascontiguousarray(items, np.float32)
        if op not in call.OPS:
            raise ConfigError(f"op: expected one of {', '.join(call.OPS)}, found {op!r}")
        if not (wide := call.sent(op, self.width)):
            raise ConfigError(f"op {op}: expected {'a width of 4 n' if op == 'merge' else 'an even width'}, found {self.width}")
        if items.size != len(keys) * wide:
            raise ShardError(f"inc: expected items of shape ({len(keys)}, {wide}), found {items.shape}")
        items = items.reshape(len(keys), wide)
        versions = np.zeros(len(keys), np.uint32)
        rule = (call.OPS[op], rate, more)
        todo = self._near_inc(keys, items, versions, rule)
        pause = _Pause(self, "inc")
        while len(todo):
            todo, progress = self._far_inc(keys, todo, items, versions, rule)
            if len(todo):
                if progress:
                    pause.reset()
                pause()
                some = np.zeros(len(todo), np.uint32)
                far = self._near_inc(keys[todo], items[todo], some, rule)
                near = np.setdiff1d(np.arange(len(todo)), far)
                versions[todo[near]] = some[near]
                todo = todo[far]
        return versions

    def _near_inc(self, keys: Array, items: Array, versions: Array, rule: tuple[int, float, float]) -> Array:
        away = np.empty(len(keys), np.uint32)
        at = far = 0
        pause = _Pause(self, "inc")
        while True:
            before = at
            at, far, status = self.node.apply(self.writer, *rule, keys, items, versions, away, at, far)
            if status == OK:
                return away[:far].astype(np.int64)
            if status == FULL:
                raise self._full(self.rank)
            if at > before:
                pause.reset()
            pause()

    def _far_inc(self, keys: Array, todo: Array, items: Array, versions: Array,
                 rule: tuple[int, float, float]) -> tuple[Array, bool]:
        op, rate, more = rule
        most = max(1, PART_BYTES // (8 + 4 * items.shape[1]))
        cuts = list(self._by_owner(keys, todo, most))
        frames = [(owner, self.frame("apply", [keys[part], items[part]], len(part), op=op, rate=rate, more=more))
                  for owner, part in cuts]
        rooms = [4 * len(part) + TOLD_BYTES for _, part in cuts]
        again, progress = [], False
        for (owner, part), reply in zip(cuts, self._ask(frames, rooms, "inc"), strict=True):
            done = 0 if reply.status == MOVED else reply.count
            if done:
                versions[part[:done]] = reply.body[: 4 * done].view(np.uint32)
                progress = True
            if reply.status == FULL:
                raise self._full(owner)
            if reply.status != OK:
                self._heed(reply)
                again.append(part[done:])
        return (np.concatenate(again) if again else np.empty(0, np.int64)), progress

    def commit(self, keys: Array, expected: Array, values: Array) -> Array | None:
        """Assigns all rows of one owner if each still has the version expected (0: none), else none of them.

        None when done; else int64 places of a row that another has changed, to be read again. Keys in ascending order.
        """
        keys, expected = _keys(keys), np.ascontiguousarray(expected, np.uint32)
        values = np.ascontiguousarray(values, np.float32).reshape(len(keys), self.width)
        pause = _Pause(self, "commit")
        while True:
            owners = np.unique(self.ledger.route(keys))
            if len(owners) != 1:
                raise ShardError(f"commit: rows of {len(owners)} owners in one step", fix="use shard.guard for several owners")
            count, status = self._commit(int(owners[0]), keys, expected, values)
            if status == OK:
                return None
            if status == CONFLICT:
                return np.array([count], np.int64)
            if status == FULL:
                raise self._full(int(owners[0]))
            pause()

    def _commit(self, owner: int, keys: Array, expected: Array, values: Array) -> tuple[int, int]:
        if owner in self.near:
            return self.node.commit(self.writer, keys, expected, values)
        frame = self.frame("commit", [keys, expected, values], len(keys))
        reply = self._ask([(owner, frame)], [TOLD_BYTES], "commit")[0]
        if reply.status == MOVED:
            self._heed(reply)
        return reply.count, reply.status

    # Clocks

    def clock(self) -> int:
        """One more clock of this rank; others see it at once."""
        self.now += 1
        self.slab.clock(self.now)
        self._seen[self.rank] = self.now
        if self.log is not None:
            self.log()
        return self.now

    def clocks(self, stale: int | None = None) -> Array:
        """int64: clock of every rank; with `stale`, only those last seen below it are asked."""
        asked = [r for r in range(self.ranks) if r != self.rank and (stale is None or self._seen[r] < stale)]
        for r in asked:
            if r in self.near:
                self._seen[r] = self.near[r].stats()["clock"]
        far = [r for r in asked if r not in self.near]
        frames = [(r, self.frame("clock", [], 0)) for r in far]
        for r, reply in zip(far, self._ask(frames, [8] * len(far), "clocks"), strict=True):
            self._seen[r] = int(reply.body[:4].view(np.uint32)[0])
        return self._seen.copy()

    def wait(self, bound: int) -> int:
        """Returns when no rank is more than `bound` clocks behind this one; the clock of the slowest."""
        pause = _Pause(self, f"wait for ranks within {bound} clocks")
        while True:
            slowest = int(self.clocks(self.now - bound).min())
            if slowest >= self.now - bound:
                return slowest
            late = np.flatnonzero(self._seen == slowest)
            pause(f"; rank {late[0]} is at clock {slowest}, this one at {self.now}")

    def poll(self) -> bool:
        """Answers other ranks; true if one had asked."""
        return self.remote.poll()

    # Whole rows: migration, replicas, journal, checkpoint

    def rows(self, wanted: Array | None = None, *, dirty: int = -1, batch_rows: int = 4096) -> Iterator[Rows]:
        """Own rows in batches: all, or of dirty set 0 or 1 those changed since last taken; of slots with `wanted[slot]`."""
        at = 0
        while at < self.buckets:
            made = Rows(np.empty(batch_rows, np.uint64), np.empty(batch_rows, np.uint32), np.empty(batch_rows, np.uint32),
                        np.empty((batch_rows, self.width), np.float32))
            pause = _Pause(self, "scan of rows")
            while True:
                count, status, at = self.slab.take(dirty, self.node, wanted, at, *made)
                if count or status == OK:
                    break
                pause()
            if count:
                yield Rows(*(part[:count] for part in made))

    def watch(self, dirty: int, on: bool = True) -> None:
        """Keeps a dirty set (0: migration, 1: journal and replicas) from now on, beginning empty."""
        self.slab.keep_dirty(dirty, on)

    def put(self, rank: int, rows: Rows | Sequence[Array]) -> None:
        """Copies of rows to a rank, taken where they are newer than what it has."""
        self.put_end(self.put_begin(rank, rows))

    def put_begin(self, rank: int, rows: Rows | Sequence[Array],
                  made: Callable[[Rows], Array] | None = None) -> tuple[int, list[Rows], Any]:
        """Begins to send copies; `put_end` waits until they are there. Several may be under way, ended in order. `made`: the
        frame of rows that fill one at most, where they are not sent as they are."""
        most = self.block_rows
        rows = Rows(*rows)
        cuts = range(0, len(rows.keys), most)
        parts = [Rows(*(np.ascontiguousarray(field[at : at + most]) for field in rows)) for at in cuts]
        if rank in self.near:
            return rank, parts, None
        frames = [(rank, self.frame("stage", part, len(part.keys)) if made is None else made(part)) for part in parts]
        return rank, parts, self.remote.post(frames, [TOLD_BYTES] * len(frames), name=f"table {self.number}: copy of rows")

    def put_end(self, sent: tuple[int, list[Rows], Any]) -> None:
        rank, parts, posted = sent
        replies = [(r.count, r.status) for r in posted.replies()] if posted is not None else [(0, BUSY)] * len(parts)
        pause = _Pause(self, f"copy of rows to rank {rank}")
        for part, (count, status) in zip(parts, replies, strict=True):
            at, answer = count, status
            while answer != OK or at < len(part.keys):
                if answer == FULL:
                    raise self._full(rank)
                left = Rows(*(np.ascontiguousarray(field[at:]) for field in part))
                if rank in self.near:
                    count, answer = self.near[rank].stage(self.writer, *left)
                else:
                    reply = self.ask(rank, "stage", left, len(left.keys))
                    count, answer = reply.count, reply.status
                at += count
                if answer != OK:
                    pause()

    @property
    def block_rows(self) -> int:
        """Rows that fill a frame."""
        return (BODY_BYTES - TOLD_BYTES) // (16 + 4 * self.width)

    def free_rows(self, rank: int) -> int:
        """How many more rows a rank has room for."""
        if rank in self.near:
            held = self.near[rank].stats()
            return max(0, self.buckets // 8 * 7 - held["used"])
        return int(self.ask(rank, "clock", rooms=8).body[4:8].view(np.uint32)[0])

    def ask(self, rank: int, kind: str, parts: Sequence[Array] = (), count: int = 0, *, rooms: int = TOLD_BYTES,
            **more: Any) -> Reply:
        """One request to the server of another rank."""
        return self._ask([(rank, self.frame(kind, parts, count, **more))], [rooms], kind)[0]

    def post(self, rank: int, kind: str, parts: Sequence[Array], count: int) -> Any:
        """Begins a request to another rank; `.replies()` waits."""
        return self.remote.post([(rank, self.frame(kind, parts, count))], [TOLD_BYTES], name=f"table {self.number}: {kind}")

    def expire(self, age: int) -> int:
        """Drops own rows that nothing was applied to for `age` clocks; returns how many. Old places are reused."""
        if age >= self.now:
            return 0
        dropped = int(self.slab.drop(None, None, self.now - age))
        if self.slab.stats()["graves"] * 8 > self.buckets:
            self.rebuild()
        return dropped

    def rebuild(self) -> None:
        """Puts the rows together without the places of dropped ones; others wait meanwhile."""
        with self.closed():
            self.slab.bump(1)
            self.slab.rebuild(np.empty(self.slab.stats()["used"] * self._row_bytes, np.uint8))
            self.slab.bump(1)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """No writer is inside this rank's rows."""
        self.slab.gate(True)
        try:
            self.quiet()
            yield
        finally:
            self.slab.gate(False)

    def quiet(self) -> None:
        """Waits, with the gate closed, for the writers that are still inside."""
        pause = _Pause(self, "writers to leave", poll=False)
        while (who := self.slab.inside(self.writer)) >= 0:
            pause(f"; writer {who} of this node is inside: its process may be dead")

    def stats(self) -> dict[str, int]:
        return dict(self.slab.stats())

    # Asking

    def frame(self, kind: str, parts: Sequence[Array], count: int, **more: Any) -> Array:
        """A request of this rank, the next in its order."""
        self._seq += 1
        return encode_call(kind, parts, table=self.number, client=self.rank, count=count, seq=self._seq,
                           acked=self._acked, **more)

    _acked = 0

    def _ask(self, frames: Sequence[tuple[int, Array]], rooms: Sequence[int], name: str) -> list[Reply]:
        """In windows that the owners can tell repeated requests of."""
        replies: list[Reply] = []
        for at in range(0, len(frames), 512):
            replies += self.remote.ask(frames[at : at + 512], rooms[at : at + 512], name=f"table {self.number}: {name}")
        self._acked = self._seq
        return replies

    def _by_owner(self, keys: Array, todo: Array, most: int) -> Iterator[tuple[int, Array]]:
        owners = self.ledger.route(keys if len(todo) == len(keys) else keys[todo])
        if len(todo) and (owners == owners[0]).all():
            for at in range(0, len(todo), most):
                yield int(owners[0]), todo[at : at + most]
            return
        order = np.argsort(owners, kind="stable")
        starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
        for part in np.split(todo[order], starts[1:]) if len(todo) else ():
            owner = int(self.ledger.one(int(keys[part[0]])))
            for at in range(0, len(part), most):
                yield owner, part[at : at + most]

    def _heed(self, reply: Reply) -> None:
        if reply.status == MOVED:
            size = self.ledger.change.itemsize
            self.node.learn(np.ascontiguousarray(reply.body[: reply.count * size]))
        elif reply.status != BUSY:
            raise ShardError(f"the owner answered {call.STATUS[reply.status]}")

    def _full(self, rank: int) -> StoreError:
        return StoreError(f"the table is full: {self.buckets * 7 // 8} rows of rank {rank} are used",
                          where=f"table {self.number}", fix="raise shard.rows, or expire rows sooner")


class _Pause:
    """Waits a little longer each time, answering others meanwhile; PeerError past the table's limit."""

    def __init__(self, table: Table, name: str, *, poll: bool = True) -> None:
        self.table, self.name = table, name
        self.poll: Callable[[], bool] = table.poll if poll else lambda: False
        self.reset()

    def reset(self) -> None:
        self.began = time.monotonic()

    def __call__(self, more: str = "") -> None:
        if self.poll():
            return
        waited = time.monotonic() - self.began
        if waited < 1e-3:
            os.sched_yield()
            return
        time.sleep(5e-5 if waited < 0.2 else 5e-4)
        if waited > self.table.timeout_s:
            raise PeerError(f"rank {self.table.rank} waited {self.table.timeout_s:g} s in {self.name!r} of table "
                            f"{self.table.number}{more}", fix="is every rank alive and polling? raise loop.stall_timeout if so")


def _keys(keys: Array) -> Array:
    if keys.dtype != np.uint64:
        if keys.dtype.kind not in "iu":
            raise ShardError(f"keys: expected whole numbers, found {keys.dtype}")
        keys = keys.astype(np.uint64)
    keys = np.ascontiguousarray(keys)
    if len(keys) and keys.max() == np.iinfo(np.uint64).max:
        raise ShardError("keys: 2^64 - 1 is not a key (or -1 was given)")
    return keys
