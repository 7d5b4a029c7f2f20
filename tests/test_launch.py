"""`engine run`: the command line it makes, the exit code it gives back, and that nothing is left running."""
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from engine import launch
from engine.comm import probe
from engine.errors import ConfigError


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """`fake(body)`: a launcher that is a shell script, in place of the real one."""
    def make(body):
        path = tmp_path / "mpiexec"
        path.write_text("#!/bin/sh\n" + body)
        path.chmod(0o755)
        probe.vendor.cache_clear()
        return str(path)
    return make


def test_the_command_line(fake):
    mpiexec = fake("echo HYDRA build details")
    line, env = launch.command(3, ["train", "a.csv"], mpi=mpiexec)
    assert line[0] == mpiexec
    assert line[line.index("-n"):] == ["-n", "3", sys.executable, "-m", "engine", "train", "a.csv"]
    assert env["ENGINE_MPIEXEC"] == mpiexec


def test_open_mpi_gets_its_own_options(fake, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(os, "getuid", lambda: 0)
    mpiexec = fake("echo 'mpiexec (Open MPI) 5.0.8'")
    line, env = launch.command(2, [], mpi=mpiexec)
    assert "--allow-run-as-root" in line
    assert "--oversubscribe" not in line
    line, env = launch.command(3, [], mpi=mpiexec)
    assert "--oversubscribe" in line
    assert env["OMPI_MCA_mpi_yield_when_idle"] == "1"
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert "--allow-run-as-root" not in launch.command(2, [], mpi=mpiexec)[0]


def test_no_launcher_and_no_ranks(monkeypatch, fake):
    with pytest.raises(ConfigError, match="at least 1 rank"):
        launch.command(0, [], mpi=fake("exit 0"))
    monkeypatch.setattr(probe, "launcher", lambda given="": "")
    with pytest.raises(ConfigError, match="no mpiexec"):
        launch.command(2, [])


def test_the_code_is_the_first_failing_ranks(fake):
    assert launch.run(1, [], mpi=fake("exit 0")) == 0
    assert launch.run(1, [], mpi=fake("exit 3")) == 75
    record = 'test "$1" = --version || echo \'{"code": 65}\' > "$ENGINE_ERROR_FILE"\nexit 9'
    assert launch.run(1, [], mpi=fake(record)) == 65
    assert launch.run(1, [], mpi=fake("kill -9 $$")) == 75


def test_a_run_past_its_time_is_stopped(fake, capsys):
    began = time.monotonic()
    assert launch.run(1, [], mpi=fake('test "$1" = --version || exec sleep 60'), timeout_s=0.5) == 75
    assert time.monotonic() - began < 20
    assert "did not end within 0.5 s" in capsys.readouterr().err


def test_the_first_signal_goes_on_under_a_name_that_no_launcher_acts_on(fake):
    mpiexec = fake('test "$1" = --version && exit; trap \'cat "$(dirname "$ENGINE_ERROR_FILE")/stop"; exit 42\' USR1\n'
                   'sleep .5; echo up; while :; do sleep .1; done')
    code = textwrap.dedent(f"""
        import os, signal, sys
        from engine import launch
        before = signal.getsignal(signal.SIGTERM)
        print("ready", flush=True)
        code = launch.run(1, [], mpi={mpiexec!r})
        assert signal.getsignal(signal.SIGTERM) == before
        sys.exit(code)
    """)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        assert child.stdout.readline() == "up\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 75
        assert child.stdout.read() == "SIGTERM"
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(("launcher", "recorded", "asked", "code"), [
    (0, None, [], 0), (0, 65, [], 65), (1, 70, [], 70), (255, 75, [TERM], 75), (1, 130, [INT], 130), (143, 75, [INT], 130),
    (255, None, [INT], 130), (-2, None, [INT], 130), (143, None, [TERM], 75), (0, None, [TERM], 0), (64, None, [], 64),
    (1, 65, [INT], 65), (9, None, [], 75), (-9, None, [], 75), (137, 3, [], 75),
])
def test_the_end_of_a_job_has_one_meaning_under_every_launcher(tmp_path, launcher, recorded, asked, code):
    record = tmp_path / "run.error.json"
    if recorded is not None:
        record.write_text(json.dumps({"code": recorded}))
    assert launch.outcome(launcher, record, asked) == code


def test_a_rank_lost_without_a_word_is_said(tmp_path, capsys):
    assert launch.outcome(137, tmp_path / "none", []) == 75
    assert "a rank was lost" in capsys.readouterr().err
    (tmp_path / "torn").write_text('{"co')
    assert launch.outcome(0, tmp_path / "torn", []) == 0


def test_a_launcher_that_is_not_there_is_a_usage_error():
    with pytest.raises(ConfigError, match="/nope/mpiexec"):
        launch.command(2, ["train"], mpi="/nope/mpiexec")


def test_the_launcher_beside_the_library_in_use(monkeypatch, tmp_path):
    monkeypatch.delenv("ENGINE_MPIEXEC", raising=False)
    mine = tmp_path / "site" / "bin" / "mpiexec"
    mine.parent.mkdir(parents=True)
    mine.touch()
    monkeypatch.setattr(probe, "libmpi", lambda: str(tmp_path / "site" / "lib" / "libmpi.so.40"))
    assert probe.launcher() == str(mine)
    assert probe.launcher("/given/mpiexec") == "/given/mpiexec"
    monkeypatch.setenv("ENGINE_MPIEXEC", "/set/mpiexec")
    assert probe.launcher() == "/set/mpiexec"


@pytest.mark.parametrize(("says", "vendor"), [
    ("mpiexec (Open MPI) 5.0.11", "openmpi"), ("HYDRA build details:", "mpich"),
    ("Intel MPI Library for Linux OS", "intel"), ("something else", "unknown"),
])
def test_vendors(fake, says, vendor):
    assert probe.vendor(fake(f"echo '{says}'")) == vendor


def test_a_mapped_library_is_found_in_a_folder_with_a_space():
    lines = ["7f00-7f01 r-xp 00000000 08:01 42    /a b/lib/libmpi.so.12\n",
             "7f02-7f03 r--p 00000000 08:01 42 /a b/lib/libmpi.so.12\n",
             "7f04-7f05 r-xp 00000000 08:01 43    /usr/lib/libc.so.6\n", "7f06-7f07 rw-p 00000000 00:00 0\n"]
    assert probe.mapped(lines, "libmpi") == ["/a b/lib/libmpi.so.12"]
