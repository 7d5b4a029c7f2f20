"""The program under real launchers: how each kind of end reaches the shell, and what the doctor sees of a job."""
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import guard

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """400 000 short rows: a job that learns for a minute, so that what ends it earlier is what the test did."""
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    path.write_text("a,b,class\n" + "1.5,2,0\n0.5,-1,1\n" * 200_000)
    return path


def start(*args, **more):
    env = {name: value for name, value in os.environ.items() if name not in (*guard.SIZES, *guard.STEPS)}
    return subprocess.Popen([sys.executable, "-m", "engine", *map(str, args)], env=env, text=True, start_new_session=True,
                            errors="replace", stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def learning(rows, folder):
    """A job on two ranks that has written a checkpoint and goes on."""
    job = start("run", "-n", 2, "train", rows, "--threads", 1, "--exchange", 1, "--run-dir", "-", "--checkpoint", folder,
                "--every", "500rows", "--target", "class")
    until = time.monotonic() + 60
    while not list(folder.glob("step-*")):
        assert job.poll() is None and time.monotonic() < until, job.communicate()
        time.sleep(0.01)
    return job


def ended(job, text=None):
    """(stdout, stderr) of a job that must end by itself; one that does not is killed, ranks and all."""
    try:
        return job.communicate(text, timeout=60)
    except subprocess.TimeoutExpired:
        end([job.pid, *children(job.pid)])
        pytest.fail(f"no end within 60 s: {job.communicate()}")


def end(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def children(pid):
    """Every process below `pid`."""
    below = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        below += [int(child), *children(int(child))]
    return below


def ranks_of(job):
    return [pid for pid in children(job.pid) if b"\0-m\0engine\0train" in Path(f"/proc/{pid}/cmdline").read_bytes()
            and not children(pid)]


@pytest.mark.parametrize(("number", "group", "code"), [
    (signal.SIGTERM, False, 75), (signal.SIGUSR1, False, 75), (signal.SIGINT, False, 130), (signal.SIGINT, True, 130),
])
def test_a_signal_to_the_parent_is_a_checkpoint_and_one_exit_code(rows, tmp_path, number, group, code):
    job = learning(rows, tmp_path / "ck")
    (os.killpg if group else os.kill)(job.pid, number)
    out, err = ended(job)
    assert job.returncode == code, (out, err)
    assert "checkpoint at row" in err and err.count("engine: error") == 1


def test_a_rank_killed_outright_is_try_again(rows, tmp_path):
    job = learning(rows, tmp_path / "ck")
    pids = ranks_of(job)
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGKILL)
    began = time.monotonic()
    _, err = ended(job)
    assert job.returncode == 75, err
    assert "a rank was lost" in err and "--resume" in err
    assert time.monotonic() - began < 5


def test_ranks_do_not_outlive_a_killed_parent(rows, tmp_path):
    job = learning(rows, tmp_path / "ck")
    pids = children(job.pid)
    job.kill()
    job.communicate(timeout=30)
    until = time.monotonic() + 15
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    end(left)
    assert left == []


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("count", [300, 30_000])
def test_standard_input_reaches_rank_0_once_and_ends(count):
    """Also beyond the 64 KiB of a pipe."""
    job = start("run", "-n", 2, "train", "-", "--target", "class", "--run-dir", "-", "--threads", 1, "--json",
                stdin=subprocess.PIPE)
    out, err = ended(job, "a,b,class\n" + "1.5,2,0\n0.5,-1,1\n" * count)
    assert job.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["rows"] == 2 * count


def test_the_doctor_of_a_job_speaks_once(tmp_path):
    job = start("run", "-n", 3, "doctor", "--json")
    out, err = ended(job)
    assert job.returncode == 0, err
    assert len(out.splitlines()) == 1
    assert "3 on 1 node" in json.loads(out)["ranks"]["found"]


def test_ranks_of_a_job_step_that_mpi_does_not_see_are_an_error(rows):
    """What `srun` with another MPI's PMI gives: each process is rank 0 of 1."""
    env = {name: value for name, value in os.environ.items() if name not in (*guard.SIZES, *guard.STEPS)}
    env |= {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    done = subprocess.run([sys.executable, "-m", "engine", "train", str(rows), "--run-dir", "-"], env=env, text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 64, done.stderr
    assert "started 2 ranks but MPI sees 1" in done.stderr and "libmpi" in done.stderr
