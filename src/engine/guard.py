"""Failure hygiene of the program (never of the library): hooks, signals, the stall watchdog, the one error message.

The first rank that fails writes `run.error.json` with O_EXCL and prints; the others stay silent; the job is aborted. A
rank whose main thread has been outside every exchange for `stall_timeout` names itself and its last operation.
"""
from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from engine.errors import ConfigError, EngineError, PeerError, Preempted

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_WORLD_SIZE")
STEPS = ("SLURM_STEP_NUM_TASKS", "FLUX_JOB_SIZE")
CAPS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "BLOSC_NTHREADS")
LOSER_S = 1.0
words = [0]  # how often MPICH's process manager has said by a signal that some rank has died; `comm/repair.failed` says which
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def launched() -> int:
    """Ranks the launcher says there are; 1 without a launcher.

    A batch system's own launcher (srun with PMIx) says so only in the variables of its job step. An mpirun inside a step
    says more, and is believed: its daemons are the tasks of that step.
    """
    for names in (SIZES, STEPS):
        sizes = [int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()]
        if sizes:
            return max(sizes)
    return 1


def error_file() -> Path | None:
    """Where the first failing rank leaves its record: given by `engine run`, else one a launcher; None for one rank."""
    if os.environ.get("ENGINE_ERROR_FILE"):
        return Path(os.environ["ENGINE_ERROR_FILE"])
    if launched() == 1:
        return None
    parent = os.getppid()
    return Path(tempfile.gettempdir()) / f"engine-{os.getuid()}-{parent}-{_born(parent)}.error.json"


def _born(pid: int) -> str:
    """When a process began, in clock ticks since boot; "" where there is none. A pid comes again, this pair does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def leftovers() -> list[Path]:
    """Error records of this user whose launcher is gone."""
    found = Path(tempfile.gettempdir()).glob(f"engine-{os.getuid()}-*-*.error.json")
    return sorted(path for path in found if path.name.split("-")[3].removesuffix(".error.json")
                  != _born(int("0" + path.name.split("-")[2])))


class Guard:
    """What the program keeps an eye on. `stop` is the name of the signal that asked to stop, or "".

    From the first `beat` on, the first signal is a request that the loop heeds; before it, and the second time, it ends
    the process at once.
    """

    def __init__(self) -> None:
        self.rank, self.stop = 0, ""
        self._name, self._since, self._waiting = "start", time.monotonic(), False
        self._timeout_s, self._heeded, self._watches, self._installed = 0.0, False, 0, False

    def install(self) -> None:
        """Hooks for uncaught exceptions in any thread, and signal handlers; thread pools held to one thread a rank."""
        self._installed = True
        for name in CAPS:
            os.environ.setdefault(name, "1")
        keep_memory()
        sys.excepthook = lambda kind, error, trace: self.fail(error)
        threading.excepthook = lambda args: self.fail(args.exc_value or args.exc_type())
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        name = meant(number)
        if name == "SIGUSR1" and os.environ.get("ENGINE_TIER") == "shield":
            words[0] += 1
            return
        code = 130 if name == "SIGINT" else 75
        if self.stop:
            os._exit(code)
        self.stop = name
        if not self._heeded:
            error = Preempted(f"stopped by {self.stop} before the first step", fix="start again")
            error.code = code
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Reports `error` once for the job and ends every rank; does not return."""
        code = error.code if isinstance(error, EngineError) else 130 if isinstance(error, KeyboardInterrupt) else 70
        record = {"rank": self.rank, "host": socket.gethostname(), "pid": os.getpid(), "code": code,
                  "label": getattr(error, "label", "E100"), "message": getattr(error, "message", None) or describe(error),
                  "where": getattr(error, "where", ""), "fix": getattr(error, "fix", "")}
        text = render(record)
        if code == 70 or os.environ.get("ENGINE_TRACEBACK"):
            text = "".join(traceback.format_exception(error)) + text
        # A launcher that is told to abort may drop what a rank has just said, so the parent says it, where there is one.
        record["untold"] = text if os.environ.get("ENGINE_TELLER") else ""
        path = error_file()
        if claim(record):
            if not record["untold"] or path is None or not path.exists():
                print(text, file=sys.stderr, flush=True)
        else:
            time.sleep(LOSER_S)
        leave(code)

    @contextlib.contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Around a wait for other ranks: while inside, this rank is not the one that is late."""
        self._name, self._waiting = name, True
        try:
            yield
        finally:
            self._waiting, self._since = False, time.monotonic()

    def beat(self, name: str) -> None:
        """The main thread is alive and begins `name`."""
        self._name, self._since, self._heeded = name, time.monotonic(), True

    def start(self, rank: int, timeout_s: float) -> None:
        """Starts the watchdog thread of this rank, in place of one that was there."""
        self.rank, self._timeout_s = rank, timeout_s
        self.beat("start")
        self._watches += 1
        threading.Thread(target=self._patrol, args=(self._watches,), name="watchdog", daemon=True).start()

    def rest(self, *, finished: bool = False) -> None:
        """The job is over: a host that goes on does not stall, so the watchdog ends; our own program is watched to its end."""
        self._watches += finished or not self._installed

    def _patrol(self, watch: int) -> None:
        while True:
            time.sleep(min(1.0, self._timeout_s / 10))
            if watch != self._watches:
                return
            late_s = time.monotonic() - self._since
            if not self._waiting and late_s > self._timeout_s:
                faulthandler.dump_traceback(all_threads=True)
                others = " while the others wait" if launched() > 1 else ""
                self.fail(PeerError(
                    f"rank {self.rank} has been in {self._name!r} for {late_s:.1f} s{others}",
                    where=f"host {socket.gethostname()}, pid {os.getpid()}",
                    fix="its stacks are above; raise loop.stall_timeout if this is expected, then resume"))


def keep_memory() -> None:
    """Large arrays reuse memory instead of being given back and cleared anew at each step, page by page; glibc only.

    (Two ranks that make and learn a wide click stream run 1.3 times faster for it.)
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)  # the largest that is taken
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 29)


