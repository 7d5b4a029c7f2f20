"""`engine run`: the command line it makes, the exit code it gives back, and that nothing is left running."""
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
    assert launch.run(1, [], mpi=fake("exit 65")) == 65
    assert launch.run(1, [], mpi=fake("exit 3")) == 75
    record = 'test "$1" = --version || echo \'{"code": 65}\' > "$ENGINE_ERROR_FILE"\nexit 9'
    assert launch.run(1, [], mpi=fake(record)) == 65
    assert launch.run(1, [], mpi=fake("kill -9 $$")) == 75


def test_a_run_past_its_time_is_stopped(fake, capsys):
    began = time.monotonic()
    assert launch.run(1, [], mpi=fake('test "$1" = --version || exec sleep 60'), timeout_s=0.5) == 75
    assert time.monotonic() - began < 20
    assert "did not end within 0.5 s" in capsys.readouterr().err


def test_signals_go_on_to_the_launcher_and_come_back(fake):
    mpiexec = fake('test "$1" = --version && exit; trap "exit 42" TERM; sleep .5; echo up; while :; do sleep .1; done')
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
    finally:
        child.kill()
        child.stdout.close()
        child.wait()
