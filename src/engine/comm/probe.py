"""Which MPI this Python would use, found without initialising it."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def libmpi() -> str:
    """Path of the MPI library that is loaded, or the one mpi4py would load first; "none" where there is none."""
    with open("/proc/self/maps") as maps:
        loaded = mapped(maps, "libmpi")
    if loaded:
        return loaded[0]
    if os.environ.get("MPI4PY_LIBMPI"):
        return os.environ["MPI4PY_LIBMPI"]
    for folder in (Path(sys.prefix) / "lib", Path(sys.base_prefix) / "lib"):
        for name in ("libmpi.so.12", "libmpi.so.40", "libmpi.so"):
            if (folder / name).exists():
                return str(folder / name)
    from ctypes.util import find_library

    return find_library("mpi") or "none"


def mapped(maps: Iterable[str], name: str) -> list[str]:
    """Paths of the files with `name` in their names, out of the lines of /proc/PID/maps; a path may hold spaces.

    >>> mapped(["7f00-7f01 r-xp 00000000 08:01 42    /a b/lib/libmpi.so.12\\n"], "libmpi")
    ['/a b/lib/libmpi.so.12']
    """
    return sorted({line.split(maxsplit=5)[-1].rstrip("\n") for line in maps if name in line.rsplit("/", 1)[-1]})


def launcher(given: str = "") -> str:
    """The mpiexec to use: as given, beside the MPI library in use, else on PATH; "" where there is none."""
    library = Path(libmpi())
    homes = [*library.parents[1:3], Path(sys.prefix)] if library.is_absolute() else []
    beside = [str(home / "bin" / "mpiexec") for home in homes if (home / "bin" / "mpiexec").exists()]
    for found in (given, os.environ.get("ENGINE_MPIEXEC", ""), *beside):
        if found:
            return found
    return shutil.which("mpiexec") or shutil.which("mpirun") or ""


@cache
def vendor(mpiexec: str) -> str:
    """`mpich`, `openmpi`, `intel` or `unknown`, from what the launcher says of itself."""
    try:
        said = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, timeout=20).stdout.lower()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    for word, name in (("open mpi", "openmpi"), ("prte", "openmpi"), ("intel", "intel"), ("hydra", "mpich")):
        if word in said:
            return name
    return "unknown"


def flags(mpiexec: str, ranks: int) -> tuple[list[str], dict[str, str]]:
    """Launcher options and environment for `ranks` on this machine: as root, and with more ranks than cores."""
    crowded = ranks > len(os.sched_getaffinity(0))
    if vendor(mpiexec) == "openmpi":
        options = ["--mca", "osc", "^ucx", "--bind-to", "none"]
        options += ["--allow-run-as-root"] * (os.getuid() == 0) + ["--oversubscribe"] * crowded
        return options, {"OMPI_MCA_mpi_yield_when_idle": "1"} if crowded else {}
    return [], {"MPIR_CVAR_POLLS_BEFORE_YIELD": "0"} if crowded else {}
