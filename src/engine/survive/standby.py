"""A launch in reserve: ranks that have read the code and know one another over MPI, and wait at a gate without using a core.

After a loss the supervisor opens the gate instead of starting processes, so that only the recovery itself is left to do.

    FOLDER/gate    a pipe with a name: a byte a rank opens it, its end sends them home (so does the supervisor's death)
    FOLDER/orders  what the environment of the ranks lacks, JSON, written before the gate opens
    FOLDER/ready   a line a rank that has come to the gate: its pid and when it was born
"""
from __future__ import annotations

import json
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.survive.pulse import born, kill

if TYPE_CHECKING:
    import subprocess

GATE = "ENGINE_STANDBY"
RANK_BYTES = 64 << 20  # an interpreter with NumPy and MPI, with room to spare (measured: 30 MB of its own)
SHARE = 16  # of the memory that is free, the part that a launch in reserve may have without being asked for
PATIENCE = 10.0  # start-ups of the job that pass before another start-up is spent on a reserve


class Standby:
    """The supervisor's side. `record`: where its ranks say why they failed."""

    def __init__(self, line: list[str], env: dict[str, str], ranks: int, folder: Path) -> None:
        from engine.launch import start  # here: a rank has no use for it

        folder.mkdir()
        self.ranks, self.folder, self.record = ranks, folder, folder / "run.error.json"
        os.mkfifo(folder / "gate", 0o600)
        self._gate = os.open(folder / "gate", os.O_RDWR | os.O_CLOEXEC)  # both ends: there is a writer as long as we live
        self.child: subprocess.Popen[bytes] = start(line, {**env, GATE: str(folder), "ENGINE_ERROR_FILE": str(self.record)})

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    @property
    def ready(self) -> bool:
        """Whether every rank is at the gate."""
        return self.alive and len(self._there()) == self.ranks

    def go(self, orders: dict[str, str]) -> subprocess.Popen[bytes]:
        """The gate opens; the launcher of the ranks that now learn."""
        (self.folder / "orders").write_text(json.dumps(orders))
        os.write(self._gate, bytes(self.ranks))  # each has its end of the pipe open, so what is in it stays
        os.close(self._gate)
        return self.child

    def close(self, wait_s: float = 5.0) -> None:
        """Sends the ranks home; they are ended where they do not go."""
        from subprocess import TimeoutExpired

        os.close(self._gate)
        with suppress(TimeoutExpired):
            self.child.wait(wait_s)
            return
        for pid, since in self._there():
            kill(pid, since)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(TimeoutExpired, OSError):
                self.child.send_signal(number)
                self.child.wait(1.0)
                return

    def _there(self) -> list[tuple[int, int]]:
        with suppress(OSError, ValueError):
            lines = (self.folder / "ready").read_text().splitlines()
            return [(int(pid), int(since)) for pid, since in (line.split() for line in lines)]
        return []


def affordable(ranks: int) -> bool:
    """Whether the memory of a launch in reserve is little beside what is free."""
    with suppress(OSError, StopIteration, ValueError):
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
        return ranks * RANK_BYTES * SHARE <= free
    return False


def hold(guard: Any) -> None:
    """A rank of a launch in reserve waits here until it is called for, and leaves where it never is; others pass."""
    folder = os.environ.pop(GATE, "")
    if not folder:
        return
    with guard.watch("standby"):
        handle = os.open(f"{folder}/gate", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        there = os.open(f"{folder}/ready", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(there, f"{os.getpid()} {born(os.getpid())}\n".encode())
        os.close(there)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        called = b""
        while not guard.stop:
            try:
                called = os.read(handle, 1)  # first: a pipe whose other end was gone before says nothing to poll
                break
            except BlockingIOError:
                poll.poll(5000)
        os.close(handle)
    if not called:
        _go_home()
    os.environ.update(json.loads(Path(folder, "orders").read_text()))


def _go_home() -> None:
    """Ends this rank in good order and without a word."""
    if "mpi4py.MPI" in sys.modules:
        from engine.comm.world import finish

        finish()
    os._exit(0)
