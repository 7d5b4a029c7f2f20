"""What keeps a running job safe: every committed step in node memory, a copy on another node, recovery from either.

    begin:   the whole shard into an image, here and at the guard           (a new epoch; the old one stays until all have it)
    commit:  this step's changed rows as one record, here and at the guard  (after the merge, before the next step learns)
    vote:    the next step's vote carries the digest of the last step; where all agree it is committed
    recover: the newest step that every shard can give with one digest, on any number of ranks

The rank's shard is its share of the rows of what all ranks hold alike, and all that it alone holds (its meter, its cursors).
"""
from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from engine import job as jobs
from engine import loop, resume
from engine.cluster.health import Limits
from engine.cluster.recover import Choice, Held, choose
from engine.config import Config
from engine.crew import Crew
from engine.errors import EngineError, PeerError, StoreError
from engine.kernels import _native
from engine.source import stream as streams
from engine.source.live import Live
from engine.store import crash
from engine.store.checkpoint import check_match, split
from engine.store.differ import differing, taken
from engine.store.keeper import Copy, Keeper
from engine.store.record import Change, Record
from engine.survive import live, partner
from engine.survive.canary import canary, check_canary
from engine.survive.flush import Flush
from engine.survive.parts import assembled, digest, removed
from engine.survive.pulse import Pulse, die_with_parent, fence, fenced, home
from engine.survive.ring import Ring
from engine.survive.word import Word
from engine.types import Array, Block, Link, Schema, State

WIDE_BYTES = 4096  # a row wider than this is kept element by element
DIGEST = (1 << 52) - 1  # what a float64 of the vote carries exactly
PER_RANK = "meter/"


def run_id(config: Config) -> str:
    """The name of the run in node memory: the supervisor's, or one that the checkpoint directory stands for; "" = none."""
    if os.environ.get("ENGINE_MEMORY_ID"):
        return os.environ["ENGINE_MEMORY_ID"]
    if config.fault.memory == "on":
        named = os.path.realpath(config.checkpoint.dir) if config.checkpoint.dir else f"{os.getppid()}-{os.getpid()}"
        return hashlib.blake2b(named.encode(), digest_size=6).hexdigest()
    return ""


_lives: list[str] = []  # one entry a start of protection in this process: the second is a recovery in place


def start(config: Config, link: Link) -> Protection | None:
    """The protection of this run, or None where it has none (collective)."""
    made = kind(config) if link.size > 1 else Protection
    if _lives:
        return made(config, link, home(config.fault.folder) / _lives[0])
    name = link.bcast(run_id(config) if config.fault.memory != "off" else "", name="run id")
    if not name:
        return None
    die_with_parent(link.size)
    root = home(config.fault.folder) / name
    _lives.append(name)
    anew = config.checkpoint.resume == "never" and os.environ.get("ENGINE_ATTEMPT", "0") == "0"
    if anew and not link.rank:
        shutil.rmtree(root, ignore_errors=True)  # of another life: this one starts anew
    link.barrier(name="node memory")
    return made(config, link, root)


def kind(config: Config) -> type[Protection]:
    """Who keeps a run of several ranks in this mode."""
    from engine.survive import mass, pushes, rounds

    mode = config.exchange.mode.partition(":")[0]
    if mode == "bsp" and config.update.strategy == "decentralised":
        mode = "gossip"
    made: tuple[type[Protection], ...] = (pushes.Pushes, mass.Mass, rounds.Rounds)
    return next((one for one in made if mode in one.modes), Protection)


class Incomplete(StoreError):
    """Node memory is there, but more of it is lost than copies make good: the file system is next."""


