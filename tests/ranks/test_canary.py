"""Canaries: each fact about an MPI that recovery relies on, asked of the MPI that is here. One that falls says that a release
has changed what docs/survive.md and comm/repair.py assume.
"""
import os
import signal
import subprocess
import sys
import time

import pytest

from engine.comm import probe, repair

DIE = "os.kill(os.getpid(), signal.SIGKILL)"
HEAD = """
import os, signal, sys, time
import numpy as np
from mpi4py import MPI
world = MPI.COMM_WORLD
world.Set_errhandler(MPI.ERRORS_RETURN)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # one write: lines of two ranks do not mix
def wait(request, limit_s=10.0):
    end = time.monotonic() + limit_s
    while not request.Test():
        if time.monotonic() > end:
            return False
        time.sleep(1e-4)
    return True
"""


def vendor():
    return probe.vendor(probe.launcher())


def ranks(n, program, flags=(), before=(), limit_s=40.0, **env):
    """(exit code, lines said, seconds); None as exit code where it had to be ended."""
    mpiexec = probe.launcher()
    options, more = probe.flags(mpiexec, n)
    line = [mpiexec, *options, *flags, "-n", str(n), *before, sys.executable, "-c", HEAD + program]
    began = time.monotonic()
    job = subprocess.Popen(line, env={**os.environ, **more, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           start_new_session=True, stdin=subprocess.DEVNULL)
    try:
        said, _ = job.communicate(timeout=limit_s)
        return job.returncode, said.splitlines(), time.monotonic() - began
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        return None, job.communicate()[0].splitlines(), limit_s


mpich = pytest.mark.skipif(vendor() != "mpich", reason="a fact about MPICH")
openmpi = pytest.mark.skipif(vendor() != "openmpi", reason="a fact about Open MPI")


def test_a_killed_rank_ends_the_job_at_once_where_nothing_is_asked_for():
    code, said, seconds = ranks(3, f"""
world.Barrier()
if world.rank == 1:
    {DIE}
time.sleep(30)
say("outlived")
""")
    assert code not in (0, None) and "outlived" not in said and seconds < 25


@mpich
def test_mpi4pys_stand_ins_for_ulfm_are_silent_under_mpich():
    code, said, _ = ranks(2, """
from engine.comm import repair
revoked = "bound"
try:
    world.Dup().Revoke()
except NotImplementedError:
    revoked = "absent"
say(MPI.ERR_PROC_FAILED == MPI.ERR_UNKNOWN, revoked, world.Get_failed().size, world.Shrink().size,
      repair._failed_of(world), repair.mode())
""")
    assert code == 0 and said == ["True absent 0 2 [] "] * 2, said


@mpich
def test_the_shield_keeps_survivors_who_learn_who_died_and_form_a_group():
    code, said, _ = ranks(3, f"""
from engine.comm import repair
signal.signal(signal.SIGUSR1, lambda *a: None)
assert repair.mode() == "shield"
world.Barrier()
if world.rank == 1:
    {DIE}
end = time.monotonic() + 10
while not repair._failed_of(world) and time.monotonic() < end:
    time.sleep(0.001)
dead = repair._failed_of(world)
left = world.Create_group(world.group.Excl(dead), 1)
total = np.zeros(1)
request = left.Iallreduce(np.ones(1), total)
say(dead, wait(request), total[0])
time.sleep(0.3)
os._exit(0)
""", repair.SHIELD_FLAGS, repair.SHIELD, ENGINE_TIER="shield")
    assert [line for line in said if line.startswith("[")] == ["[1] True 2.0"] * 2, (code, said)


ULFM = f"""
from engine.comm import repair
assert repair.mode() == "ulfm", os.environ.get("OMPI_MCA_mpi_ft_enable")
world.Barrier()
if world.rank == 1:
    {DIE}
error = None
try:
    request = world.Iallreduce(np.ones(1), np.zeros(1))
    wait(request)
except MPI.Exception as caught:
    error = caught
known = repair.lost(error) if error else None
world.Revoke()
left = world.Shrink()
total = np.zeros(1)
left.Allreduce(np.ones(1), total)
say("left", left.size, total[0], known)
time.sleep(0.3)
os._exit(0)
"""


@openmpi
@pytest.mark.smoke
def test_ulfm_revokes_and_shrinks_with_the_flags_and_is_off_without():
    code, said, _ = ranks(3, ULFM, repair.ULFM_FLAGS)
    assert [line for line in said if line.startswith("left")] == ["left 2 2.0 True"] * 2, (code, said)
    code, said, _ = ranks(2, """
from engine.comm import repair
say("mode", repair.mode() == "")
""")
    assert code == 0 and said == ["mode True"] * 2, said
