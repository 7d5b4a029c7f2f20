"""`engine run -n N …`: starts the launcher beside the MPI in use, and gives back what the ranks meant by their exit."""
from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from engine.comm import probe, repair
from engine.errors import ConfigError

GRACE_S = 10.0
PR_SET_PDEATHSIG = 1
CODES = (64, 65, 70, 74, 75, 130)


def command(ranks: int, verb: list[str], *, mpi: str = "", mend: bool = False) -> tuple[list[str], dict[str, str]]:
    """The launcher's command line and environment for `python -m engine <verb>` on `ranks` ranks.

    `mend`: with what this MPI needs so that survivors of a death can go on in place (comm/repair.py).
    """
    mpiexec = probe.launcher(mpi)
    if not mpiexec:
        raise ConfigError("no mpiexec found", fix="pip install 'engine[mpi]', or load the site's MPI module")
    if shutil.which(mpiexec) is None:
        raise ConfigError(f"expected a launcher that can be run, found {mpiexec!r}",
                          fix="give --mpi the path of an mpiexec, or leave it out")
    if ranks < 1:
        raise ConfigError(f"-n: expected at least 1 rank, found {ranks}")
    options, env = probe.flags(mpiexec, ranks)
    before: list[str] = []
    if mend and ranks > 1 and probe.vendor(mpiexec) == "openmpi":
        options += repair.ULFM_FLAGS
    elif mend and ranks > 1 and probe.vendor(mpiexec) == "mpich":
        options, before, env = [*options, *repair.SHIELD_FLAGS], repair.SHIELD, {**env, "ENGINE_TIER": "shield"}
    line = [mpiexec, *options, "-n", str(ranks), *before, sys.executable, "-m", "engine", *verb]
    return line, {**os.environ, **env, "ENGINE_MPIEXEC": mpiexec}


def run(ranks: int, verb: list[str], *, mpi: str = "", timeout_s: float = 0.0) -> int:
    """Runs the job to its end; returns 0, or the code of the first rank that failed.

    The first signal goes on to the ranks as SIGUSR1 with its name beside it: given SIGTERM or SIGINT, Open MPI's launcher
    kills the ranks 0.2 s later, whatever they are writing (measured; 5.0.11). A second signal goes on as it is.
    """
    from engine.live import View, wanted

    line, env = command(ranks, verb, mpi=mpi)
    cores = len(os.sched_getaffinity(0))
    if ranks > cores:
        print(f"engine: {ranks} ranks on {cores} cores: each gets 1/{ranks / cores:.1f} of a core", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="engine-run-") as folder:
        record = Path(folder) / "run.error.json"
        children: list[subprocess.Popen[bytes]] = []
        view = View(ranks, record.with_name("live.jsonl")) if wanted(verb) else None
        told = {"ENGINE_ERROR_FILE": str(record), "ENGINE_TELLER": "1"} | ({"ENGINE_LIVE": str(view.record)} if view else {})
        with forwarding(children, record) as asked:
            child = start(line, {**env, **told}, piped=view is not None)
            children.append(child)
            viewer = view.follow(child) if view else None
            if asked:  # what came while the launcher was starting
                child.send_signal(signal.SIGUSR1)
            try:
                code = child.wait(timeout_s or None)
            except subprocess.TimeoutExpired:
                asked.append(signal.SIGTERM)
                code = _end(child)
                print(f"engine: error[E700] the run did not end within {timeout_s:g} s and was stopped", file=sys.stderr)
            if viewer:
                viewer.join(GRACE_S)
        return outcome(code, record, asked)


@contextlib.contextmanager
def forwarding(children: list[subprocess.Popen[bytes]], record: Path) -> Iterator[list[int]]:
    """While inside, signals to us go on to the children; yields the list of those that came."""
    asked: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) == 1:
            record.with_name("stop").write_text(signal.Signals(number).name)
        for child in children:
            child.send_signal(signal.SIGUSR1 if len(asked) == 1 else number)

    old = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def start(line: list[str], env: dict[str, str], *, piped: bool = False) -> subprocess.Popen[bytes]:
    """The launcher, in a process group of its own, so that Ctrl-C reaches the ranks once and in order; it ends with us.

    `piped`: its standard output comes to us, to be shown beside the live view.
    """
    libc = ctypes.CDLL(None)
    given = standard_input()
    quiet = subprocess.DEVNULL if given or sys.stdin is None or sys.stdin.isatty() else None
    return subprocess.Popen(line, env={**env, "ENGINE_STDIN": given}, stdin=quiet, process_group=0,
                            stdout=subprocess.PIPE if piped else None,
                            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM))


def standard_input() -> str:
    """`host:path` by which a rank of this host opens our standard input itself; "" where that is no pipe or file.

    Launchers do not pass on a stream: Open MPI's never its end (measured; 5.0.11), so a rank that reads it would wait for
    ever; MPICH's ends the job where the reader is slower than the writer (measured; 5.0.2, 510 kB).
    """
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return ""
    return f"{os.uname().nodename}:/proc/{os.getpid()}/fd/0" if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) else ""


def outcome(code: int, record: Path, asked: list[int]) -> int:
    """What the job's end means: the record of the first failure where there is one (said here, if the rank has left that
    to us); else only 0 is taken as it is.

    Launchers have exit codes of their own for a stopped job and for a rank that was killed; none of them is passed on.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = json.loads(record.read_text())
        code = int(found["code"])
        if found.get("untold"):
            print(found["untold"], file=sys.stderr)
        if code in CODES:
            return code if code != 75 or signal.SIGINT not in asked else 130
    if code == 0:
        return 0
    if asked:
        return 130 if signal.SIGINT in asked else 75
    if code in CODES:
        return code
    print(f"engine: error[E700] a rank was lost without a word (the launcher ended with {code})\n"
          "  fix: look for the out-of-memory killer or a crash above, then start again with --resume", file=sys.stderr)
    return 75


def _end(child: subprocess.Popen[bytes]) -> int:
    """Asks the launcher to stop, then makes it."""
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    return 75
