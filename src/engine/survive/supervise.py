"""`engine run --supervise`: starts the job again from node memory whenever it ends without having said that it is done.

Works under any MPI and any launcher, because nothing of it is asked of them: state outlives the processes, death is seen by
the end of the launcher, by heartbeats and by a rank's process being gone, and what is left of the old job is killed before the
new one begins. A DONE marker is believed, an exit code never is.
"""
from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.cluster.health import Fence, Limits, Lost, Sight, Watch, look
from engine.errors import ConfigError
from engine.launch import CODES, forwarding, outcome, start
from engine.survive.pulse import BEAT, BORN, DONE, LINE, PID, STEP, fence, home, kill, process
from engine.survive.standby import PATIENCE, Standby, affordable

AGAIN = (70, 75)  # 75: a peer was lost; 70 only where nothing was said (a rank that exits with a code of its own)
STUCK = 3  # starts in a row that commit no step
RESERVES = 2  # launches in reserve that may end by themselves before no more are begun
LEAKS = ("mpich_shm_*", "sm_segment.*", "vader_segment.*")
Make = Callable[[int], tuple[list[str], dict[str, str]]]


@dataclass
class Plan:
    """What to run. `make(ranks)` -> the launcher's line and environment. `on_loss`: same, shrink or grow by one rank.
    `keeps`: node memory is kept where the run is given up, because the same command finds it again.
    `mend_s`: seconds the survivors have to go on in place before they are ended. `stuck`: losses in a row
    without a new step after which the run is given up. `standby`: whether the next launch is begun in advance (standby.py).
    """

    make: Make
    ranks: int
    name: str
    on_loss: str = "same"
    restarts: int = 100
    timeout_s: float = 0.0
    fresh: bool = True
    keeps: bool = False
    limits: Limits = field(default_factory=Limits)
    folder: str = "/dev/shm"
    mend_s: float = 0.0
    stuck: int = STUCK
    standby: str = "off"


