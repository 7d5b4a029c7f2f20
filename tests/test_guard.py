"""Failure hygiene without ranks: who launched us, whose record counts, what a signal does before the first step."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from engine import guard
from engine.errors import ConfigError, DataError

OF_LAUNCHERS = (*guard.SIZES, *guard.STEPS, "ENGINE_ERROR_FILE")


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No launcher in the environment, and a temporary folder of its own."""
    for name in OF_LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return monkeypatch


@pytest.mark.parametrize(("env", "ranks"), [
    ({}, 1), ({"PMI_SIZE": "3"}, 3), ({"OMPI_COMM_WORLD_SIZE": "4"}, 4), ({"SLURM_STEP_NUM_TASKS": "8"}, 8),
    ({"SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_SIZE": "16"}, 16), ({"SLURM_STEP_NUM_TASKS": "4", "PMI_SIZE": "1"}, 1),
    ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, 1), ({"FLUX_JOB_SIZE": "5"}, 5), ({"PMI_SIZE": "many"}, 1),
])
def test_ranks_that_the_launcher_says(alone, env, ranks):
    for name, value in env.items():
        alone.setenv(name, value)
    assert guard.launched() == ranks


def test_several_ranks_and_a_world_of_one_is_an_error_with_both_paths(alone):
    guard.check_launcher(1)
    alone.setenv("SLURM_STEP_NUM_TASKS", "4")
    guard.check_launcher(4)
    alone.setenv("ENGINE_MPIEXEC", "/some/mpiexec")
    with pytest.raises(ConfigError) as caught:
        guard.check_launcher(1)
    assert "4 ranks" in str(caught.value) and "/some/mpiexec" in str(caught.value) and "MPI library" in str(caught.value)


def test_the_first_failure_of_a_job_is_kept_and_no_other(alone):
    assert guard.claim({"rank": 0})
    assert guard.error_file() is None
    alone.setenv("PMI_SIZE", "2")
    assert guard.claim({"rank": 1, "code": 65})
    assert not guard.claim({"rank": 0, "code": 70})
    assert json.loads(guard.error_file().read_text()) == {"rank": 1, "code": 65}


def test_a_record_of_an_earlier_launcher_with_our_launchers_pid_is_swept(alone, tmp_path):
    alone.setenv("PMI_SIZE", "2")
    stale = [tmp_path / f"engine-{os.getuid()}-{pid}-17.error.json" for pid in (os.getppid(), 2**22 + 1)]
    for path in stale:
        path.write_text("{}")
    assert guard.leftovers() == sorted(stale)
    assert guard.claim({"rank": 1})
    assert guard.leftovers() == []
    assert [path.name for path in tmp_path.glob("engine-*")] == [guard.error_file().name]


def test_the_message_says_what_where_and_how_to_go_on(alone):
    error = DataError("expected 5 columns, found 4", where="part-7.csv:12", fix="--on-bad-rows skip")
    record = {"rank": 3, "host": "n1", "pid": 9, "code": 65, "label": error.label, "message": error.message,
              "where": error.where, "fix": error.fix}
    assert guard.render(record) == ("engine: error[E300] expected 5 columns, found 4\n  at: part-7.csv:12\n"
                                    "  fix: --on-bad-rows skip")
    alone.setenv("PMI_SIZE", "8")
    assert "first on rank 3 (n1, pid 9)" in guard.render(record)


PROGRAM = """
import threading, time
from engine.guard import Guard
guard = Guard()
guard.install()
print("ready", flush=True)
%s
"""


def program(body, tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in OF_LAUNCHERS} | {"TMPDIR": str(tmp_path)}
    child = subprocess.Popen([sys.executable, "-c", PROGRAM % body], env=env, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_before_the_first_step_ends_at_once(number, code, tmp_path):
    child = program("time.sleep(30)", tmp_path)
    child.send_signal(number)
    _, err = child.communicate(timeout=20)
    assert child.returncode == code
    assert f"stopped by {number.name} before the first step" in err and "Traceback" not in err


def test_in_the_loop_the_first_signal_asks_and_the_second_ends(tmp_path):
    child = program("guard.beat('step 1')\nprint('in the loop', flush=True)\nwhile not guard.stop: time.sleep(.01)\n"
                    "print(guard.stop, flush=True)\ntime.sleep(30)", tmp_path)
    assert child.stdout.readline() == "in the loop\n"
    child.send_signal(signal.SIGUSR1)
    assert child.stdout.readline() == "SIGUSR1\n"
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=20)
    assert child.returncode == 75 and time.monotonic() - began < 5


ODD = "raise ValueError('seven is odd')"


@pytest.mark.parametrize("body", [ODD, f"def f(): {ODD}\nthreading.Thread(target=f).start(); time.sleep(30)"])
def test_an_uncaught_exception_in_any_thread_is_a_bug_with_its_traceback(body, tmp_path):
    _, err = (child := program(body, tmp_path)).communicate(timeout=20)
    assert child.returncode == 70
    assert err.count("engine: error[E100] ValueError: seven is odd") == 1 and "Traceback" in err


def test_a_main_thread_that_stands_still_is_named_with_its_operation(tmp_path):
    _, err = (child := program("guard.start(0, 0.3)\nguard.beat('reading piece 4')\ntime.sleep(30)", tmp_path)
              ).communicate(timeout=20)
    assert child.returncode == 75
    assert "rank 0 has been in 'reading piece 4'" in err and "most recent call first" in err


def test_a_host_is_not_watched_when_its_job_is_over(tmp_path):
    body = "host = engine.guard.Guard()\nhost.start(0, 0.2)\nhost.rest()\ntime.sleep(1)\nprint('lives', flush=True)"
    body = "import engine.guard\n" + body
    out, err = (child := program(body, tmp_path)).communicate(timeout=20)
    assert (child.returncode, out) == (0, "lives\n"), err


def test_waiting_for_others_is_not_standing_still(tmp_path):
    child = program("guard.start(0, 0.3)\nwith guard.watch('allreduce'): time.sleep(1)\nprint('waited', flush=True)", tmp_path)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (0, "waited\n"), err


def test_the_hooks_are_the_programs_not_the_librarys():
    code = ("import os, signal, sys, threading; before = dict(os.environ), sys.excepthook, threading.excepthook, "
            "signal.getsignal(signal.SIGTERM); import engine, engine.guard, engine.session; "
            "engine.guard.Guard(); assert before == (dict(os.environ), sys.excepthook, threading.excepthook, "
            "signal.getsignal(signal.SIGTERM))")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_parents_signal_keeps_its_name(alone, tmp_path):
    alone.setenv("ENGINE_ERROR_FILE", str(tmp_path / "run.error.json"))
    assert guard.meant(signal.SIGUSR1) == "SIGUSR1"
    (tmp_path / "stop").write_text("SIGINT")
    assert guard.meant(signal.SIGUSR1) == "SIGINT"
    assert guard.meant(signal.SIGTERM) == "SIGTERM"


def test_a_lone_rank_that_stalls_is_named_and_one_that_reads_is_not(alone):
    program = """
import time
from engine.config import resolve
from engine.guard import Guard
from engine.train import link_up
guard = Guard()
link_up(resolve(overrides=["loop.stall_timeout=0.5"], env={}), guard)
with guard.watch("read rows"):
    time.sleep(1.5)
guard.beat("step 7")
time.sleep(30)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 75 and time.monotonic() - began < 20
    assert "rank 0 has been in 'step 7' for" in done.stderr and "others" not in done.stderr
