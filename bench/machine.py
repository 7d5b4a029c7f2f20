"""The first line of every report: where the figures were taken."""
from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def cpu_model() -> str:
    """The CPU's name as the kernel reports it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Processor"))]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """Short commit of the checkout, with `+` where it has changes; None outside git."""
    try:
        call = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def mpi() -> str | None:
    """Vendor and version of the MPI that ranks would use, asked in a child so that nothing is initialised here."""
    code = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = [" ".join(part.split()).strip("\0 ") for part in done.stdout.splitlines()]
    return ", ".join(part for part in lines[:1] if part) or None


def isa() -> str | None:
    """The instruction set the native kernels run on; None where they are not built."""
    try:
        from engine.kernels import _native
    except ImportError:
        return None
    return _native.isa()


def available() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """CPU, cores, ISA in use, OS, versions, MPI, commit, load, date (UTC)."""
    return {
        "cpu": cpu_model(), "cores": available(), "isa": isa(),
        "os": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
        "numpy": version("numpy"), "mpi": mpi(), "engine": version("engine"), "commit": commit(),
        "load": [round(one, 2) for one in os.getloadavg()], "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
