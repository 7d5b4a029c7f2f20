"""Live sources: feeds that never have to end, and the stream of rows over all ranks that is made of them.

    follow:PATH  follow:DIR  follow:'GLOB'      files that grow, are rotated, come into a folder
    tcp://HOST:PORT  unix://PATH                rows that programs send (engine.source.listen)
    ring:NAME                                   shared memory written by a solver on the node (engine.source.ring)
    kafka://BROKER[,BROKER]/TOPIC               a topic, a consumer for each partition (engine.source.kafka)

A step takes the rows that have come, up to k a worker, and never waits to be full. Rows are learned on the rank that reads
them; where one rank reads and others have nothing to read, it deals its rows to them (`deal`), more to the faster.
"""
from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.source.feed import START, At, Feed, Lines, Portion, counters
from engine.source.schema import Plan
from engine.source.share import Held, moves, shares
from engine.source.stream import Plain, Wire, empty
from engine.types import Batch, Link, Schema, join

SCHEMES = ("follow:", "tcp://", "unix://", "ring:", "kafka://")
Find = Callable[[bytes, str], Plan]
LOOK_S = 0.5  # between two looks for new files
ALONE = 4  # a rank alone waits so much longer for rows: no other rank waits for it, and an empty step costs too
NAP_S, NAP_MOST_S, NAP_PART = 0.0002, 0.001, 8  # between two rounds of polls: an eighth of how long nothing has come
SHARE_TAKES = 64  # steps between two looks at who reads what


def live(spec: str) -> bool:
    """Whether a spec names a live source."""
    return spec.startswith(SCHEMES)


class LiveSource:
    """A spec, its schema and what it counted. `feeds(rank, size)` makes the feeds that a rank reads.

    `open_feeds(rank, size)` gives what is there now; `more(rank, size)` what has come since (new files); `reopen(name)` a
    feed that another rank gave away (None: feeds stay where they are). `dealt`: the feeds
    are all rank 0's, its rows are dealt to all. `idle_s`: a feed that stays quiet for so long has ended; 0 = it never does.
    """

    live = True
    pieces: int | None = None

    def __init__(self, schema: Schema, open_feeds: Callable[[int, int], Sequence[Feed]], *, plan: Plan | None = None,
                 more: Callable[[int, int], Sequence[Feed]] | None = None,
                 reopen: Callable[[str], Feed] | None = None, dealt: bool = False, idle_s: float = 0.0,
                 stats: dict[str, Any] | None = None) -> None:
        self.schema, self.plan, self.dealt, self.idle_s = schema, plan, dealt, idle_s
        self.stats = counters() if stats is None else stats
        self.feeds, self.more, self.reopen = open_feeds, more, reopen

    def reader(self, piece: int, size: int) -> int:
        return 0

    def read(self, piece: int, skip: int = 0) -> Iterator[Batch]:
        """All rows of this process alone, as they come (for predictions): ends where the feeds end."""
        for feed in self.feeds(0, 1):
            while not feed.ended:
                portion = feed.poll()
                if portion is None:
                    time.sleep(NAP_S)
                else:
                    yield portion.batch
        self.pieces = 0

    def close(self) -> None:
        """Feeds are closed by the stream that polls them."""


def from_rows(rows: Any, schema: Schema, *, dealt: bool = False) -> LiveSource:
    """A source of what an iterator gives: Batches, (x, y) arrays, single rows, or None where nothing has come yet.

    Every rank has its own iterator; `dealt`: rank 0's alone, its rows are dealt to all.

    >>> for event in session.fit(from_rows(zip(x, y), Schema(8, False, "binary"))): ...
    """
    from engine.source.feed import Given

    return LiveSource(schema, lambda rank, size: [Given(rows, f"iterator {rank}")], dealt=dealt)


