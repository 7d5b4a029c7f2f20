"""Asynchronous (ASP): nobody waits for anybody. The owner of a range of rows applies what arrives, in order of arrival.

    learn -> push to the owners -> apply what was pushed here -> give back changed rows -> learn on

A rank's view is the owners' rows as last heard of, with its own pushes that they have not yet applied on top. Queues are
bounded by writing together: while two messages to an owner are under way, further updates are summed into one; while two
to a reader are under way, changed rows are only noted. Rank 0 hears every rank's progress and calls all to settle when
something is due: everything pushed is applied, every owner's rows go to all, and all ranks hold the same bytes.

Rows are cut into shards, one a rank at the start; pushes are numbered by sender and shard. Where a keeper (`survive/apart.py`)
keeps each rank's state, nothing leaves a rank before the record that covers it. So when a rank dies the others go on at
once: what was under way is sent again, an owner drops what it has, and one of them takes the dead rank's shards, its
unsent pushes and the rest of its rows when they have been read from node memory.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from engine import loop
from engine.cluster import clock as clocks
from engine.errors import ConfigError, PeerLost
from engine.modes.called import QUEUE, Call, Called
from engine.modes.post import LAST, Letter, Post
from engine.modes.stale import once
from engine.source import stream as streams
from engine.store.crash import point
from engine.types import Array, Link, Update
from engine.update.merge import combine, distinct
from engine.update.replica import damp

PUSH, PULL = 136, 137
AHEAD = 8  # pushes to a shard not known to be applied, before more are written together: each is in every view and record
GIVEN = 64  # gifts of rows remembered one by one until they are heard of


def cuts(rows: int, shards: int) -> list[int]:
    """Where the shards of `rows` rows begin, and the end."""
    return [rows * s // shards for s in range(shards + 1)]


class Owner(Called):
    """One rank's side of a run. Its model has `follow` and rows in one block (the linear family).

    `me`, and every sender and owner below, is a rank as it was at the start: a member. `at[member]` = its rank now, or -1.
    """

    def __init__(self, job: loop.Job, power: float = 0.0) -> None:
        model: Any = job.team.models[0]
        keeper: Any = job.keeper
        if not hasattr(model, "follow"):
            raise ConfigError(f"exchange.mode=asp: expected a linear model, found {type(model).__name__}",
                              fix="exchange.mode=ssp:4")
        if isinstance(job.stream, streams.Dealt):
            raise ConfigError("exchange.mode=asp: dealing rows over ranks waits for all of them", fix="data.rule=part")
        self.begin(job)
        self.power, self.keeper = power, keeper
        self.kept = model.fork()
        size = job.link.size
        self.cuts = cuts(len(self.kept._block), size)
        self.bounds = np.array(self.cuts[1:-1], np.uint32)
        self.holder = list(range(size))  # of each shard
        self.shards = [self.me]  # those held here
        # `away`: of those, which are still being read from node memory
        self.early: list[Letter] = []  # pushes to them
        self.flying: dict[tuple[int, int], list[tuple[int, Update]]] = {}  # (sender, shard): not known to be applied
        self.waiting: list[Update | None] = [None] * size  # written together for shard s
        self.sent, self.heard = [0] * size, [0] * size
        self.applied: dict[tuple[int, int], int] = {}  # (sender, shard of mine): last push applied
        self.version = 0
        self.changed: list[list[Array]] = [[] for _ in range(size)]  # rows of mine that member m has not seen
        self.given: list[list[tuple[int, Array]]] = [[] for _ in range(size)]  # and those it may not have
        self.dirty: list[Array] = []  # rows by which the view may differ from `kept`
        self.touched: list[Array] = []  # rows of mine that changed since the last record
        self.out: list[tuple[Post, Letter, int]] = []  # letters that leave when the record that covers them is kept
        self._meet(job.link, list(range(size)))
        if keeper is not None:
            keeper.carried = self

    def _meet(self, link: Link, members: list[int]) -> None:
        """Messages go over `link`, whose rank r is `members[r]`."""
        self.members = members
        self.at = [members.index(m) if m in members else -1 for m in range(len(self.holder))]
        self.pushes, self.pulls = Post(link, PUSH, "pushes"), Post(link, PULL, "rows of owners")
        self.meet(link)

    def run(self) -> Iterator[loop.Event]:
        """Until rank 0 says stop; yields each due action, in the same state on every rank."""
        more = True
        while True:
            more = self.learn() if more else self.idle()
            called = self.serve()
            if called is not None:
                for event in self.settle(called):
                    yield event
                    if isinstance(event.action, clocks.Stop):
                        return

    def learn(self) -> bool:
        """One interval of rows; False where there are none left."""
        self.refresh()
        update, count, left, error = self.interval()
        if update is not None and len(update.values):
            self.dirty.append(update.keys if update.keys is not None else np.empty(0, np.uint32))
            self._push(update)
        if self.keeper is not None:
            point("learned")
        self.report(left, error)
        return left or count > 0

    def idle(self) -> bool:
        """No rows left: serves until called."""
        self.wait()
        left = self.keeper is not None and bool(getattr(self.job.stream, "left", False))  # of a dead rank's rows
        self.report(left or bool(self.away), None)
        return left

    def _push(self, update: Update) -> None:
        """To each shard its rows; special rows (clock, scaler) are shard 0's, and so is the count of rows."""
        assert update.keys is not None
        special = int(np.searchsorted(update.keys, len(self.kept._block)))
        ends = [0, *np.searchsorted(update.keys[:special], self.bounds).tolist(), special]
        for shard in range(len(self.holder)):
            keys = np.arange(ends[shard], ends[shard + 1])
            if shard == 0:
                keys = np.append(keys, np.arange(special, len(update.keys)))
            if not len(keys) and shard:
                continue
            part = Update(update.keys[keys], np.ascontiguousarray(update.values[keys]), update.weight if shard == 0 else 0.0)
            held = self.waiting[shard]
            self.waiting[shard] = part if held is None else combine([held, part])

    def _flush(self, always: bool = False) -> None:
        for shard, part in enumerate(self.waiting):
            holder = self.holder[shard]
            if part is None or shard in self.away:
                continue
            if holder != self.me and not always and (self._busy(self.pushes, self.at[holder]) >= QUEUE
                                                     or len(self.flying.get((self.me, shard), ())) >= AHEAD):
                continue
            self.waiting[shard] = None
            if holder == self.me:
                self._apply(part, 0.0)
                continue
            self.sent[shard] += 1
            self.flying.setdefault((self.me, shard), []).append((self.sent[shard], part))
            self._mail(self.me, shard, self.sent[shard], part)

    def _busy(self, post: Post, to: int) -> int:
        """Letters to that rank that have not gone yet."""
        return post.waiting(to) + (sum(p is post and r == to for p, _, r in self.out) if self.out else 0)

    def _mail(self, sender: int, shard: int, number: int, part: Update) -> None:
        ticket = np.array([self.heard[self.holder[shard]], time.monotonic(), sender, shard])
        self._send(self.pushes, Letter(number, ticket, part), self.at[self.holder[shard]])

    def _send(self, post: Post, letter: Letter, to: int) -> None:
        """At once; where the state is kept, after the record that covers what the letter says."""
        if self.keeper is None:
            post.send(letter, to)
        else:
            self.out.append((post, letter, to))

    def keep(self) -> None:
        """The record of what has changed here; then letters leave."""
        if self.keeper is None:
            return
        self.keeper.keep(self)
        for post, letter, to in self.out:
            post.send(letter, to)
        self.out.clear()
        point("kept")

    def _apply(self, update: Update, age: float) -> None:
        """Merge a push into my rows."""
        update = damp(update, age, self.power)
        self.kept.merge(update, 1)
        self.version += 1
        if update.keys is not None:
            self.dirty.append(update.keys)
            if self.keeper is not None:
                self.touched.append(update.keys)
            for rank in self.pulls.others:
                self.changed[self.members[rank]].append(update.keys)

    def serve(self) -> Call | None:
        """Applies what was pushed here, takes rows of other owners, gives mine; what rank 0 calls for, if it does."""
        if self.keeper is not None:
            if why := getattr(self.job.link, "alarm", str)():
                raise PeerLost(f"member {self.me} stops serving: {why}", fix="resume from node memory or the last checkpoint")
            self.keeper.returned(self)
        for rank, letter in self.pushes.arrived():
            self._pushed(rank, letter)
        for rank, letter in self.pulls.arrived():
            self._pulled(rank, letter)
        self._flush()
        self._give()
        self.keep()
        return self.called()

    def _pushed(self, rank: int, letter: Letter) -> None:
        if letter.update is None:  # the last before settling
            return
        heard, _, sender, shard = letter.ticket.tolist()
        place = int(sender), int(shard)
        if place[1] in self.away:
            self.early.append(letter)
            return
        self.busy_s = time.monotonic()
        given = self.given[self.members[rank]]
        while given and given[0][0] <= heard:
            given.pop(0)
        if letter.number <= self.applied.get(place, 0):
            return  # sent again after a death, and it had come
        age = max(0, self.version - int(heard)) / max(1, self.job.link.size - 1)
        values = self.job.counts.values
        self.job.counts.add("stale_sum", age)
        self.job.counts.add("stale_reads")
        values["stale_most"] = max(values.get("stale_most", 0), age)
        self._apply(letter.update, age)
        self.applied[place] = letter.number

    def _give(self, always: bool = False) -> None:
        """Rows of mine that changed, to every rank that can take them: values as they are now, however often they changed."""
        for rank in self.pulls.others:
            member = self.members[rank]
            if always or (self.changed[member] and self._busy(self.pulls, rank) < QUEUE):
                keys = distinct(self.changed[member])
                self.changed[member] = []
                keys = keys[: np.searchsorted(keys, len(self.kept._block))]
                rows = Update(keys, self.kept._block[keys, :3], 0.0)
                head = (self.kept._clock.copy(), self.kept._scale) if 0 in self.shards and 0 not in self.away else None
                ticket = np.array([self.version, time.monotonic()])
                extra = (list(self.applied.items()), head)
                self._send(self.pulls, Letter(LAST if always else 0, ticket, rows, extra=extra), rank)
                if self.keeper is not None and len(keys):
                    self._gave(member, keys)

    def _gave(self, member: int, keys: Array) -> None:
        given = self.given[member]
        given.append((self.version, keys))
        if len(given) > GIVEN:
            self.given[member] = [(self.version, distinct([keys for _, keys in given]))]

    def _pulled(self, rank: int, letter: Letter) -> None:
        rows, kept = letter.update, self.kept
        assert rows is not None and rows.keys is not None
        kept._block[rows.keys, :3] = rows.values
        applied, head = letter.extra
        if head is not None:
            kept._clock[:] = head[0]
            if kept._scale is not None:
                kept._scale[:] = head[1]
            kept._mark_base()
        self.dirty.append(rows.keys)
        self.heard[self.members[rank]] = int(letter.ticket[0])
        for place, done in applied:
            flying = self.flying.get(place, [])
            while flying and flying[0][0] <= done:
                keys = flying.pop(0)[1].keys
                if keys is not None:
                    self.dirty.append(keys)
        self.busy_s = time.monotonic()
        self.job.counts.add("fresh_s", time.monotonic() - letter.ticket[1])
        self.job.counts.add("fresh_rounds")

    def refresh(self) -> None:
        """The view: the owners' rows as last heard of, then my pushes that they have not applied."""
        keys = distinct(self.dirty)
        own = [u for flying in self.flying.values() for _, u in flying] + [u for u in self.waiting if u is not None]
        total = combine(own) if own else None
        models: list[Any] = list(self.job.team.models)
        for model in models:
            model.follow(self.kept, keys)
            if total is not None:
                model.merge(total, 1)
        self.dirty = [total.keys] if total is not None and total.keys is not None else []

    def settle(self, call: Call) -> Iterator[loop.Event]:
        """All that was pushed is applied; every owner's rows are everywhere; then what is due."""
        actions, self.job.clock, failed = call
        if failed is not None:
            raise failed
        self._flush(always=True)
        self.keep()
        for rank in self.pushes.others:
            self.pushes.send(Letter(LAST, np.zeros(4), None), rank)
        for rank, letter in self.pushes.until_last():
            self._pushed(rank, letter)
        self._give(always=True)
        self.keep()
        for rank, letter in self.pulls.until_last():
            self._pulled(rank, letter)
        self.pushes.finish()
        self.pulls.finish()
        self.flying.clear()
        self.refresh()
        if self.job.stage is not None:
            self.job.stage.exchange(self.job.link)
        self.count()
        for action in once(actions):
            yield loop.Event(action, self.job.clock.step, self.job.clock.rows)

    # --- after a death

    def regroup(self, link: Link, members: list[int], heirs: dict[int, int]) -> None:
        """Goes on over `link` with `members`; `heirs[dead member]` takes what it held. What was under way goes again."""
        self.out.clear()
        self._meet(link, members)
        self.job.link = link
        for shard, holder in enumerate(self.holder):
            if holder in heirs:
                self.holder[shard] = heirs[holder]
                if heirs[holder] == self.me:
                    self.shards.append(shard)
                    self.away.add(shard)
        for (sender, shard), flying in self.flying.items():
            if self.holder[shard] != self.me:
                for number, part in flying:
                    self._mail(sender, shard, number, part)
        for member in members:
            if member != self.me:
                self.changed[member] += [keys for _, keys in self.given[member]] or [np.empty(0, np.uint32)]
                self.given[member] = []
        self.progress[:, 1] = [member in heirs.values() for member in members]
        self.counted = self.job.clock.rows - self.base
        self.failed = None

    def inherit(self, shards: dict[int, Array], applied: dict[tuple[int, int], int],
                unsent: list[tuple[int, int, int, Update]], rows: int, head: tuple[Array, Array | None] | None) -> None:
        """Takes a dead member's shards (rows by shard) as they were kept, its pushes that may be missing elsewhere as
        (sender, shard, number or 0, update), and the count of its rows.
        """
        from engine.store.differ import differing

        kept = self.kept
        for shard, block in shards.items():
            low = self.cuts[shard]
            now = kept._block[low : self.cuts[shard + 1], :3]
            self.dirty.append(differing(np.ascontiguousarray(now), block) + np.uint32(low))
            now[...] = block
            for member in self.members:
                if member != self.me:
                    self.changed[member].append(np.flatnonzero(block.any(1)).astype(np.uint32) + np.uint32(low))
            self.away.discard(shard)
        if head is not None:
            kept._clock[:] = head[0]
            if kept._scale is not None and head[1] is not None:
                kept._scale[:] = head[1]
        kept._mark_base()
        self.version += 1
        self.applied |= applied
        for sender, shard, number, part in unsent:
            if not number:  # it had no number, so it has never left
                held = self.waiting[shard]
                self.waiting[shard] = part if held is None else combine([held, part])
                continue
            self.flying.setdefault((sender, shard), []).append((number, part))
            if self.holder[shard] != self.me:
                self._mail(sender, shard, number, part)
        self.rows += rows
        for place in [place for place in self.flying if self.holder[place[1]] == self.me and place[1] not in self.away]:
            for number, part in self.flying.pop(place):
                self._pushed(self.job.link.rank, Letter(number, np.array([self.version, 0.0, *place]), part))
        early, self.early = self.early, []
        for letter in early:
            self._pushed(self.job.link.rank, letter)