class Protection:
    """The `loop.Keeper` of one rank. `root`: the run's folder in the memory of this host. `modes`: whose commits it keeps."""

    modes: tuple[str, ...] = ("bsp", "local")

    def __init__(self, config: Config, link: Link, root: Path) -> None:
        self.config, self.link, self.root = config, link, root
        newest = max([fenced(root), *(_epoch_of(path) for path in root.glob("epoch-*"))])
        said = _all(link, (socket.gethostname(), os.getpid(), newest), "hosts")
        hosts = [host for host, _, _ in said]
        self.host = hosts.index(hosts[link.rank])
        self.locals = [r for r in range(link.size) if hosts[r] == hosts[link.rank]]
        each = config.fault.ranks_per_node
        self.nodes = [r // each if each else hosts.index(name) for r, name in enumerate(hosts)]
        self.epoch = max(epoch for _, _, epoch in said) + 1
        pids = [pid for host, pid, _ in said if host == hosts[link.rank]]
        self.killed = jobs.agreed(link, lambda: fence(root, self.epoch, spare=pids) if self.leads else [], "fence")
        limits = Limits(config.fault.frozen, config.fault.hung, min(0.02, config.fault.frozen / 5))
        self.pulse: Pulse = jobs.agreed(link, lambda: Pulse(root, self.epoch, link.rank, link.size, limits,
                                                            lambda text: audit("fence", why=text)), "heartbeat")
        self.ring, self.word = self._ringed(hosts), Word() if len(set(hosts)) > 1 else None
        if hasattr(link, "alarm"):
            link.alarm = self.why
        again = self.epoch > 1 or os.environ.get("ENGINE_ATTEMPT", "0") != "0"
        self.partner = partner.made(config, link, self.nodes, self.folder, again=again)
        self.notes: list[str] = []
        self._own: Keeper | None = None
        self._alive: State = {}  # what needs not be read in a recovery in place
        self._seen: State = {}
        self._rows: dict[str, int] = {}
        self._wide: dict[str, list[int]] = {}
        self._digest = 0
        self._began = self._committed = 0
        self._told = True  # the first step committed after a recovery is told
        self.flush: Flush | None = None
        self._job: loop.Job | None = None
        self._pool = ThreadPoolExecutor(1, "keep")  # copies and images are written while the next step is learned
        self._under: list[Future[Any]] = []

    def _later(self, act: Callable[..., Any], *args: Any) -> None:
        self._under.append(self._pool.submit(act, *args))

    def _written(self) -> None:
        """Until all that was left to the thread is done; its errors are raised here."""
        while self._under:
            self._under.pop(0).result(self.config.loop.stall_timeout)

    def _ringed(self, hosts: Sequence[str]) -> Ring | None:
        """Heartbeats between hosts, at the first rank of each; None on one host, and on the others (collective)."""
        if len(set(hosts)) == 1:
            return None
        order = {name: at for at, name in enumerate(dict.fromkeys(hosts))}
        silent_s = self.config.fault.silent
        ring = Ring(self.root.name, self.epoch, order[hosts[self.link.rank]], silent_s=silent_s) if self.leads else None
        said = _all(self.link, ring.address() if ring else None, "addresses")
        if ring is not None:
            ring.start([at for at in said if at is not None])
        return ring

    def why(self) -> str:
        """Why every wait must be called off: a neighbour that is gone, or a host that is silent; "" where all is well."""
        return self.pulse.why() or (self.word.why() if self.word else "") or (self.ring.why() if self.ring is not None else "")

    @property
    def at(self) -> live.Stand:
        """Epoch, step and digest of the last step kept here."""
        return self.epoch, self._own.version if self._own else -1, self._digest

    @property
    def leads(self) -> bool:
        """Whether this rank is the first of its host."""
        return self.link.rank == self.locals[0]

    def folder(self, shard: int, role: str) -> Path:
        return self.root / f"epoch-{self.epoch:06d}" / f"node-{self.nodes[self.link.rank]}" / f"{role}-{shard:06d}"

    # --- recovery

    def recover(self, job: loop.Job, schema: Schema) -> dict[str, Any] | None:
        """Takes the newest step that can be had from node memory; its meta, or None where there is none (collective).

        `meta["spent"]`: seconds of the survey and of loading. StoreError where there is memory but no step is whole.
        """
        began = time.monotonic()
        mine = [Copy(path) for path in self._found()]
        held = [Held(f"{self.host}:{copy.folder}", copy.epoch, copy.shard, copy.shards,
                     copy.folder.name.partition("-")[0], copy.versions, tuple(copy.meta.get("apart", {}).get("members", ())),
                     partner.lane_of(copy))
                for copy in mine if copy.versions]
        self.notes += [problem for copy in mine for problem in copy.problems]
        by_rank = _all(self.link, (held, getattr(job.team, "stand", None)), "copies in memory")
        known = [copy for part, _ in by_rank for copy in part]
        holder = [rank for rank, (part, _) in enumerate(by_rank) for _ in part]
        surveyed = time.monotonic()
        if any(copy.members for copy in known):
            from engine.survive.apart import recalled

            meta = recalled(self, job, schema, known, holder, mine)
            return self._recovered(meta, meta["clock"][0], began, surveyed)
        below: tuple[int, int] | None = None
        while True:
            choice = choose(known, below=below)
            if choice is None:
                if known:
                    raise Incomplete(f"node memory holds {len(known)} copies but no step of every shard",
                                     where=str(self.root), fix="resume from the last checkpoint")
                return None
            self._alive = live.held(job, [stand for _, stand in by_rank], choice, known)
            parts = self._load(choice, known, holder, mine)
            if parts is None and self._alive:
                self._alive = {}
                parts = self._load(choice, known, holder, mine)
            if parts is not None:
                break
            below = (choice.epoch, choice.version)
            self.notes.append(f"step {choice.version} of epoch {choice.epoch} is damaged in every copy: an older step is taken")
        check_match(parts[0][2], resume.matching(self.config, schema), str(self.root))
        room: State = getattr(job.team.models[0], "room", dict)() if isinstance(job.team, loop.Team) else {}
        state, meta = assembled(parts, choice.shards, room)
        resume.adopt(job, {**state, **self._alive}, meta)
        check_canary(meta, job)
        return self._recovered(meta, choice.version, began, surveyed)

    def _recovered(self, meta: dict[str, Any], version: int, began: float, surveyed: float) -> dict[str, Any]:
        self._told = False
        if self.link.rank == 0:
            audit("recovered", step=version, epoch=self.epoch, rows=meta["clock"][1], kept=sorted(self._alive))
        spent = {"survey": surveyed - began, "load": time.monotonic() - surveyed}
        return meta | {"path": str(self.root), "problems": self.notes, "spent": spent, "version": version}

    def _found(self) -> list[Path]:
        """Copies in the memory of this host that this rank looks at: those of its turn."""
        paths = sorted(self.root.glob("epoch-*/node-*/*-*"), key=lambda path: path.name)
        turn = self.locals.index(self.link.rank)
        by_shard = [path for path in paths if int(path.name.rpartition("-")[2]) % len(self.locals) == turn]
        return [path for path in by_shard if path.parent.parent.name != f"epoch-{self.epoch:06d}"]

    def _load(self, choice: Choice, known: Sequence[Held], holder: Sequence[int],
              mine: Sequence[Copy]) -> list[tuple[int, State, dict[str, Any]]] | None:
        """Every shard at the chosen step, on every rank; None where a shard is damaged in all of its copies (collective)."""
        by_name = {f"{self.host}:{copy.folder}": copy for copy in mine}
        loaded: dict[int, tuple[State, dict[str, Any]]] = {}
        read: list[Copy] = []
        single = len(self.locals) == self.link.size
        for attempt in range(max(len(places) for places in choice.sources)):
            for shard, places in enumerate(choice.sources):
                if attempt >= len(places) or shard in loaded or not (single or holder[places[attempt]] == self.link.rank):
                    continue
                name = known[places[attempt]].holder
                if name not in by_name:
                    by_name[name] = Copy(name.partition(":")[2])
                copy = by_name[name]
                names = [known[place].holder for place in places if place != places[attempt]]
                others = [by_name[name].folder for name in names if name in by_name]
                try:
                    loaded[shard] = copy.state_at(choice.version, others, self._alive.keys())
                    read.append(copy)
                except EngineError as error:
                    self.notes.append(f"{copy.folder}: {error.message}")
                self.notes += [p for p in copy.problems if p not in self.notes]
            if single and len(loaded) < choice.shards:
                continue  # every rank of the one host reads the same files and finds the same
            have = self.link.vote(np.array([shard in loaded for shard in range(choice.shards)]), name="loaded shards").any(0)
            if have.all():
                break
        if not single:
            every = _all(self.link, loaded, "shards from memory")
            loaded = {shard: found for part in every for shard, found in part.items()}
        if self._alive and (not live.confirmed(self.link, self._alive, read, choice.version, self.notes)
                            or len(loaded) < choice.shards):
            return None
        if len(loaded) < choice.shards:
            here = {place for place in choice.sums if single or holder[place] == self.link.rank}
            loaded |= partner.remade(None if single else self.link, choice, known, here, loaded, self.notes)
        return [(shard, *loaded[shard]) for shard in range(choice.shards)] if len(loaded) == choice.shards else None

    # --- protection

    def begin(self, job: loop.Job, schema: Schema) -> None:
        """The job's state as it is becomes this epoch's base, here and at the guards; then older epochs go (collective)."""
        crash.node_folder = str(self.folder(0, "own").parent)
        crash.point("begin")
        self._job = job
        self.flush = Flush(self.config, self.link, schema) if self.config.checkpoint.dir else None
        state = self._shard(job)
        hinted = getattr(job.team.models[0], "changed", None) is not None and job.shared
        self._seen = {path: Block(np.array(block.data), block.columns) for path, block in state.items()
                      if not (hinted and path == "model/linear")}
        meta = json.loads(json.dumps(resume.about(job, self.config, schema))) | self._meta(job)
        step = job.clock.step
        self._digest = step & DIGEST
        record = Record(step, step, (), meta, self.epoch, self._digest, self.link.rank, self.link.size)
        self._own = jobs.agreed(self.link, lambda: self._keep(self.link.rank, "own", state, record), "images")
        if self.partner is not None:
            self.partner.begin(self._own, state, record, self._alive)
        self.link.barrier(name="images")
        crash.point("began")
        self._began = self._committed = step
        if self.leads:
            older = [path for path in self.root.glob("epoch-*") if _epoch_of(path) < self.epoch]
            Thread(target=removed, args=(older,), name="older epochs").start()  # a page takes as long to free as to fill

    def _keep(self, shard: int, role: str, state: State, record: Record) -> Keeper:
        keeper = Keeper(self.folder(shard, role), seal_bytes=self.config.fault.seal)
        keeper.begin(state, record)
        return keeper

    def pledge(self) -> list[float]:
        """Digest of the last step, kept here and at the guards; and whether the journal is long."""
        crash.point("learned")
        self._written()
        long = self._own is not None and (self._own.due or any(keeper.due for keeper in self.beside))
        return [float(self._digest), float(long), self.flush.pledge() if self.flush else 0.0]

    @property
    def beside(self) -> list[Keeper]:
        """What this rank holds for others."""
        return [] if self.partner is None else self.partner.keepers

    def heard(self, table: Array) -> None:
        """The last step is committed where all digests agree; PeerError on every rank where they do not."""
        if (table[:, 0] != table[0, 0]).any():
            odd = [r for r, digest in enumerate(table[:, 0].tolist()) if digest != float(np.median(table[:, 0]))]
            raise PeerError(f"ranks disagree on step {self._own.version if self._own else 0}: digests differ on ranks "
                            f"{odd or list(range(len(table)))}", fix="start again: the last agreed step is taken")
        if self._own is None:
            return
        if self._own.version > self._began and not self._told:
            self._told = True
            if self.link.rank == 0:
                audit("committed", step=self._own.version, epoch=self.epoch)
        self._committed = self._own.version
        self.pulse.step(self._committed)
        crash.point("voted")
        if table[:, 1].any():
            for keeper in (self._own, *self.beside):
                if keeper.due or not self.config.fault.parity:  # sums are as long as a part of a shard: theirs are due earlier
                    self._later(keeper.seal)
        if self.flush is not None and self._job is not None:
            self.flush.heard(table[:, 2], self._job)

    def save(self, job: loop.Job) -> bool:
        """Begins a checkpoint beside the running job; False where the last one is still being written."""
        assert self.flush is not None
        meta = resume.about(job, self.config, self.flush.schema) | {
            "position": resume.position(job), "clock": [job.clock.step, job.clock.rows], "label": job.label}
        return self.flush.begin(job, self._shard(job), self._rows, meta)

    def settle(self, job: loop.Job) -> list[str]:
        """Until the checkpoint under way is closed (collective); what the scrub has said."""
        if self.flush is None:
            return []
        self.flush.wait()
        self.flush.heard(jobs.sync.vote(self.link, [self.flush.pledge()], name="checkpoint under way")[:, 0], job)
        jobs.agreed(self.link, self.flush.wait, "checkpoint closed")
        notes, self.flush.notes = self.flush.notes, []
        return notes

    def commit(self, job: loop.Job) -> None:
        """Keeps the step just merged; what it costs is in `job.counts`."""
        if self._own is None:
            return
        began = time.perf_counter()
        crash.point("commit")
        self._written()
        total = job.merged
        if total is not None and total.keys is not None:
            seed = self._digest & 0xFFFFFFFF
            keys, values = (_native.crc32c(np.ascontiguousarray(part), seed) for part in (total.keys, total.values))
            self._digest = (keys << 26 ^ values ^ job.clock.step) & DIGEST
        else:
            self._digest = job.clock.step & DIGEST
        changes, meta = tuple(self._changes(job)), self._meta(job)
        record = Record(job.clock.step, self._own.version, changes, meta, self.epoch, self._digest, self.link.rank,
                        self.link.size)
        frame = self._own.append(record)
        if self.flush is not None:
            self.flush.mark(record)
        crash.point("own")
        self._guard(record, frame)
        crash.point("kept")
        if isinstance(job.team, Crew) and self.link.size > 1:
            self.link.barrier(name="step kept")  # ranks that share one memory must not learn into what is being read
        job.counts.add("protect_s", time.perf_counter() - began)

    def _guard(self, record: Record, frame: Sequence[memoryview]) -> None:
        """The step to the other nodes that keep it (collective); what comes from others is kept while the next is learned."""
        for act in () if self.partner is None else self.partner.step(record, frame):
            self._later(act)

    def whole_digest(self, job: loop.Job) -> int:
        """A digest of what all ranks hold alike: equal where they do, bit for bit."""
        return digest({path: block for path, block in resume.views(job).items() if not path.startswith(PER_RANK)})

    def close(self, *, done: bool) -> None:
        """Ends the heartbeat; where the run is done, node memory is given back."""
        with suppress(EngineError):  # what could not be written is for the next life to find
            self._written()
        self._pool.shutdown()
        self.pulse.done()
        if self.ring is not None:
            self.ring.close()
        for keeper in (self._own, *self.beside):
            if keeper is not None:
                keeper.close()
        if done:
            self.link.barrier(name="memory given back")
            marker = os.environ.get("ENGINE_DONE_FILE")
            if marker and self.link.rank == 0:
                Path(marker).write_text(json.dumps({"epoch": self.epoch, "step": self._committed}))
            if self.leads:
                shutil.rmtree(self.root, ignore_errors=True)

    def _shard(self, job: loop.Job) -> State:
        """This rank's share of the job's state, views where the model gives them; notes the shapes of wide blocks."""
        mine: State = {}
        self._wide = {}
        for path, block in resume.views(job).items():
            data = block.data if block.data.ndim else block.data[None]
            if data.ndim > 1 and data.nbytes > WIDE_BYTES * len(data):
                self._wide[path] = list(data.shape)
                data = np.ascontiguousarray(data).reshape(-1)
            if not path.startswith(PER_RANK):
                self._rows[path] = len(data)
                low, high = split(len(data), self.link.rank, self.link.size)
                data = data[low:high]
            mine[path] = Block(data, block.columns)
        return mine

    def _changes(self, job: loop.Job) -> list[Change]:
        """Rows that differ from the step before: as the exchange names them, else found by comparison."""
        hinted, found = live.hints(job), []
        for path, block in self._shard(job).items():
            data = block.data
            if path in hinted:
                self._seen.pop(path, None)
                rows = hinted[path]
                low, high = split(self._rows[path], self.link.rank, self.link.size)
                first = np.searchsorted(rows, rows.dtype.type(low))  # of another dtype: all of them would be copied
                last = np.searchsorted(rows, rows.dtype.type(high)) if high < self._rows[path] else len(rows)
                rows = rows[first:last] - rows.dtype.type(low)
                found.append(Change(path, rows, taken(data, rows), len(data), block.columns))
                continue
            change = self._compared(path, block)
            found += [] if change is None else [change]
        return found

    def _compared(self, path: str, block: Block) -> Change | None:
        """Rows of a block that differ from when it was last looked at."""
        data, old = block.data, self._seen.get(path)
        if old is None or old.data.shape != data.shape or old.data.dtype != data.dtype:
            self._seen[path] = Block(np.array(data), block.columns)
            return Change(path, None, self._seen[path].data.copy(), len(data), block.columns)
        rows = differing(old.data, data)
        if not len(rows):
            return None
        fresh = np.ascontiguousarray(data[rows])
        old.data[rows] = fresh
        return Change(path, rows, fresh, len(data), block.columns)

    def _meta(self, job: loop.Job) -> dict[str, Any]:
        """Cursors and clock of this step, in the same record as its rows."""
        clock = job.clock
        meta: dict[str, Any] = {"clock": [clock.step, clock.rows], "label": float(job.label), "saved": clock.saved_rows}
        meta |= place(job.stream)
        return meta | {"shapes": self._wide, "canary": canary(job)}


def place(stream: Any) -> dict[str, Any]:
    """Where the input stands, for the record of a step; a `stream` that is such a note is taken as it is."""
    if isinstance(stream, dict):
        return stream
    if isinstance(stream, streams.Placed):
        return {"mark": stream.mark()}
    if isinstance(stream, Live):
        return {"live": stream.cursors, "began": stream.began}
    return {"position": stream.position.dump()} if hasattr(stream, "position") else {}


def audit(event: str, **more: Any) -> None:
    """A line of the audit log, where the run has one."""
    if path := os.environ.get("ENGINE_AUDIT"):
        with open(path, "a") as file:
            file.write(json.dumps({"event": event, "time": time.time(), **more}) + "\n")


def _all(link: Link, value: Any, name: str) -> list[Any]:
    """Every rank's value, on every rank."""
    parts = link.allgather(np.frombuffer(pickle.dumps(value), np.uint8), name=name)
    return [pickle.loads(part.tobytes()) for part in parts]


def _epoch_of(path: Path) -> int:
    return int(path.name[6:]) if path.name[6:].isdigit() else 0
