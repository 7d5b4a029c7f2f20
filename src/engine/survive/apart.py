"""Ranks that commit each for itself: no step is common, and the survivors of a death do not wait for what is read back.

    record   this rank's part of the state, its place in the input, its scores, and all that another rank may still need of
             it; only then does any letter leave. So what others have seen of a rank is always in that rank's node memory
    death    the others get a communicator of their own and go on; an heir reads the dead member's files beside its own learning
    return   one record of the heir holds all it took; it is the only one that counts from then on
    relaunch the newest record of each member, put together

What is learned, sent and inherited is the mode's: `survive/pushes.py` (asp), `survive/mass.py` (gossip).

Copies at a partner are not kept here: the memory of a host that is lost is lost, and the file system is next.
"""
from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine import job as jobs
from engine import loop, resume
from engine.cluster.recover import Held, newest
from engine.errors import ConfigError, EngineError, PeerError
from engine.source import stream as streams
from engine.store import crash
from engine.store.checkpoint import check_match
from engine.store.keeper import Copy
from engine.store.record import Change, Record
from engine.survive import protect
from engine.survive.word import Word
from engine.types import Array, Block, Link, Schema, State
from engine.watch.meter import Meter

Part = tuple[State, dict[str, Any]]  # what a record says of a member


class Apart(protect.Protection):
    """The keeper of a member whose records are its own. `carried`: the mode's run, which goes on after a death."""

    modes: tuple[str, ...] = ()
    named: tuple[str, ...] = ()  # blocks, by how their paths begin, whose changed rows the mode knows
    carried: Any = None

    # --- of the mode

    def check(self, job: loop.Job) -> None:
        """ConfigError where jobs like this are not kept."""

    def base(self, job: loop.Job) -> tuple[State, dict[str, Any]]:
        """This rank's part of the state as it begins, and what a record says beside it."""
        raise NotImplementedError

    def changed(self, run: Any) -> tuple[list[Change], dict[str, Any]]:
        """What has changed of it since the last record."""
        raise NotImplementedError

    def meet(self, run: Any, link: Link, members: list[int], heirs: dict[int, int]) -> None:
        """The run goes on over the survivors' `link` (collective)."""
        run.regroup(link, members, heirs)

    def inherit(self, run: Any, part: Part) -> None:
        """Takes a dead member's part."""
        raise NotImplementedError

    # --- records

    def begin(self, job: loop.Job, schema: Schema) -> None:
        """The job's state as it is becomes this epoch's base (collective)."""
        if not isinstance(job.stream, streams.Placed) or job.stage is not None or job.tactic is not None:
            raise ConfigError(f"exchange.mode={self.config.exchange.mode}: copies in node memory are for rows read in place, "
                              "without stages and strategies of their own",
                              fix="fault.memory=off and checkpoints, or exchange.mode=bsp")
        self.check(job)
        crash.node_folder = str(self.folder(0, "own").parent)
        crash.point("begin")
        self._before, self._ranks = job.clock.rows, self.link.size
        self._job, self.me, self._members = job, self.link.rank, list(range(self.link.size))
        self._plays = [self.me]  # members whose part is in this rank's records
        self._heirs: dict[int, int] = {}  # of the dead
        self._read: dict[int, list[Part] | EngineError] = {}
        self.awaited: set[int] = set()  # dead members whose part is being read here
        self._lap = 0
        self._lost_s = 0.0
        state, own = self.base(job)
        state |= self._meters(job)
        self._seen = {path: Block(np.array(block.data)) for path, block in state.items() if not path.startswith(self.named)}
        meta = json.loads(json.dumps(resume.about(job, self.config, schema))) | self._said(job, own)
        self._about = meta["match"]
        record = Record(job.clock.step, job.clock.step, (), meta, self.epoch, 0, self.me, self.link.size)
        self._own = jobs.agreed(self.link, lambda: self._keep(self.me, "own", state, record), "images")
        self.link.barrier(name="images")
        crash.point("began")
        if self.leads:
            for path in self.root.glob("epoch-*"):
                if protect._epoch_of(path) < self.epoch:
                    shutil.rmtree(path, ignore_errors=True)

    def commit(self, job: loop.Job) -> None:
        """Nothing is kept in lock-step here: the run calls `keep`."""

    def keep(self, run: Any, *, seal: bool = True) -> None:
        """One record: all that changed here since the last. `seal`: older ones may be forgotten."""
        assert self._own is not None and self._job is not None
        began = time.perf_counter()
        crash.point("commit")
        changes, own = self.changed(run)
        for path, block in self._meters(self._job).items():
            found = self._compared(path, block)
            changes += [] if found is None else [found]
        meta = self._said(self._job, own)
        base = self._own.version
        self._own.append(Record(base + 1, base, tuple(changes), meta, self.epoch, 0, self.me, self._ranks))
        crash.point("own")
        if self._own.due and seal:
            self._own.seal()
        if not self._told:
            self._told = True
            protect.audit("committed", step=base + 1, epoch=self.epoch)
        self.pulse.step(base + 1, own["rows"])
        self._job.counts.add("protect_s", time.perf_counter() - began)

    def _meters(self, job: loop.Job) -> State:
        found: State = {}
        for name, data in job.meter.view().items():
            if data.ndim > 1 and data.nbytes > protect.WIDE_BYTES * len(data):
                self._wide[name] = list(data.shape)  # kept element by element
                data = data.reshape(-1)
            found[f"meter/{self.me:06d}/{name}"] = Block(data)
        return found

    def _said(self, job: loop.Job, own: dict[str, Any]) -> dict[str, Any]:
        stream: Any = job.stream
        clock = job.clock
        own = {"mode": self.modes[0], "members": list(self._plays), "rows": 0, "before": self._before} | own
        return {"apart": own, "mark": stream.mark(), "clock": [clock.step, clock.rows], "label": float(job.label),
                "saved": clock.saved_rows, "shapes": self._wide, "canary": 0}

    # --- a death, seen by the survivors

    def regroup(self, link: Link) -> list[int]:
        """Goes on over the survivors' `link` at once; what the dead held is read by an heir meanwhile (collective).

        Returns the members that died. PeerError where nobody can read what one of them held.
        """
        run, began = self.carried, time.monotonic()
        if run is None:
            raise PeerError("a rank died before the first interval")
        said = protect._all(link, self.me, "members")
        dead = [m for m in self._members if m not in said]
        seen = protect._all(link, [m for m in dead if self._files(m)], "files of the dead")
        heirs = {}
        for at, member in enumerate(dead):
            able = [said[r] for r, sees in enumerate(seen) if member in sees]
            if not able:
                raise PeerError(f"nobody here can read what rank {member} kept", fix="the supervisor starts the run again")
            heirs[member] = able[at % len(able)]
        self.pulse.excuse(dead)
        self.word = Word() if self.word else None
        self.link, self._members = link, said
        if hasattr(link, "alarm"):
            link.alarm = self.why
        self.meet(run, link, said, heirs)
        self._lost_s = began
        for member in [m for m, heir in heirs.items() if heir == self.me]:
            wards = [m for m, heir in self._heirs.items() if heir == member]
            self.awaited.add(member)
            threading.Thread(target=self._fetch, args=(member, wards), name="return", daemon=True).start()
        self._heirs = {m: heirs.get(heir, heir) for m, heir in self._heirs.items()} | heirs
        return dead

    def _files(self, member: int) -> list[Path]:
        return sorted(self.root.glob(f"epoch-{self.epoch:06d}/node-*/own-{member:06d}"))

    def _fetch(self, member: int, wards: Sequence[int]) -> None:
        """Reads what a dead member held, and the `wards` it was an heir of and had not taken yet; beside the learning."""
        try:
            found = [self._newest(member)]
            found += [self._newest(ward) for ward in wards if ward not in found[0][1]["apart"]["members"]]
            self._read[member] = found
        except EngineError as error:
            self._read[member] = error

    def _newest(self, member: int) -> Part:
        """The newest record of a dead member in the lap of all, every checksum verified."""
        problem: EngineError = PeerError(f"what rank {member} kept cannot be read")
        for path in self._files(member):
            try:
                copy = Copy(path)
                state, meta = copy.state_at(latest(copy, self._lap))
                check_match(meta, self._about, str(path))
                return state, meta
            except EngineError as error:
                problem = error
            except ValueError as error:
                problem = PeerError(f"what rank {member} kept cannot be read: {error}")
        raise problem

    def returned(self, run: Any) -> None:
        """Takes what has been read of the dead, all that one of them held in one record."""
        while self._read:
            member, found = self._read.popitem()
            if isinstance(found, EngineError):
                raise found
            began = time.monotonic()
            job: Any = self._job
            for state, meta in found:
                job.stream.adopt(meta["mark"])
                job.meter = Meter.merged([job.meter.state(), meter_of(state, meta)])
                self.inherit(run, (state, meta))
                self._plays += meta["apart"]["members"]
            self.awaited.discard(member)
            run.keep()
            for _, meta in found:
                for path in [path for gone in meta["apart"]["members"] for path in self._files(gone)]:
                    shutil.rmtree(path, ignore_errors=True)
            protect.audit("returned", member=member, heir=self.me, rows=sum(meta["apart"]["rows"] for _, meta in found),
                          spent={"read": began - self._lost_s, "repair": time.monotonic() - began})