class Live:
    """This rank's rows of a live source, step by step; the job's stream (see `loop.run`).

    `cursors` name every feed of the job: {name: [place, mark]}, of the first row not taken; `order`: rows of the job before.
    `share`: every rank takes in step with the others, so that feeds may move from ranks that fall behind. `busy_s()`: seconds
    this rank has learned.
    """

    def __init__(self, source: LiveSource, link: Link, cursors: Mapping[str, Any] | None = None, *, wait_s: float = 0.001,
                 keep: int = 2, share: bool = False, order: int = 0) -> None:
        self._source, self._link, self._wait_s = source, link, wait_s if link.size > 1 else ALONE * wait_s
        self._known = self.began = {name: (str(at[0]), int(at[1])) for name, at in (cursors or {}).items()}
        self._feeds: list[Feed] = []
        self._queue: deque[tuple[Feed, Portion, int]] = deque()
        self._at: dict[str, At] = {}
        self._marked: deque[dict[str, At]] = deque()
        self._keep = keep
        self._dealing = source.dealt and link.size > 1
        self._order, self._turn = order + link.rank, 0
        self._looked_s = self._heard_s = time.monotonic()
        self.busy_s: Callable[[], float] = time.monotonic
        self._learned = np.zeros(2)  # rows and the seconds they took, older ones counting less
        self._given: tuple[float, int] = (0.0, 0)
        self._sharing = share and link.size > 1 and source.reopen is not None and not source.dealt
        self._takes, self._taken = 0, dict[str, int]()
        self._open = True
        self.wire: Wire = Plain()
        if not source.dealt:
            self._add(source.feeds(link.rank, link.size))
        elif link.rank == 0:
            self._add(source.feeds(0, 1))

    def _add(self, feeds: Sequence[Feed]) -> None:
        for feed in feeds:
            at = self._known.get(feed.name, START)
            if at != START:
                feed.seek(at)
            self._at[feed.name] = at
            self._feeds.append(feed)

    @property
    def left(self) -> bool:
        """Whether rows may still come to any rank through this one."""
        return self._open

    def take(self, k: int) -> Batch | None:
        """This rank's next rows, up to `k`, perhaps none yet; None when its feeds have ended."""
        if self._given[1]:
            self._learned = 0.9 * self._learned + (self._given[1], max(self.busy_s() - self._given[0], 1e-9))
        if self._sharing and self._takes and self._takes % SHARE_TAKES == 0:
            self._share()
        self._takes += 1
        batch = self._dealt(k) if self._dealing else self._own(k)
        self._given = (self.busy_s(), 0 if batch is None else len(batch))
        return batch

    @property
    def pace(self) -> float:
        """Rows a second this rank learns, waiting for others apart; 0 before it has learned any."""
        return float(self._learned[0] / self._learned[1]) if self._learned[1] else 0.0

    def _share(self) -> None:
        """Feeds go from ranks that fall behind to others, each at the row it has reached (collective)."""
        link, queued = self._link, dict[str, int]()
        for feed, portion, done in self._queue:
            queued[feed.name] = queued.get(feed.name, 0) + len(portion.batch) - done
        work = {feed.name: self._taken.get(feed.name, 0) + queued.get(feed.name, 0) + getattr(feed, "waiting", 0)
                for feed in self._feeds if not feed.ended}
        stays = {feed.name for feed in self._feeds if not getattr(feed, "movable", True)}
        self._taken.clear()
        mine = Held(self.pace, {name: rows for name, rows in work.items() if name not in stays},
                    sum(rows for name, rows in work.items() if name in stays))
        held = link.gather(mine, name="work of the feeds")
        for move in link.bcast(None if held is None else moves(held), name="feeds that move"):
            at = link.bcast(self._release(move.name) if link.rank == move.source else None, root=move.source, name=move.name)
            if link.rank == move.target:
                self._receive(move.name, at)

    def _release(self, name: str) -> At:
        """Gives a feed away at the first row not yet taken."""
        for feed in self._feeds:
            if feed.name == name:
                feed.close()
        self._feeds = [feed for feed in self._feeds if feed.name != name]
        self._queue = deque(one for one in self._queue if one[0].name != name)
        return self._at.pop(name)

    def _receive(self, name: str, at: At) -> None:
        assert self._source.reopen is not None
        feed = self._source.reopen(name)
        if at != START:
            feed.seek(at)
        self._at[name] = at
        self._feeds.append(feed)
        self._open, self._heard_s = True, time.monotonic()
        self._source.stats["received"] = self._source.stats.get("received", 0) + 1

    def _own(self, k: int) -> Batch | None:
        parts: list[Batch] = []
        need = k
        while need and (self._queue or self._fill(0.0 if parts else self._wait_s)):
            feed, portion, done = self._queue.popleft()
            n = min(need, len(portion.batch) - done)
            parts.append(portion.batch.slice(done, done + n))
            self._at[feed.name] = (portion.place, int(portion.marks[done + n]))
            if self._sharing:
                self._taken[feed.name] = self._taken.get(feed.name, 0) + n
            need -= n
            if done + n < len(portion.batch):
                self._queue.appendleft((feed, portion, done + n))
        if not parts:
            return None if not self._open else empty(self._source)
        return self._numbered(join(parts))

    def _numbered(self, batch: Batch) -> Batch:
        n, size = len(batch), 1 if self._dealing else self._link.size
        batch.order = np.arange(self._order, self._order + n * size, size)
        self._order += n * size
        batch.previous = np.full(n, np.nan, np.float32)
        batch.previous[1:] = batch.y[:-1]
        return batch

    def _fill(self, wait_s: float) -> bool:
        """Asks each feed once, in turn, and again until `wait_s` has passed; whether rows have come."""
        end = time.monotonic() + wait_s
        while True:
            for _ in range(len(self._feeds)):
                feed = self._feeds[self._turn % len(self._feeds)]
                self._turn += 1
                portion = None if feed.ended else feed.poll()
                if portion is not None and len(portion.batch):
                    self._queue.append((feed, portion, 0))
                    self._heard_s = time.monotonic()
                    return True
            now = time.monotonic()
            if now - self._looked_s > LOOK_S:
                self._looked_s = now
                self._look(now)
            if now >= end or not self._open:
                return False
            time.sleep(min(NAP_MOST_S, max(NAP_S, (now - self._heard_s) / NAP_PART)))

    def _look(self, now: float) -> None:
        source, link = self._source, self._link
        if source.more is not None and (not source.dealt or link.rank == 0):
            self._add(source.more(0 if source.dealt else link.rank, 1 if source.dealt else link.size))
        quiet = source.idle_s and now - self._heard_s > source.idle_s
        if not (source.dealt and link.rank) and (quiet or (source.more is None and all(feed.ended for feed in self._feeds))):
            self._open = False

    def _dealt(self, k: int) -> Batch | None:
        """Rank 0's rows, cut into consecutive shares by the pace of each rank (collective)."""
        link = self._link
        rows, error = None, None
        if link.rank == 0:
            try:
                rows = self._own(k * link.size)
            except Exception as caught:
                error = caught
        table = link.vote(np.array([self.pace, link.rank == 0 and rows is None, error is not None]), name="deal")
        if table[0, 2]:
            raise link.bcast(error, root=0, name="error of the feed")
        if table[0, 1]:
            self._open = False
            return None
        parts = list[Batch | None]([None] * link.size)
        if rows is not None and len(rows):
            parts = [rows.slice(a, b) for a, b in pairwise(shares(len(rows), table[:, 0], k))]
        mine = self.wire.move(link, parts, "rows to learners")
        return mine[0] if mine else empty(self._source)

    def mark(self) -> dict[str, At]:
        """The cursor of every feed this rank reads, of the first row not yet taken."""
        self._marked.append(self.cursors)
        return self._marked[-1]

    @property
    def cursors(self) -> dict[str, At]:
        """This rank's feeds as they stand, what was taken made durable; feeds that nobody reads keep the cursor they had."""
        for feed in self._feeds:
            getattr(feed, "settle", lambda: None)()
        return {**self._known, **self._at}

    def committed(self) -> None:
        """What `mark` gave is in a checkpoint; what all `keep` checkpoints hold may be forgotten, brokers and senders told."""
        while len(self._marked) >= self._keep:
            oldest = self._marked.popleft()
            for feed in self._feeds:
                if feed.name in oldest:
                    feed.committed(oldest[feed.name])

    def close(self) -> None:
        for feed in self._feeds:
            feed.close()


