"""Asynchronous ranks commit each for itself: no step is common, and the survivors of a death do not wait for what is read back.

    record   after each interval: my shards' changed rows, which pushes they hold, my place in the input, my scores, and
             every push that its owner is not known to have applied; only then does any letter leave (`modes/owner.py`)
    death    the others get a communicator of their own and go on; an heir reads the dead member's files beside its own learning
    return   one record of the heir holds all it took: shards, pushes, scores, the rest of the rows; it is the only one that
             counts from then on
    relaunch the newest record of each member, put together; pushes that no shard holds yet are applied, each once

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
from engine.modes.owner import Owner, cuts
from engine.modes.post import Letter, close, open_
from engine.source import stream as streams
from engine.store import crash
from engine.store.checkpoint import check_match
from engine.store.differ import taken
from engine.store.keeper import Copy
from engine.store.record import Change, Record
from engine.survive import protect
from engine.types import Array, Block, Link, Schema, State, Update
from engine.watch.meter import Meter

COLUMNS = (("w", "owner"), ("a", "owner"), ("n", "owner"))
Unsent = tuple[int, int, int, Update]  # sender, shard, number (0 = none yet), update


class Apart(protect.Protection):
    """The keeper of a member whose records are its own. `carried`: the owner that goes on after a death."""

    modes = ("asp",)
    carried: Owner | None = None
    _read: dict[int, tuple[State, dict[str, Any]] | EngineError]

    def begin(self, job: loop.Job, schema: Schema) -> None:
        """The job's state as it is becomes this epoch's base (collective)."""
        if not isinstance(job.stream, streams.Placed) or job.stage is not None or job.tactic is not None:
            raise ConfigError("exchange.mode=asp: copies in node memory are for rows read in place, without stages and "
                              "strategies of their own", fix="fault.memory=off and checkpoints, or exchange.mode=bsp")
        if not hasattr(job.team.models[0], "follow"):
            raise ConfigError("exchange.mode=asp: expected a linear model", fix="exchange.mode=bsp")
        crash.node_folder = str(self.folder(0, "own").parent)
        crash.point("begin")
        self._before = job.clock.rows
        self._job, self.me, self._members = job, self.link.rank, list(range(self.link.size))
        self._shards, self._fresh, self._read, self._lost_s = [self.me], set[int](), {}, 0.0
        self._threads: list[threading.Thread] = []
        model: Any = job.team.models[0]
        low, high = cuts(len(model._block), self.link.size)[self.me : self.me + 2]
        state = {_path(self.me): Block(np.array(model._block[low:high, :3]), COLUMNS),  # type: ignore[arg-type]
                 "outbox": Block(_packed([])), **self._meters(job)}
        if self.me == 0:
            state |= _head(model)
        self._seen = {path: Block(np.array(block.data)) for path, block in state.items() if path.startswith("meter/")}
        meta = json.loads(json.dumps(resume.about(job, self.config, schema))) | self._said(job, [self.me], {}, 0)
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
        """Nothing is kept in lock-step here: the owner calls `keep`."""

    def keep(self, owner: Owner) -> None:
        """One record: all that changed here since the last."""
        assert self._own is not None and self._job is not None
        if not (owner.touched or owner.out or self._fresh) and owner.rows == self._rows_kept:
            return
        began = time.perf_counter()
        crash.point("commit")
        changes = self._changed(owner)
        meta = self._said(self._job, self._shards, owner.applied, owner.rows)
        base = self._own.version
        self._own.append(Record(base + 1, base, tuple(changes), meta, self.epoch, 0, self.me, len(owner.holder)))
        crash.point("own")
        if self._own.due:
            self._own.seal()
        self._fresh.clear()
        self._rows_kept = owner.rows
        if not self._told:
            self._told = True
            protect.audit("committed", step=base + 1, epoch=self.epoch)
        self.pulse.step(base + 1, owner.rows)
        self._job.counts.add("protect_s", time.perf_counter() - began)

    _rows_kept = -1

    def _changed(self, owner: Owner) -> list[Change]:
        model, job = owner.kept, self._job
        assert job is not None
        keys = np.unique(np.concatenate(owner.touched)) if owner.touched else np.empty(0, np.uint32)
        owner.touched.clear()
        changes = []
        for shard in self._shards:
            low, high = owner.cuts[shard : shard + 2]
            block = model._block[low:high, :3]
            if shard in self._fresh:
                changes.append(Change(_path(shard), None, np.array(block), high - low, COLUMNS))
                continue
            rows = keys[np.searchsorted(keys, low) : np.searchsorted(keys, high)] - np.uint32(low)
            if len(rows):
                changes.append(Change(_path(shard), rows, taken(block, rows), high - low, COLUMNS))
        if 0 in self._shards:
            changes += [Change(path, None, np.array(block.data), len(block.data)) for path, block in _head(model).items()]
        unsent = [(sender, shard, number, part) for (sender, shard), flying in owner.flying.items() for number, part in flying]
        unsent += [(self.me, shard, 0, part) for shard, part in enumerate(owner.waiting) if part is not None]
        packed = _packed(unsent)
        changes.append(Change("outbox", None, packed, len(packed)))
        for path, block in self._meters(job).items():
            found = self._compared(path, block)
            changes += [] if found is None else [found]
        return changes

    def _meters(self, job: loop.Job) -> State:
        found: State = {}
        for name, data in job.meter.view().items():
            if data.ndim > 1 and data.nbytes > protect.WIDE_BYTES * len(data):
                self._wide[name] = list(data.shape)  # kept element by element
                data = data.reshape(-1)
            found[f"meter/{self.me:06d}/{name}"] = Block(data)
        return found

    def _said(self, job: loop.Job, shards: Sequence[int], applied: dict[tuple[int, int], int], rows: int) -> dict[str, Any]:
        stream: Any = job.stream
        clock = job.clock
        own = {"members": list(shards), "rows": rows, "before": self._before,
               "applied": [[*place, n] for place, n in applied.items()]}
        return {"apart": own, "mark": stream.mark(), "clock": [clock.step, clock.rows], "label": float(job.label),
                "saved": clock.saved_rows, "shapes": self._wide, "canary": 0}

    # --- a death, seen by the survivors

    def regroup(self, link: Link) -> list[int]:
        """Goes on over the survivors' `link` at once; what the dead held is read by an heir meanwhile (collective).

        Returns the members that died. PeerError where nobody can read what one of them held.
        """
        owner, began = self.carried, time.monotonic()
        if owner is None:
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
        self.link, self._members = link, said
        if hasattr(link, "alarm"):
            link.alarm = self.why
        owner.regroup(link, said, heirs)
        self._lost_s = began
        for member in [m for m, heir in heirs.items() if heir == self.me]:
            self._threads.append(threading.Thread(target=self._fetch, args=(member,), name="return", daemon=True))
            self._threads[-1].start()
        return dead

    def _files(self, member: int) -> list[Path]:
        return sorted(self.root.glob(f"epoch-{self.epoch:06d}/node-*/own-{member:06d}"))

    def _fetch(self, member: int) -> None:
        """Reads the newest record of a dead member, every checksum verified; beside the learning."""
        problem: EngineError = PeerError(f"what rank {member} kept cannot be read")
        for path in self._files(member):
            try:
                copy = Copy(path)
                state, meta = copy.state_at(max(copy.versions))
                check_match(meta, self._about, str(path))
                self._read[member] = state, meta
                return
            except EngineError as error:
                problem = error
            except ValueError as error:
                problem = PeerError(f"what rank {member} kept cannot be read: {error}")
        self._read[member] = problem

    def returned(self, owner: Owner) -> None:
        """Takes what has been read of the dead, all that one member had in one record."""
        while self._read:
            member, found = self._read.popitem()
            if isinstance(found, EngineError):
                raise found
            began = time.monotonic()
            state, meta = found
            said = meta["apart"]
            shards = {shard: state[_path(shard)].data for shard in said["members"]}
            applied = {(sender, shard): n for sender, shard, n in said["applied"]}
            head = (state["model/clock"].data, state["stage/scale"].data if "stage/scale" in state else None) if (
                "model/clock" in state) else None
            job: Any = self._job
            job.stream.adopt(meta["mark"])
            job.meter = Meter.merged([job.meter.state(), _meter(state, meta)])
            owner.inherit(shards, applied, _unpacked(state["outbox"].data), said["rows"], head)
            self._shards += said["members"]
            self._fresh |= set(said["members"])
            owner.keep()
            for path in self._files(member):
                shutil.rmtree(path, ignore_errors=True)
            protect.audit("returned", member=member, heir=self.me, rows=said["rows"],
                          spent={"read": began - self._lost_s, "repair": time.monotonic() - began})


def _path(shard: int) -> str:
    return f"shard/{shard:06d}"


def _head(model: Any) -> State:
    """What the holder of shard 0 keeps besides: the clock, and the scaler where there is one."""
    scale = {} if model._scale is None else {"stage/scale": Block(model._scale)}
    return {"model/clock": Block(np.array(model._clock)), **scale}


def _meter(state: State, meta: dict[str, Any]) -> dict[str, Array]:
    named = {path.rsplit("/", 1)[1]: block.data for path, block in state.items() if path.startswith("meter/")}
    return {name: data.reshape(meta["shapes"][name]) if name in meta["shapes"] else data for name, data in named.items()}


def _packed(unsent: Sequence[Unsent]) -> Array:
    """Pushes as uint8: their number, then the length of each and its letter."""
    parts = [np.array([len(unsent)], np.int64).view(np.uint8)]
    for sender, shard, number, part in unsent:
        data = close(Letter(number, np.array([sender, shard], np.float64), part))
        data = np.concatenate([data, np.zeros(-len(data) % 8, np.uint8)])
        parts += [np.array([len(data)], np.int64).view(np.uint8), data]
    return np.concatenate(parts)


def _unpacked(data: Array) -> list[Unsent]:
    found: list[Unsent] = []
    at = 8
    for _ in range(int(data[:8].view(np.int64)[0])):
        size = int(data[at : at + 8].view(np.int64)[0])
        letter = open_(np.array(data[at + 8 : at + 8 + size]))
        assert letter.update is not None
        found.append((int(letter.ticket[0]), int(letter.ticket[1]), letter.number, letter.update))
        at += 8 + size
    return found


def recalled(shield: protect.Protection, job: loop.Job, schema: Schema, known: Sequence[Held], holder: Sequence[int],
             mine: Sequence[Copy]) -> dict[str, Any]:
    """Takes the newest record of every member of a run whose ranks kept each their own; its meta (collective)."""
    chosen = newest(known)
    parts: list[Any] = []
    if chosen is not None:
        by_name = {f"{shield.host}:{copy.folder}": copy for copy in mine}
        found, ours = [], [known[at] for at in chosen if holder[at] == shield.link.rank]
        for held in ours:
            try:
                found.append(by_name[held.holder].state_at(max(held.versions)))
            except EngineError as error:
                shield.notes.append(f"{held.holder}: {error.message}")
        every = protect._all(shield.link, (found, len(found) == len(ours)), "members from memory")
        parts = sorted((one for more, _ in every for one in more), key=lambda one: min(one[1]["apart"]["members"]))
        if not all(whole for _, whole in every):
            parts = []
    if not parts:
        raise protect.Incomplete(f"node memory holds {len(known)} copies but not every rank's", where=str(shield.root),
                                 fix="resume from the last checkpoint")
    check_match(parts[0][1], resume.matching(shield.config, schema), str(shield.root))
    state, meta = assembled(parts, job.team.models[0])
    resume.adopt(job, state, meta)
    return meta


def assembled(parts: Sequence[tuple[State, dict[str, Any]]], model: Any) -> tuple[State, dict[str, Any]]:
    """The state of the job from every member's, pushes applied that no shard has; and its meta."""
    blocks = {path: block for state, _ in parts for path, block in state.items()}
    state: State = {path: block for path, block in blocks.items() if path in ("model/clock", "stage/scale")}
    shards = sorted(path for path in blocks if path.startswith("shard/"))
    state["model/linear"] = Block(np.concatenate([blocks[path].data for path in shards]), COLUMNS)  # type: ignore[arg-type]
    applied = {(sender, shard): n for _, meta in parts for sender, shard, n in meta["apart"]["applied"]}
    whole = model.fork()
    whole.load(state)
    for part, _ in parts:
        for sender, shard, number, update in _unpacked(part["outbox"].data):
            if not number or number > applied.get((sender, shard), 0):
                whole.merge(update, 1)
    state = whole.state()
    for rank, (part, meta) in enumerate(parts):
        state |= {f"meter/{rank:06d}/{name}": Block(data) for name, data in _meter(part, meta).items()}
    steps = max(meta["clock"][0] for _, meta in parts)
    rows = int(parts[0][1]["apart"]["before"]) + sum(int(meta["apart"]["rows"]) for _, meta in parts)
    label = parts[-1][1]["label"]
    marks = [meta["mark"] for _, meta in parts]
    return state, dict(parts[0][1]) | {"ranks": len(parts), "clock": [steps, rows], "label": label,
                                       "position": streams.merged(marks, rows, label).dump()}

