"""One suite, any number of ranks: a test marked `ranks(1, 2)` runs once for each size, under a real mpiexec.

Outside, such a test only starts the launcher on itself; `ENGINE_RANKS` in the environment says that this process is a
rank. The first rank that fails prints its traceback and ends the job, so nobody waits for it.
"""
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import settings

from engine.comm import probe

INSIDE = "ENGINE_RANKS" in os.environ
TIMEOUT_S = 120.0
MEETS_MPI = {"ranks", "comm", "embed"}  # folders whose tests start real ranks, by themselves too

settings.register_profile("engine", deadline=None)
settings.register_profile("ranks", deadline=None, derandomize=True, database=None, max_examples=25)
settings.load_profile("ranks" if INSIDE else "engine")


def launch(n, args, timeout_s=TIMEOUT_S, **env):
    """Runs `python *args` on `n` ranks; a job that does not end in time is killed whole, and its output kept."""
    mpiexec = probe.launcher()
    if not mpiexec:
        pytest.fail("no mpiexec found: pip install 'engine[mpi]'", pytrace=False)
    options, more = probe.flags(mpiexec, n)
    line = [mpiexec, *options, "-n", str(n), sys.executable, *map(str, args)]
    child = subprocess.Popen(line, env={**os.environ, **more, **env}, stdin=subprocess.DEVNULL, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        out, err = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        pytest.fail(f"{n} ranks did not end within {timeout_s:g} s\n{out[-6000:]}\n{err[-6000:]}", pytrace=False)
    return subprocess.CompletedProcess(line, child.returncode, out, err)


@pytest.fixture
def mpirun():
    """`mpirun(n, args, timeout_s=120, **env) -> CompletedProcess`: a whole program on n ranks, output as text."""
    return launch


@pytest.fixture
def link():
    """The World of this rank, closed at the end."""
    from engine.comm.world import World

    world = World(timeout_s=60.0)
    yield world
    world.close()


def pytest_generate_tests(metafunc):
    mark = metafunc.definition.get_closest_marker("ranks")
    if mark:
        if "size" not in metafunc.fixturenames:
            metafunc.fixturenames.append("size")
        metafunc.parametrize("size", mark.args, ids=lambda n: f"n{n}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """`mpi` marks what meets an MPI: the second MPI need not repeat the rest, which knows of none."""
    for item in items:
        there = MEETS_MPI & set(item.path.relative_to(item.config.rootpath).parts)
        if there or item.get_closest_marker("ranks") or "mpirun" in item.fixturenames:
            item.add_marker("mpi")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Outside, fixtures of a test on ranks belong to the ranks: none is made here."""
    if item.get_closest_marker("ranks") and not INSIDE:
        item.fixturenames[:] = [name for name in item.fixturenames if name == "size"]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if INSIDE or not pyfuncitem.get_closest_marker("ranks"):
        return None
    size = pyfuncitem.callspec.params["size"]
    args = ["-m", "pytest", "-o", "addopts=-q --import-mode=importlib", "-x", "--tb=short", "--timeout=0", "-p",
            "no:cacheprovider", pyfuncitem.nodeid]
    done = launch(size, args, ENGINE_RANKS=str(size))
    if done.returncode or done.stdout.count("1 passed") != size:
        said = f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        pytest.fail(f"exit {done.returncode} on {size} ranks\n{said}", pytrace=False)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Inside: a failure on one rank ends the job at once, traceback first."""
    outcome = yield
    report = outcome.get_result()
    if INSIDE and report.failed:
        from engine.comm.world import abort, start

        rank = start().COMM_WORLD.Get_rank()
        os.write(2, f"\nrank {rank} failed in {report.when} of {item.nodeid}\n{report.longreprtext}\n".encode())
        time.sleep(0.3)
        abort(1)
        os._exit(1)


def pytest_unconfigure(config):
    """Inside: MPI ends before the process does."""
    if INSIDE and "mpi4py.MPI" in sys.modules:
        from mpi4py import MPI

        if MPI.Is_initialized() and not MPI.Is_finalized():
            MPI.Finalize()