class Supervisor:
    """One run, over as many starts as it takes."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.root = plan, home(plan.folder) / plan.name
        self.audit: list[dict[str, Any]] = []
        self.ranks, self.attempt, self.stuck, self.steps = plan.ranks, 0, 0, 0
        self._watch, self._lost_s, self._lost = Watch(), 0.0, -1
        self._table: Path | None = None
        self._reserve: Standby | None = None
        self._reserves = 0
        self._began_s = self._learns_s = 0.0

    def run(self) -> int:
        """0 where the run is done; else the code of what ended it for good."""
        for gone in sweep(self.root.parent):
            print(f"engine: node memory of a dead run is removed: {gone}", file=sys.stderr)
        if self.plan.fresh:
            self._clear()
        self.root.mkdir(parents=True, exist_ok=True)
        owner = {"pid": os.getpid(), "born": process(os.getpid())[2], "keeps": self.plan.keeps}
        (self.root / "owner").write_text(json.dumps(owner))
        until = time.monotonic() + self.plan.timeout_s if self.plan.timeout_s else None
        with tempfile.TemporaryDirectory(prefix="engine-run-") as name:
            try:
                return self._attempts(Path(name), until)
            finally:
                self._kill_ranks()
                self._dismiss()
                if not self._keep:
                    shutil.rmtree(self.root, ignore_errors=True)

    _keep = False

    def _attempts(self, folder: Path, until: float | None) -> int:
        while True:
            done = folder / "done"
            before, segments = self.steps, _leaks()
            record, env = folder / f"{self.attempt}" / "run.error.json", {"ENGINE_ATTEMPT": str(self.attempt)}
            reserve = self._called()
            if reserve is not None:
                record = reserve.record
            children: list[subprocess.Popen[bytes]] = []
            with forwarding(children, record) as asked:
                children.append(self._started(record, done, env) if reserve is None else reserve.go(env))
                if asked:
                    children[0].send_signal(signal.SIGUSR1)
                self._began_s, self._learns_s = time.monotonic(), 0.0
                why = self._wait(children[0], done, asked, until)
            code = children[0].wait()
            if done.exists():
                self._tell("done", attempts=self.attempt + 1)
                return 0
            if asked or why == "timeout":
                return 75 if why == "timeout" else outcome(code, record, asked)
            self._isolate(why or f"the launcher ended with {code}", segments)
            final = self._judge(code, record, before, why)
            if final is not None:
                return final
            self.attempt += 1

    def _started(self, record: Path, done: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
        record.parent.mkdir()
        line, given = self._made(self.ranks, done, again=self.attempt > 0)
        return start(line, {**given, **env, "ENGINE_ERROR_FILE": str(record)})

    def _made(self, ranks: int, done: Path, *, again: bool) -> tuple[list[str], dict[str, str]]:
        line, env = self.plan.make(ranks)
        env |= {"ENGINE_DONE_FILE": str(done), "ENGINE_MEMORY_ID": self.plan.name, "ENGINE_FAULT_FOLDER": self.plan.folder}
        return line, env | ({"ENGINE_CHECKPOINT_RESUME": "auto"} if again else {})

    def _next(self) -> int:
        """Ranks after a loss."""
        return max(1, self.ranks + {"shrink": -1, "grow": 1}.get(self.plan.on_loss, 0))

    def _prepare(self, now: float, done: Path) -> None:
        """Begins the next launch in advance, once the job has learned for long enough that it may cost what a start costs."""
        reserve = self._reserve
        if reserve is not None:
            if not reserve.alive:
                self._reserve = None
            elif reserve.ready and not self._told:
                self._told = True
                self._tell("standby", ranks=reserve.ranks)
            return
        if self.plan.standby == "off" or self._reserves > self.attempt + RESERVES:
            return
        if not self._learns_s:
            self._learns_s = now if self._committed() > self.steps else 0.0
        patience = 0.0 if self.plan.standby == "on" else PATIENCE
        start_s = self._learns_s - self._began_s
        if not self._learns_s or now - self._learns_s < patience * start_s:
            return
        if self.plan.standby == "on" or affordable(self._next()):
            self._reserves, self._told = self._reserves + 1, False
            line, env = self._made(self._next(), done, again=True)
            self._reserve = Standby(line, env, self._next(), done.with_name(f"standby-{self._reserves}"))

    _told = False

    def _called(self) -> Standby | None:
        """The launch in reserve, where it is up and of as many ranks as are to go on."""
        reserve = self._reserve
        if reserve is None or not self.attempt:
            return None
        self._reserve = None
        if reserve.ranks == self.ranks and reserve.ready:
            self._tell("called", ranks=reserve.ranks)
            return reserve
        threading.Thread(target=reserve.close, name="dismissed").start()
        return None

    def _dismiss(self) -> None:
        if self._reserve is not None:
            self._reserve.close()
        self._reserve = None

    def _wait(self, child: subprocess.Popen[bytes], done: Path, asked: list[int], until: float | None) -> str:
        """Until the launcher has ended; why it was made to, or "". A rank that is gone ends the rest at once."""
        handle = os.pidfd_open(child.pid)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        finished_s = 0.0
        try:
            while not poll.poll(self.plan.limits.period_s * 1000):
                now = time.monotonic()
                if until is not None and now > until:
                    self._end(child)
                    print("engine: error[E700] the run did not end within its time and was stopped", file=sys.stderr)
                    return "timeout"
                if done.exists():
                    finished_s = finished_s or now
                    if now - finished_s > 10:  # it is done; a launcher that does not end is ended
                        self._end(child)
                    continue
                why = "" if asked else self._look(now) or self._scaled()
                if why:
                    self._end(child)
                    return why
                if not asked:
                    self._prepare(now, done)
        finally:
            os.close(handle)
        return ""

    def _look(self, now: float) -> str:
        """Why the job must end: a rank of this host is gone, or frozen; "" where all is well."""
        lines, newest = self._lines(), max(self.root.glob("pulse-*"), default=None)
        if newest != self._table:
            self._table, self._watch, self._lost_s = newest, Watch(), 0.0
        sights = []
        for rank, line in enumerate(lines):
            if line[PID] and not line[DONE]:
                state, cpu, since = process(int(line[PID]))
                gone = state in ("", "Z", "X") or since != int(line[BORN])
                sights.append(Sight(rank, int(line[BEAT]) / 1e9, gone, state in ("T", "t"), cpu))
        self._watch, actions = look(self._watch, now, sights, self.plan.limits)
        for action in actions:
            if isinstance(action, Lost):
                self._lost_s, self._lost = now, action.rank
            if isinstance(action, Fence):
                kill(int(lines[action.rank, PID]), int(lines[action.rank, BORN]))
                if not self.plan.mend_s:
                    return f"rank {action.rank}: {action.reason}"
        if self._lost_s and len(lines) > self._lost and lines[self._lost, DONE]:
            self._lost_s = 0.0  # the others go on without it
        if self._lost_s and now - self._lost_s >= self.plan.mend_s:
            return f"rank {self._lost} died" + (" and the others did not go on" if self.plan.mend_s else "")
        return ""

    def _scaled(self) -> str:
        """A request of `engine scale`, taken."""
        asked = self.root / "scale"
        with suppress(OSError, ValueError):
            wanted = int(asked.read_text())
            asked.unlink()
            if wanted >= 1 and wanted != self.ranks:
                self.ranks, self.stuck = wanted, 0
                return f"scaled to {wanted} ranks"
        return ""

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        """Ranks of this host first: their launcher then ends by itself; it is made to where it does not."""
        self._kill_ranks()
        for number, wait_s in ((0, 0.3), (signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
            if number:
                with suppress(OSError):
                    child.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(wait_s)
                return

    def _lines(self) -> np.ndarray[Any, Any]:
        paths = sorted(self.root.glob("pulse-*"))
        if not paths:
            return np.zeros((0, LINE), np.int64)
        with suppress(OSError):
            data = np.fromfile(paths[-1], np.int64)
            return data[: len(data) // LINE * LINE].reshape(-1, LINE)
        return np.zeros((0, LINE), np.int64)

    def _committed(self) -> int:
        lines = self._lines()
        return int(lines[:, STEP].max()) if len(lines) else 0

    def _kill_ranks(self) -> None:
        for line in self._lines():
            if line[PID]:
                kill(int(line[PID]), int(line[BORN]))

    def _isolate(self, why: str, segments: set[Path]) -> None:
        began = time.monotonic()
        self.steps = max(self.steps, self._committed())
        if self.root.exists():
            newest = max((int(path.name[6:]) for path in self.root.glob("pulse-*")), default=0)
            self._kill_ranks()
            fence(self.root, newest + 1)
        self._watch, self._lost_s = Watch(), 0.0
        if left := _leaks() - segments:  # looked into while the next start is under way
            threading.Thread(target=_freed, args=(left,), name="leaks").start()
        self._tell("isolate", why=why, step=self.steps, seconds=time.monotonic() - began)

    def _judge(self, code: int, record: Path, before: int, why: str) -> int | None:
        """The exit code where the run is over; None = start again, on the ranks that `on_loss` says."""
        said = None
        with suppress(OSError, ValueError, KeyError):
            said = int(json.loads(record.read_text())["code"])
        if said is not None and said in CODES and said != 75:
            self._keep = self.plan.keeps
            return said
        if said is None and not why and code in (64, 65, 74, 130):
            return code
        self.stuck = 0 if self.steps > before else self.stuck + 1
        if self.stuck > self.plan.stuck or self.attempt >= self.plan.restarts:
            self._keep = self.plan.keeps
            print(f"engine: error[E700] the run was lost {self.attempt + 1} times, the last {self.stuck} without a new step\n"
                  f"  at: {self.root}\n  fix: see the messages above" + (
                      "; node memory is kept: the same command with --resume goes on from it" if self._keep else ""),
                  file=sys.stderr)
            return 75
        if not why.startswith("scaled"):
            self.ranks = self._next()
        print(f"engine: {why or 'a rank was lost'} after step {self.steps}; starting again on {self.ranks} ranks",
              file=sys.stderr, flush=True)
        self._tell("relaunch", ranks=self.ranks, attempt=self.attempt + 1)
        return None

    def _tell(self, event: str, **more: Any) -> None:
        """A line of the audit log of the supervisor, in the run's node memory and beside the checkpoints."""
        self.audit.append({"event": event, "time": time.time(), **more})
        if log := os.environ.get("ENGINE_AUDIT"):
            with open(log, "a") as file:
                file.write(json.dumps(self.audit[-1]) + "\n")

    def _clear(self) -> None:
        """Another life's memory under the same name is not this run's."""
        if self.root.exists():
            newest = max((int(path.name[6:]) for path in self.root.glob("pulse-*")), default=0)
            fence(self.root, newest + 1)
            shutil.rmtree(self.root, ignore_errors=True)


