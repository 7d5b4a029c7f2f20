"""Asynchronous work on a parameter table: get, learn, inc, clock, each rank at its own pace (`exchange.place=table`, mode asp).

Nobody waits for anybody but for the reply of a row's owner. When something is due rank 0 calls all: every push is applied by
the time a rank has come, so when all have, the table is the model, and each rank's rows of it are one part of a checkpoint.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from engine import loop
from engine.cluster import clock as clocks
from engine.errors import ConfigError
from engine.modes.called import Call, Called
from engine.modes.stale import once
from engine.source import stream as streams

LOOK_S = 0.05  # between looks at the clocks of others, while this rank has no rows


class Free(Called):
    """One rank's side of a run whose team is a `table.worker.Worker`."""

    def __init__(self, job: loop.Job) -> None:
        if isinstance(job.stream, streams.Dealt):
            raise ConfigError("exchange.mode=asp: dealing rows over ranks waits for all of them", fix="data.rule=part")
        self.begin(job)
        self.meet(job.link)
        self.team: Any = job.team
        self._looked, self._clocks = 0.0, 0

    def run(self) -> Iterator[loop.Event]:
        """Until rank 0 says stop; yields each due action, which all ranks get alike."""
        more = True
        while True:
            more = self.learn() if more else self.idle()
            self.team.table.poll()
            if (call := self.called()) is not None:
                for event in self.settle(call):
                    yield event
                    if isinstance(event.action, clocks.Stop):
                        return

    def learn(self) -> bool:
        """One interval of rows; False where there are none left."""
        _, count, left, error = self.interval()
        self.report(left, error)
        return left or count > 0

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