def together(marks: Sequence[Mapping[str, At]], before: Mapping[str, At]) -> dict[str, list[Any]]:
    """Cursors of all ranks as one map; `before`: those that the run began with, which a reader's own replace."""
    found: dict[str, At] = dict(before)
    for mark in marks:
        found |= {name: at for name, at in mark.items() if at != before.get(name)}
    return {name: list(at) for name, at in sorted(found.items())}


def open_live(spec: str, options: Mapping[str, Any], *, plan: Plan | None, find: Find) -> LiveSource:
    """The live source a spec names. `find(head, where)` makes a plan of the first rows, where none is given.

    `options`: those of `open_source`; `spool` is a function of a feed's name that gives a spool, or None.
    """
    stats = counters()
    if spec.startswith("follow:"):
        return _follow(spec.removeprefix("follow:"), options, plan, find, stats)
    if spec.startswith("ring:"):
        from engine.source.ring import Ring, Ringed

        ring = Ring(spec.removeprefix("ring:"))
        feed = Ringed(ring, kept=options.get("kept", False))
        schema = Schema(ring.width, False, options.get("task") or "binary", tuple(options.get("labels") or ()))
        return LiveSource(schema, lambda rank, size: [feed], dealt=True, idle_s=options["idle_s"], stats=stats)
    if spec.startswith("kafka://"):
        from engine.source.kafka import open_kafka

        return open_kafka(spec, options, plan, find, stats)
    return _sockets(spec, options, plan, stats)


