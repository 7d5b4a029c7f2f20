"""Asynchronous work on a parameter table: get, learn, inc, clock, each rank at its own pace (`exchange.place=table`).

Nobody waits for anybody but for the reply of a row's owner (asp), or for ranks more than `bound` clocks behind (ssp). When
something is due rank 0 calls all: every push is applied by the time a rank has come, so when all have, the table is the
model, and each rank's rows of it are one part of a checkpoint.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from engine import loop
from engine.cluster import clock as clocks
from engine.errors import ConfigError, PeerError
from engine.modes.called import IDLE_S, Call, Called
from engine.modes.stale import once
from engine.source import stream as streams

LOOK_S = 0.05  # between looks at the clocks of others, while this rank has no rows
NEVER = 0xFFFFFFFF  # the clock of a rank that has no more rows: nobody waits for it


class Free(Called):
    """One rank's side of a run whose team is a `table.worker.Worker`; `bound`: clocks a rank may be ahead, None = any."""

    def __init__(self, job: loop.Job, bound: int | None = None) -> None:
        if isinstance(job.stream, streams.Dealt):
            raise ConfigError("exchange.place=table: dealing rows over ranks waits for all of them", fix="data.rule=part")
        self.bound = bound
        self._since = 0.0  # when this rank began to wait for one behind, 0: it does not
        self.begin(job)
        self.meet(job.link)
        self.team: Any = job.team
        self._looked, self._clocks = 0.0, 0

    def run(self) -> Iterator[loop.Event]:
        """Until rank 0 says stop; yields each due action, which all ranks get alike."""
        more = True
        while True:
            if not (more and self.ahead()):
                more = self.learn() if more else self.idle()
            self.team.table.poll()
            if (call := self.called()) is not None:
                for event in self.settle(call):
                    yield event
                    if isinstance(event.action, clocks.Stop):
                        return

    def ahead(self) -> bool:
        """Whether a rank is more than the bound behind this one, which then waits a little; PeerError past the deadline."""
        if self.bound is None:
            return False
        least = self.team.table.now - self.bound
        clocks_of = self.team.table.clocks(least)
        if clocks_of.min() >= least:
            self._since = 0.0
            return False
        self._since = self._since or time.monotonic()
        waited = time.monotonic() - self._since
        if waited > getattr(self.job.link, "timeout_s", 300.0):
            late = int(clocks_of.argmin())
            raise PeerError(f"rank {self.me} waited {waited:.1f} s in 'clocks within {self.bound}' for rank {late}, which "
                            f"is at {clocks_of[late]}, this one at {self.team.table.now}",
                            fix="resume from the last checkpoint; raise loop.stall_timeout if this wait is expected")
        time.sleep(IDLE_S)
        self.job.counts.add("wait_s", IDLE_S)
        return True

    def learn(self) -> bool:
        """One interval of rows; False where there are none left."""
        before = self.team.table.now
        _, count, left, error = self.interval()
        if self.team.table.now == before and left:
            self.team.table.clock()  # an interval without rows is one as well
        self.report(left, error)
        if left or count:
            return True
        self.team.settle_own()
        self.team.table.slab.clock(NEVER)
        return False

    def idle(self) -> bool:
        """No rows left: answers others until called, which may take as long as their clocks move."""
        if time.monotonic() - self._looked > LOOK_S:
            self._looked, now = time.monotonic(), int(self.team.table.clocks().sum())
            if now != self._clocks:
                self._clocks, self.busy_s = now, self._looked
        self.wait()
        self.report(False, None)
        return False

    def settle(self, call: Call) -> Iterator[loop.Event]:
        """All that was pushed is at its owners; then what is due."""
        actions, self.job.clock, failed = call
        if failed is not None:
            raise failed
        self.team.settle()
        if self.job.stage is not None:
            self.job.stage.exchange(self.job.link)
        self.count()
        for action in once(actions):
            yield loop.Event(action, self.job.clock.step, self.job.clock.rows)
