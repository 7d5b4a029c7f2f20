"""Rounds that all ranks commit in order, each when it has them whole (bounded staleness, hybrid): kept as steps are.

    take     where the input stands after a round's rows is noted, before they are learned
    commit   the round is whole: one record of this rank's share of the committed state, with the place and the scores of
             that round; the guard is sent the same, and nobody waits for it
    recover  the newest round that every shard can give with one digest; what was under way then is learned again: no place
             that a record names is behind it

The committed state is the same bytes on all ranks round by round, so a record holds a share of it, as in lock-step. Ranks
commit a round at different times: letters say how far the copies of a rank reach, and an image is written over only where
every rank reaches at least the other one.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine import loop
from engine.errors import ConfigError, PeerError
from engine.modes.post import Post
from engine.store.record import Record
from engine.survive import protect
from engine.survive.live import Stand
from engine.survive.partner import Copies, packed
from engine.types import Array, Schema, Update

TAG = 130


class Committed:
    """The workers of a job as its keeper sees them: one model, as of the round."""

    def __init__(self, model: Any) -> None:
        self.models = [model]


class Rounds(protect.Protection):
    """The keeper of a rank that commits rounds, or, between two stretches of them, steps of lock-step."""

    modes = ("ssp", "hybrid", "auto")
    _post: Post | None = None
    place = staticmethod(protect.place)

    @property
    def at(self) -> Stand:
        """Nowhere: the workers of a rank are ahead of what is committed, so a recovery in place reads node memory."""
        return -1, -1, 0

    def begin(self, job: loop.Job, schema: Schema) -> None:
        """The job's state as it is becomes this epoch's base (collective)."""
        if job.stage is not None or job.tactic is not None:
            raise ConfigError(f"exchange.mode={self.config.exchange.mode}: copies in node memory are for jobs without stages "
                              "and strategies of their own", fix="fault.memory=off and checkpoints, or exchange.mode=bsp")
        super().begin(job, schema)
        self.flush = None  # checkpoints are written where all have settled

    def open(self) -> None:
        """From here on rounds are committed, until `shut`."""
        assert self._own is not None
        version = self._own.version
        self._post = Post(self.link, TAG, "records to guards")
        self._wards = [] if self._copies is None else self._copies.wards
        self._kept, self._came = 0, dict.fromkeys(self._wards, 0)
        self._reach = [-1] * self.link.size  # of each rank: the version that all copies it writes have reached
        self._digests = {version: self._digest}
        self._claims: dict[int, dict[int, int]] = {}  # version -> rank -> digest, of rounds not yet whole here

    def said(self) -> list[float]:
        """For a letter: the version that all copies here have reached; the newest round, and its digest."""
        assert self._own is not None
        reach = min([self._own.version, *(copy.version for copy in self.beside)])
        return [float(reach), float(self._own.version), float(self._digest)]

    def told(self, rank: int, said: Array) -> None:
        """`said` came with a letter of `rank`. PeerError where that rank has committed something else."""
        self._reach[rank], version, digest = (int(value) for value in said)
        if version in self._digests:
            self._agree(version, {rank: digest})
        else:
            self._claims.setdefault(version, {})[rank] = digest

    def _agree(self, version: int, said: dict[int, int]) -> None:
        odd = [rank for rank, digest in said.items() if digest != self._digests[version]]
        if odd:
            raise PeerError(f"ranks disagree on step {version}: digests of rank {self.link.rank} and of ranks {odd} differ",
                            fix="start again: the last agreed step is taken")

    def round(self, job: loop.Job, model: Any, total: Update, at: dict[str, Any]) -> None:
        """The round just committed, whose rows ended at `at`: `model` is the committed state, `job.clock` the round's."""
        if self._own is None:
            return
        self.commit(replace(job, team=Committed(model), stream=at, merged=total))  # type: ignore[arg-type]
        version = self._own.version
        self._digests[version] = self._digest
        self._agree(version, self._claims.pop(version, {}))
        self._reach[self.link.rank] = int(self.said()[0])
        safe = min(self._reach)
        if safe > self._committed:
            self._committed = safe
            if not self._told:
                self._told = True
                if self.link.rank == 0:
                    protect.audit("committed", step=safe, epoch=self.epoch)
        self._digests = {v: digest for v, digest in self._digests.items() if v >= safe}
        self.pulse.step(self._committed)
        for keeper in (self._own, *self.beside):
            if keeper.due and keeper.images[-1] <= safe:
                self._later(keeper.seal)

    def shut(self) -> None:
        """The rounds that all ranks have committed are at their guards (collective in its effect)."""
        assert self._post is not None
        for ward in self._wards:
            while self._came[ward] < self._kept:
                self._take(ward)
        self._written()
        self._post.finish()
        self._post = None

    @property
    def _copies(self) -> Copies | None:
        return self.partner if isinstance(self.partner, Copies) else None

    def _guard(self, record: Record, frame: Sequence[memoryview]) -> None:
        post, copies = self._post, self._copies
        if post is None or copies is None:
            super()._guard(record, frame)
            return
        self._kept += 1
        data = packed(frame)
        for guard in copies.guards[self.link.rank]:
            post.waiting(guard)
            post.put(data, guard)
        for ward in self._wards:
            while self.link.probe(tag=TAG, source=ward) is not None:
                self._take(ward)

    def _take(self, ward: int) -> None:
        assert self._copies is not None
        self._came[ward] += 1
        self._later(self._copies.kept[ward].take, self.link.take(ward, name="records to guards", tag=TAG))
