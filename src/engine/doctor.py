"""What this machine offers to a run, found without initialising MPI; each failing line ends with its fix."""
from __future__ import annotations

import json as text
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engine.comm import probe

PACKAGES = ("numpy", "mpi4py", "numba", "blosc2")
JOBS = ("SLURM_JOB_ID", "PBS_JOBID")
SHM = Path("/dev/shm")
LEAST_SHM, LEAST_DISK = 64 << 20, 1 << 30
LEFTOVERS = ("engine-*", "mpich_shar*", "vader_segment*", "sm_segment*")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, whether it serves, what was found, and what to do where it does not."""

    name: str
    ok: bool
    text: str
    fix: str = ""


def examine() -> list[Finding]:
    """Everything looked at, in the order printed."""
    return [*_versions(), _isa(), *_mpi(), *_cores(), _shm(), _left(), _disk()]


def main(json: bool = False) -> int:
    """Prints the findings, one a line or one JSON object; 0 where all is well, else 69 (service unavailable)."""
    found = examine()
    if json:
        print(text.dumps([asdict(f) for f in found]))
    else:
        for f in found:
            print(f"{'ok  ' if f.ok else 'BAD '} {f.name:<10} {f.text}" + ("" if f.ok else f"; fix: {f.fix}"))
    return 0 if all(f.ok for f in found) else 69


def _versions() -> Iterator[Finding]:
    yield Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} at {sys.executable}",
                  "install Python 3.11 or later")
    for name in ("engine", *PACKAGES):
        try:
            yield Finding(name, True, version(name))
        except PackageNotFoundError:
            from_source = name == "engine"
            yield Finding(name, from_source, "runs from source, not installed" if from_source else "not installed",
                          f"pip install {name}")


def _isa() -> Finding:
    try:
        from engine.kernels import _native
    except ImportError as error:
        return Finding("kernels", False, f"the native module does not load: {error}", "pip install --editable .")
    return Finding("kernels", True, f"{_native.isa()} in use, this CPU runs {', '.join(_native.isa_runs())}")


def _mpi() -> Iterator[Finding]:
    library, mpiexec = probe.libmpi(), probe.launcher()
    inside = library.startswith((sys.prefix, sys.base_prefix + "/lib/libmpi"))
    yield Finding("mpi", library != "none",
                  "no MPI library" if library == "none" else f"{library} ({'wheel' if inside else 'system'})",
                  "pip install 'engine[mpi]', or load the site's MPI module")
    if not mpiexec:
        yield Finding("launcher", False, "no mpiexec", "pip install 'engine[mpi]', or load the site's MPI module")
        return
    kind = probe.vendor(mpiexec)
    yield Finding("launcher", matches(library, kind), f"{mpiexec} ({kind})",
                  f"it is not the launcher of {library}: set ENGINE_MPIEXEC to the mpiexec beside that library")
    job = next((name for name in JOBS if os.environ.get(name)), "")
    if job:
        origin = "a wheel" if inside else "the system"
        yield Finding("batch", not inside, f"{job}={os.environ[job]}, MPI from {origin}",
                      "a wheel's MPI may not know this machine's network: load the site's module, set MPI4PY_LIBMPI")


def matches(library: str, kind: str) -> bool:
    """False where the library's name says another MPI than the launcher: .so.12 is MPICH's ABI, .so.40 Open MPI's."""
    said = "mpich" if ".so.12" in library else "openmpi" if ".so.40" in library else ""
    return not said or kind == "unknown" or said == {"intel": "mpich"}.get(kind, kind)


def _cores() -> Iterator[Finding]:
    mine, whole, limit = len(os.sched_getaffinity(0)), os.cpu_count() or 1, cores_limit()
    given = f"{mine} of {whole} cores in the affinity mask" + (f", cgroup allows {limit:g}" if limit else "")
    yield Finding("cores", not limit or limit >= mine, given,
                  f"more threads than the cgroup allows are throttled: taskset -c 0-{max(int(limit) - 1, 0)} …")
    asked = os.environ.get("ENGINE_LOOP_THREADS", "")
    plan = f"{asked} a rank (ENGINE_LOOP_THREADS)" if asked else f"{mine} for 1 rank, {max(mine // 2, 1)} each for 2"
    yield Finding("threads", not asked.isdigit() or int(asked) <= mine, plan,
                  f"set ENGINE_LOOP_THREADS to at most {mine}")


def cores_limit(root: Path = CGROUP) -> float:
    """Cores the control group allows (version 2, then 1); 0 = no limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return 0.0
    return 0.0 if quota in ("max", "-1") else int(quota) / int(period)


def _shm() -> Finding:
    try:
        free = shutil.disk_usage(SHM).free
        with tempfile.TemporaryFile(dir=SHM) as file:
            file.write(b"x")
    except OSError as error:
        return Finding("shm", False, f"{SHM} is not writable: {error.strerror}", f"mount -t tmpfs tmpfs {SHM}")
    return Finding("shm", free >= LEAST_SHM, f"{SHM} writable, {free / 2**20:.0f} MiB free",
                   "give the container more (--shm-size=1g), or remove what is left there")


def _left() -> Finding:
    own = [str(p) for pattern in LEFTOVERS for p in SHM.glob(pattern) if _owner(p) == os.getuid()]
    return Finding("leftovers", not own, f"{len(own)} files of earlier runs in {SHM}" if own else f"none in {SHM}",
                   f"if no job of yours runs here: rm {' '.join(own[:4])}{' …' if len(own) > 4 else ''}")


def _owner(path: Path) -> int:
    try:
        return path.stat().st_uid
    except OSError:
        return -1


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    return Finding("disk", free >= LEAST_DISK, f"{free / 2**30:.1f} GiB free in {os.getcwd()}",
                   "run where there is room for checkpoints, or set run.dir and checkpoint.dir")