def sweep(folder: Path, *, keep_s: float = 7 * 86400.0) -> list[Path]:
    """Removes what dead runs of this user left in node memory: no supervisor and no rank lives, and no command can find it
    again (or none has for `keep_s`). Returns the folders removed.
    """
    removed = []
    for root in sorted(folder.glob("*")) if folder.is_dir() else []:
        owner = {"pid": 0, "born": -1, "keeps": True}
        with suppress(OSError, ValueError):
            owner |= json.loads((root / "owner").read_text())
        pids = [(int(owner["pid"]), int(owner["born"]))]
        for path in root.glob("pulse-*"):
            with suppress(OSError, ValueError):
                pids += [(int(line[PID]), int(line[BORN])) for line in np.fromfile(path, np.int64).reshape(-1, LINE)]
        alive = any(pid and process(pid)[2] == since and process(pid)[0] not in ("Z", "X", "") for pid, since in pids)
        if not alive and (not owner["keeps"] or time.time() - root.stat().st_mtime > keep_s):
            shutil.rmtree(root, ignore_errors=True)
            removed.append(root)
    return removed


def run(plan: Plan) -> int:
    """Supervises the plan to its end."""
    return Supervisor(plan).run()


def name_of(checkpoint: str) -> str:
    """The name of a run in node memory: the same for the same checkpoint directory, so that `--resume` finds it."""
    import hashlib

    if not checkpoint:
        return secrets.token_hex(6)
    return hashlib.blake2b(os.path.realpath(checkpoint).encode(), digest_size=6).hexdigest()


def foreign(line: list[str]) -> Make:
    """A launcher's own line (`mpirun …`, `srun …`), in which `{n}` stands for the number of ranks."""
    if shutil.which(line[0]) is None:
        raise ConfigError(f"engine run --supervise: expected a launcher that can be run, found {line[0]!r}")
    return lambda ranks: ([word.replace("{n}", str(ranks)) for word in line], dict(os.environ))


def _leaks() -> set[Path]:
    """Shared-memory files of MPI libraries that belong to this user."""
    shm = Path("/dev/shm")
    return {path for pattern in LEAKS for path in shm.glob(pattern) if path.stat().st_uid == os.getuid()}


def _freed(paths: set[Path]) -> None:
    """Removes those that no living process maps."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            text = maps.read_text()
            paths = {path for path in paths if str(path) not in text}
    for path in paths:
        with suppress(OSError):
            path.unlink()
