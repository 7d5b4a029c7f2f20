"""`engine run -n N …`: starts the launcher beside the MPI in use, and gives back what the ranks meant by their exit."""
from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from engine.comm import probe
from engine.errors import ConfigError

GRACE_S = 10.0


def command(ranks: int, verb: list[str], *, mpi: str = "") -> tuple[list[str], dict[str, str]]:
    """The launcher's command line and environment for `python -m engine <verb>` on `ranks` ranks."""
    mpiexec = probe.launcher(mpi)
    if not mpiexec:
        raise ConfigError("no mpiexec found", fix="pip install 'engine[mpi]', or load the site's MPI module")
    if ranks < 1:
        raise ConfigError(f"-n: expected at least 1 rank, found {ranks}")
    options, env = probe.flags(mpiexec, ranks)
    line = [mpiexec, *options, "-n", str(ranks), sys.executable, "-m", "engine", *verb]
    return line, {**os.environ, **env, "ENGINE_MPIEXEC": mpiexec}


def run(ranks: int, verb: list[str], *, mpi: str = "", timeout_s: float = 0.0) -> int:
    """Runs the job to its end; returns 0, or the code of the first rank that failed. Signals go on to the ranks."""
    line, env = command(ranks, verb, mpi=mpi)
    cores = len(os.sched_getaffinity(0))
    if ranks > cores:
        print(f"engine: {ranks} ranks on {cores} cores: each gets 1/{ranks / cores:.1f} of a core", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="engine-run-") as folder:
        record = Path(folder) / "run.error.json"
        child = subprocess.Popen(line, env={**env, "ENGINE_ERROR_FILE": str(record)})
        old = {number: signal.signal(number, lambda n, _: child.send_signal(n))
               for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        try:
            code = child.wait(timeout_s or None)
        except subprocess.TimeoutExpired:
            code = _end(child)
            print(f"engine: error[E700] the run did not end within {timeout_s:g} s and was stopped", file=sys.stderr)
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        with contextlib.suppress(OSError, ValueError, KeyError):
            return int(json.loads(record.read_text())["code"])
    return code if code >= 0 else 75


def _end(child: subprocess.Popen[bytes]) -> int:
    """Asks the launcher to stop, then makes it."""
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    return 75
