"""Somebody else's MPI: a communicator handed over as an integer, and what may be done with it.

The host has started MPI, and will end it. Nothing of the host's is changed: error handlers of the duplicates alone are ours.
"""
from __future__ import annotations

import sys
import weakref
from typing import Any

from engine.errors import ConfigError, PeerError

_closers: list[weakref.ref[Any]] = []  # in the order of opening, which is the same on every rank
_keyval: list[int] = []


def mpi() -> Any:
    """The `MPI` module of mpi4py on the library that is in the process; it neither starts, ends nor changes anything."""
    if "mpi4py.MPI" not in sys.modules:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        mpi4py.rc.errors = "default"
    from mpi4py import MPI

    return MPI


def adopt(number: int) -> Any:
    """The communicator that ENGINE_COMM gave as an integer; ConfigError where MPI does not run or it is none."""
    module = mpi()
    if not module.Is_initialized() or module.Is_finalized():
        raise ConfigError("open: expected a running MPI, found one that is "
                          + ("finalised" if module.Is_initialized() else "not initialised"),
                          fix="open the engine between MPI_Init and MPI_Finalize, or with ENGINE_ALONE")
    world = (module.COMM_WORLD, module.COMM_SELF)
    before = [comm.Get_errhandler() for comm in world]  # a wrong number raises on them
    try:
        for comm in world:
            comm.Set_errhandler(module.ERRORS_RETURN)
        standard = getattr(module, "Get_abi_version", lambda: (0, 0))()[0] > 0
        found = module.Comm.fromint(number) if standard else module.Comm.f2py(number)
        if found == module.COMM_NULL:
            raise ConfigError("open: expected a communicator, found MPI_COMM_NULL",
                              fix="only the ranks of the communicator may open an engine over it")
        found.Get_size()
        if found.Is_inter():
            raise ConfigError("open: expected a communicator of one group, found an inter-communicator",
                              fix="merge it with MPI_Intercomm_merge")
    except module.Exception as error:
        raise ConfigError(f"open: {number} is no communicator of this MPI ({error})",
                          fix="pass ENGINE_COMM(comm), from a program compiled against the MPI that it runs with") from None
    finally:
        for comm, handler in zip(world, before, strict=True):
            comm.Set_errhandler(handler)
            handler.Free()
    return found


def check_running() -> None:
    """PeerError where the host has ended MPI: nothing collective can be done any more."""
    if running():
        return
    raise PeerError("MPI has been finalised by the program, so ranks can no longer learn together",
                    fix="close the engine before MPI_Finalize")


def running() -> bool:
    """Whether MPI can be called now."""
    module = sys.modules.get("mpi4py.MPI")
    return module is not None and module.Is_initialized() and not module.Is_finalized()


def threaded() -> bool:
    """Whether a second thread may call MPI while the host does."""
    module = mpi()
    return module.Query_thread() >= module.THREAD_MULTIPLE


def before_finalize(owner: Any) -> None:
    """`owner.finalize()` is called when the host finalises MPI, while MPI can still be used; `owner` is held weakly.

    MPI_Finalize deletes the attributes of MPI_COMM_SELF before anything else (MPI 4.1, 11.2.4).
    """
    module = mpi()
    _closers[:] = [*(one for one in _closers if one() is not None), weakref.ref(owner)]
    if not _keyval:
        _keyval.append(module.Comm.Create_keyval(delete_fn=_finalizing))
        module.COMM_SELF.Set_attr(_keyval[0], True)


def _finalizing(comm: Any, keyval: int, value: Any) -> None:
    for one in list(_closers):
        owner = one()
        if owner is not None:
            owner.finalize()

