"""The heartbeat of a rank in its node's shared memory, and the fence that keeps ranks of an older epoch from writing.

    ROOT/fence            u64: the epoch that may write           ROOT/pulse-000003    int64 (ranks, 8), a line a rank

A thread beats and looks at the neighbours (`cluster/health.py` decides); a frozen neighbour is killed, so that MPI and the
supervisor see a death they understand. Lines are written by aligned 8-byte stores: a reader never sees half of one.
"""
from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import numpy as np

from engine.cluster.health import Fence, Limits, Lost, Sight, Watch, look
from engine.errors import PeerError
from engine.store.atomic import refused
from engine.types import Array

PID, BORN, BEAT, STEP, EPOCH, DONE, ROWS = range(7)
LINE = 8
EYES = 256  # neighbours whose end wakes this rank at once; that of others is seen at the next beat
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1


class Pulse:
    """This rank's line and its view of the others on this node."""

    def __init__(self, root: Path, epoch: int, rank: int, size: int, limits: Limits,
                 told: Callable[[str], None] = lambda text: None) -> None:
        self.epoch, self.rank, self.limits, self._told = epoch, rank, limits, told
        self.lines = table(root / f"pulse-{epoch:06d}", (size, LINE))
        self._fence = table(root / "fence", (1, 1))
        self._line = self.lines[rank]
        self._line[BORN], self._line[EPOCH] = born(os.getpid()), epoch
        self._line[BEAT] = time.monotonic_ns()
        self._line[PID] = os.getpid()
        self.lost: set[int] = set()
        self._ended = threading.Event()
        self._eyes: dict[int, int] = {}  # of a neighbour: a handle that wakes the thread when it ends
        self._woken = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def step(self, number: int, rows: int = 0) -> None:
        """This rank has committed step `number`, its own `rows` rows; PeerError where a newer epoch has taken over."""
        self._line[STEP], self._line[ROWS] = number, rows
        if int(self._fence[0, 0]) > self.epoch:
            raise PeerError(f"rank {self.rank} of epoch {self.epoch} is fenced: epoch {int(self._fence[0, 0])} has taken over",
                            fix="none: the newer run goes on")

    def why(self) -> str:
        """What a wait must know: which neighbours are gone, or ""."""
        return f"rank {', '.join(map(str, sorted(self.lost)))} died" if self.lost else ""

    def excuse(self, ranks: Collection[int]) -> None:
        """These have died and the others go on without them: no wait is called off for them any more."""
        for rank in ranks:
            self.lines[rank, DONE] = 1
        self.lost -= set(ranks)

    def done(self) -> None:
        """No longer looks or is looked at."""
        self._line[DONE] = 1
        if self._ended.is_set():
            return
        self._ended.set()
        os.eventfd_write(self._woken, 1)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            for handle in (self._woken, *self._eyes.values()):
                os.close(handle)

    def _run(self) -> None:
        watch = Watch()
        while not self._paused():
            self._line[BEAT] = time.monotonic_ns()
            watch, actions = look(watch, time.monotonic(), self._sights(), self.limits)
            for action in actions:
                if isinstance(action, Lost):
                    if not self.lines[action.rank, DONE]:
                        self.lost.add(action.rank)
                elif isinstance(action, Fence) and not self._ended.is_set():
                    self._told(f"rank {action.rank} is fenced by rank {self.rank}: {action.reason}")
                    kill(int(self.lines[action.rank, PID]), int(self.lines[action.rank, BORN]))

    def _paused(self) -> bool:
        """After a period, or as soon as a neighbour's process ends; whether the watch is over."""
        for rank, line in enumerate(self.lines[:EYES]):
            if rank != self.rank and line[PID] and not line[DONE] and rank not in self._eyes:
                with suppress(OSError):  # gone already: the look that follows says so
                    self._eyes[rank] = os.pidfd_open(int(line[PID]))
                    self._poll.register(self._eyes[rank], select.POLLIN)
        for handle, _ in self._poll.poll(self.limits.period_s * 1000):
            if handle != self._woken:
                self._poll.unregister(handle)
        return self._ended.is_set()

    def _sights(self) -> list[Sight]:
        found = []
        for rank, line in enumerate(self.lines):
            if rank == self.rank or not line[PID] or line[DONE]:
                continue
            state, cpu_s, since = process(int(line[PID]))
            gone = state in ("", "Z", "X") or since != int(line[BORN])
            found.append(Sight(rank, int(line[BEAT]) / 1e9, gone, state in ("T", "t"), cpu_s))
        return found


def home(folder: str) -> Path:
    """Where this user's runs are in node memory; the temporary folder where `folder` cannot be written."""
    base = folder if os.path.isdir(folder) and os.access(folder, os.W_OK) else tempfile.gettempdir()
    return Path(base) / f"engine-{os.getuid()}"


def table(path: Path, shape: tuple[int, int]) -> Array:
    """A shared int64 array in a file, zeros where it is new."""
    size = shape[0] * shape[1] * 8
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise refused(error, path, size) from error
    try:
        if os.fstat(handle).st_size < size:
            os.posix_fallocate(handle, 0, size)
        return np.frombuffer(mmap.mmap(handle, size), np.int64).reshape(shape)
    except OSError as error:
        raise refused(error, path, size) from error
    finally:
        os.close(handle)


def process(pid: int) -> tuple[str, float, int]:
    """State letter ("" = there is none), CPU seconds, and start time in ticks, of a process of this machine."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
        return words[0].decode(), (int(words[11]) + int(words[12])) / TICKS, int(words[19])
    except (OSError, IndexError, ValueError):
        return "", 0.0, -1


def born(pid: int) -> int:
    return process(pid)[2]


def kill(pid: int, since: int) -> bool:
    """SIGKILL to the process of that pid and start time; False where it is gone."""
    state, _, found = process(pid)
    if found != since or state in ("", "Z", "X"):
        return False
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    return True


def fence(root: Path, epoch: int, *, spare: Collection[int] = (), wait_s: float = 5.0) -> list[int]:
    """Epochs before `epoch` may no longer write, and their ranks on this node are killed, except `spare` (pids); returns
    the pids killed.
    """
    root.mkdir(parents=True, exist_ok=True)
    cell = table(root / "fence", (1, 1))
    cell[0, 0] = max(int(cell[0, 0]), epoch)
    killed: list[tuple[int, int]] = []
    for path in sorted(root.glob("pulse-*")):
        if int(path.name[6:]) >= epoch:
            continue
        for line in np.fromfile(path, np.int64).reshape(-1, LINE):
            if line[PID] and int(line[PID]) not in spare and kill(int(line[PID]), int(line[BORN])):
                killed.append((int(line[PID]), int(line[BORN])))
        path.unlink(missing_ok=True)
    until = time.monotonic() + wait_s
    while any(process(pid)[2] == since and process(pid)[0] not in ("Z", "X", "") for pid, since in killed):
        if time.monotonic() > until:
            raise PeerError(f"processes {[pid for pid, _ in killed]} of an older epoch do not die", fix="end them by hand")
        time.sleep(0.005)
    return [pid for pid, _ in killed]


def fenced(root: Path) -> int:
    """The epoch that may write on this host; 0 where there was none."""
    try:
        return int(np.fromfile(root / "fence", np.int64)[0])
    except (OSError, IndexError):
        return 0


def die_with_parent(size: int) -> None:
    """SIGKILL for this process when its parent, the launcher's daemon, dies: no rank of several outlives its launcher."""
    if size == 1:
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