def _sockets(spec: str, options: Mapping[str, Any], plan: Plan | None, stats: dict[str, Any]) -> LiveSource:
    from engine.source.listen import Listener

    address, _, query = spec.partition("?")
    each = query == "each"
    schema = plan.schema if plan else None
    if schema is None:
        raise DataError("a socket cannot be asked what its rows are before they come", where=spec,
                        fix="data.columns=a,b,c and data.task (and data.labels), or data.format=libsvm with data.hash_bits")
    assert plan is not None
    lines = None if options.get("format") == "frames" else Lines(plan, options["on_bad_rows"], stats)

    def feeds(rank: int, size: int) -> list[Feed]:
        name, place = f"{spec} {rank}", address
        if each and rank:
            place = f"{address}.{rank}" if address.startswith("unix") else _port(address, rank)
        return [Listener(place, lines, stats, name=name, spool=options["spool"](name), schema=schema)]

    return LiveSource(schema, feeds, plan=plan, dealt=not each, idle_s=options["idle_s"], stats=stats)


def _port(address: str, rank: int) -> str:
    head, _, port = address.rpartition(":")
    return f"{head}:{int(port) + rank}"


def _follow(path: str, options: Mapping[str, Any], plan: Plan | None, find: Find,
            stats: dict[str, Any]) -> LiveSource:
    from engine.source.follow import Followed, arrivals

    folder, pattern = (path, "*") if os.path.isdir(path) else os.path.split(path)
    many = os.path.isdir(path) or any(c in pattern for c in "*?[")
    if plan is None:
        plan = find(*_first_rows(path, folder or ".", pattern, many, options["wait_s"]))
    lines, known = Lines(plan, options["on_bad_rows"], stats), set[int]()

    def begin(rank: int, size: int) -> list[Feed]:
        known.clear()  # other ranks may have begun anew, and each file is then somebody else's
        return more(rank, size)

    def reopen(name: str) -> Feed:
        paths = dict(arrivals(folder or ".", pattern, set()))
        if name not in paths:
            raise DataError("expected a file that another rank reads, found it gone", where=f"{path}, {name}",
                            fix="leave files in place until a checkpoint holds them; all ranks must see one file system")
        return Followed(paths[name], lines, name=name, moved=False)

    def place(name: str, size: int) -> int:
        return int(name.split()[1]) % size

    def more(rank: int, size: int) -> list[Feed]:
        return [Followed(at, lines, name=name, moved=False) for name, at in arrivals(folder or ".", pattern, known)
                if place(name, size) == rank]

    if many:
        return LiveSource(plan.schema, begin, plan=plan, more=more, reopen=reopen, idle_s=options["idle_s"], stats=stats)
    return LiveSource(plan.schema, lambda rank, size: [Followed(path, lines)], plan=plan, dealt=True,
                      idle_s=options["idle_s"], stats=stats)


def _first_rows(path: str, folder: str, pattern: str, many: bool, wait_s: float) -> tuple[bytes, str]:
    """Whole lines of the first file that has two, and its path; DataError after `wait_s`."""
    from engine.source.follow import arrivals

    end = time.monotonic() + wait_s
    while True:
        paths = [at for _, at in arrivals(folder, pattern, set())] if many else [path] * os.path.isfile(path)
        for at in paths:
            with open(at, "rb") as file:
                head = file.read(1 << 20)
            if head.count(b"\n") >= 2:
                return head[: head.rfind(b"\n") + 1], at
        if time.monotonic() > end:
            raise DataError(f"no rows came within {wait_s:g} s", where=path,
                            fix="raise data.wait, or say what comes: data.columns=a,b,c with data.task")
        time.sleep(0.02)