def meant(number: int) -> str:
    """Name of the signal that `engine run` was given: it passes the first one on as SIGUSR1 and leaves the name beside."""
    if number == signal.SIGUSR1 and os.environ.get("ENGINE_ERROR_FILE"):
        with contextlib.suppress(OSError):
            return Path(os.environ["ENGINE_ERROR_FILE"]).with_name("stop").read_text()
    return signal.Signals(number).name


def describe(error: BaseException) -> str:
    """Kind and text of an error that is not ours, with the innermost line of code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def render(record: dict[str, Any]) -> str:
    """The message a person reads."""
    lines = [f"engine: error[{record['label']}] {record['message']}"]
    if record["where"]:
        lines.append(f"  at: {record['where']}")
    if launched() > 1:
        lines.append(f"  first on rank {record['rank']} ({record['host']}, pid {record['pid']})")
    if record["fix"]:
        lines.append(f"  fix: {record['fix']}")
    return "\n".join(lines)


def claim(record: dict[str, Any]) -> bool:
    """True for the first failure of the job, whose record is kept."""
    path = error_file()
    if path is None:
        return True
    for old in leftovers():
        with contextlib.suppress(OSError):
            old.unlink()
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    except OSError:
        return True
    with os.fdopen(handle, "w") as file:
        json.dump(record, file)
    return True


def leave(code: int) -> None:
    """Ends this process, and with it the job where there are several ranks."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "mpi4py.MPI" in sys.modules:
        from engine.comm.world import abort

        abort(code)
    os._exit(code)


def check_launcher(size: int) -> None:
    """ConfigError where the launcher says several ranks and MPI says one: they are of two different MPIs."""
    said = launched()
    if said > 1 and size == 1:
        from engine.comm.probe import libmpi

        launcher = next((v for v in (os.environ.get("ENGINE_MPIEXEC"), _parent()) if v), "unknown")
        raise ConfigError(
            f"the launcher started {said} ranks but MPI sees 1: launcher {launcher}, MPI library {libmpi()}",
            fix="start with the mpiexec of that library, or use `engine run -n N …`, which finds it")


def _parent() -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{os.getppid()}/exe")
    return ""
