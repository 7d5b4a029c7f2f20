"""A communicator of the survivors, where the MPI can give one: ULFM (Open MPI 5), or the shield recipe (MPICH 5).

ULFM: `mpirun --with-ft ulfm --mca coll ^han,hcoll,portals4`; revoke and shrink. MPICH's own are assertions that abort, and
mpi4py's wheel for it binds silent stand-ins, so there: `mpiexec -disable-auto-cleanup -n N shield …` (a shell that turns
death by a signal into an exit code, else the launcher kills the others), `MPIX_Comm_get_failed` by address, and a
communicator of the group that is left. Both leave without MPI_Finalize, which hangs after a death.
"""
from __future__ import annotations

import ctypes
import os
import time
from typing import Any

from engine.comm.probe import libmpi
from engine.errors import EngineError, PeerError, PeerLost

ULFM_FLAGS = ["--with-ft", "ulfm", "--mca", "coll", "^han,hcoll,portals4"]
SHIELD_FLAGS = ["-disable-auto-cleanup"]
SHIELD = ["/bin/sh", "-c", 'trap : USR1; "$@"; exit $?', "shield"]
ENABLED = "OMPI_MCA_mpi_ft_enable"
FAILURES = ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")
repaired = False  # after a repair the process leaves without MPI_Finalize


def mode() -> str:
    """`ulfm`, `shield` or "": what this MPI, started as it was, can do. Proved, not believed from a version."""
    from mpi4py import MPI

    if MPI.Get_library_version().startswith("Open MPI"):
        on = os.environ.get(ENABLED) == "1" and MPI.ERR_PROC_FAILED != MPI.ERR_UNKNOWN
        return "ulfm" if on else ""
    if os.environ.get("ENGINE_TIER") == "shield" and _failed_of(MPI.COMM_WORLD) == []:
        return "shield"
    return ""


def advice() -> str:
    """The flags that would enable recovery in place under this MPI."""
    from mpi4py import MPI

    if MPI.Get_library_version().startswith("Open MPI"):
        return f"mpirun {' '.join(ULFM_FLAGS)}"
    return f"mpiexec {' '.join(SHIELD_FLAGS)}, with ENGINE_TIER=shield and each rank under sh -c '{SHIELD[2]}'"


def lost(error: BaseException) -> bool:
    """Whether this error says that a peer died (a wait that was called off, or MPI's own word for it)."""
    if isinstance(error, EngineError):
        return isinstance(error, PeerLost)
    if not type(error).__module__.startswith("mpi4py"):
        return False
    from mpi4py import MPI

    classes = {getattr(MPI, name, MPI.ERR_UNKNOWN) for name in FAILURES} - {MPI.ERR_UNKNOWN}
    return isinstance(error, MPI.Exception) and error.Get_error_class() in classes


def failed() -> list[int]:
    """Ranks of the start that MPICH's process manager knows to be dead; none under another MPI, or without the shield."""
    from mpi4py import MPI

    return (_failed_of(MPI.COMM_WORLD) or []) if mode_cached() == "shield" else []


def survivors(link: Any, *, least: int, timeout_s: float) -> Any:
    """A communicator of the living ranks of `link`; `least` = deaths known here. PeerError at the deadline (collective)."""
    global repaired
    from mpi4py import MPI

    repaired = True
    comm, how = link.comm, mode_cached()
    if how == "ulfm":
        comm.Revoke()
        fresh = comm.Shrink()
        fresh.Set_errhandler(MPI.ERRORS_RETURN)
        return fresh
    if how != "shield":
        raise PeerError("this MPI cannot go on after a death", fix=f"start with {advice()}")
    until = time.monotonic() + timeout_s
    while True:
        failed = _failed_of(MPI.COMM_WORLD) or []
        here = set(MPI.Group.Translate_ranks(MPI.COMM_WORLD.group, failed, comm.group)) - {MPI.UNDEFINED}
        if len(here) >= max(1, least):
            break
        if time.monotonic() > until:
            raise PeerError(f"the process manager knows of {len(here)} deaths, expected {least}")
        time.sleep(0.001)
    fresh = MPI.COMM_WORLD.Create_group(MPI.COMM_WORLD.group.Excl(sorted(failed)), len(failed))
    fresh.Set_errhandler(MPI.ERRORS_RETURN)
    return fresh


_mode: list[str] = []


def mode_cached() -> str:
    """`mode()`, asked once, before anything has failed."""
    if not _mode:
        _mode.append(mode())
    return _mode[0]


def _failed_of(comm: Any) -> list[int] | None:
    """World ranks the process manager knows to be dead; None where this MPI cannot say."""
    from mpi4py import MPI

    try:
        library = ctypes.CDLL(libmpi())
        call = library.MPIX_Comm_get_failed
    except (OSError, AttributeError):
        return None
    group = MPI.Group()
    handle = ctypes.c_int.from_address(MPI._addressof(comm))
    if call(handle, ctypes.c_void_p(MPI._addressof(group))):
        return None
    ranks = MPI.Group.Translate_ranks(group, list(range(group.size)), MPI.COMM_WORLD.group)
    return sorted(int(rank) for rank in ranks)