def meter_of(state: State, meta: dict[str, Any]) -> dict[str, Array]:
    named = {path.rsplit("/", 1)[1]: block.data for path, block in state.items() if path.startswith("meter/")}
    return {name: data.reshape(meta["shapes"][name]) if name in meta["shapes"] else data for name, data in named.items()}


def latest(copy: Copy, lap: int) -> int:
    """The newest version whose record is of this lap or one before."""
    return max((v for v, meta in copy.metas.items() if meta["apart"].get("lap", 0) <= lap), default=max(copy.versions))


def recalled(shield: protect.Protection, job: loop.Job, schema: Schema, known: Sequence[Held], holder: Sequence[int],
             mine: Sequence[Copy]) -> dict[str, Any]:
    """Takes the newest record of every member of a run whose ranks kept each their own; its meta (collective)."""
    from engine.survive import mass, pushes

    chosen = newest(known)
    parts: list[Part] = []
    if chosen is not None:
        by_name = {f"{shield.host}:{copy.folder}": copy for copy in mine}
        found, ours = [], [by_name[known[at].holder] for at in chosen if holder[at] == shield.link.rank]
        laps = protect._all(shield.link, [copy.meta["apart"].get("lap", 0) for copy in ours], "laps")
        lap = min(lap for part in laps for lap in part)
        for copy in ours:
            try:
                found.append(copy.state_at(latest(copy, lap)))
            except EngineError as error:
                shield.notes.append(f"{copy.folder}: {error.message}")
        every = protect._all(shield.link, (found, len(found) == len(ours)), "members from memory")
        parts = sorted((one for more, _ in every for one in more), key=lambda one: min(one[1]["apart"]["members"]))
        if not all(whole for _, whole in every):
            parts = []
    if not parts:
        raise protect.Incomplete(f"node memory holds {len(known)} copies but not every rank's", where=str(shield.root),
                                 fix="resume from the last checkpoint")
    check_match(parts[0][1], resume.matching(shield.config, schema), str(shield.root))
    put = {"asp": pushes.assembled, "gossip": mass.assembled}[parts[0][1]["apart"].get("mode", "asp")]
    state, rows = put(parts, job.team.models[0])
    for rank, (part, meta) in enumerate(parts):
        state |= {f"meter/{rank:06d}/{name}": Block(data) for name, data in meter_of(part, meta).items()}
    label, marks = parts[-1][1]["label"], [meta["mark"] for _, meta in parts]
    meta = parts[0][1] | {"ranks": len(parts), "clock": [max(meta["clock"][0] for _, meta in parts), rows], "label": label,
                          "position": streams.merged(marks, rows, label).dump()}
    resume.adopt(job, state, meta)
    return meta
