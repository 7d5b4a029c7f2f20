"""A real cut between three hosts (network namespaces, a node memory each): the smaller side stops, all say who is silent."""
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from engine.comm import probe

bench = pytest.importorskip("bench.net", reason="run from the root of the checkout")
SILENT_S = 1.0


def inside(host):
    """Processes of a host whose command line is an engine's."""
    found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout.split()
    engines = []
    for pid in found:
        with suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
            engines += [int(pid)] * ("-m\0engine\0train" in file.read())
    return engines


def until(condition, limit_s):
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.long
@pytest.mark.skipif(" " in sys.prefix and probe.vendor(probe.launcher()) == "openmpi",
                    reason="Open MPI's remote start does not quote its own folder, which has a space")
def test_a_host_that_is_cut_off_stops_and_the_others_name_it(tmp_path):
    agent, said = tmp_path / "agent", tmp_path / "said"
    agent.write_text(bench.PRIVATE)
    agent.chmod(0o755)
    try:
        with bench.hosts(3, "400mbit") as names, open(said, "w") as out:
            launcher, more = bench.line(names, [1, 1, 1], str(agent))
            words = ["-m", "engine", "train", "make:sea?rows=4000000", "--run-dir", "-", "exchange.every=64", "loop.threads=1",
                     "fault.memory=on", f"fault.silent={SILENT_S:g}"]
            env = bench.environment() | more | {"TMPDIR": str(tmp_path)}  # each host's first error is a file there
            run = subprocess.Popen([*launcher, sys.executable, *words], stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                                   env=env, start_new_session=True)
            try:
                assert until(lambda: " 4224 " in said.read_text(), 40), said.read_text()  # rows of a line of the log
                assert run.poll() is None and all(inside(name) for name in names), said.read_text()
                subprocess.run(["ip", "link", "set", "ev02", "down"], check=True)
                assert until(lambda: not inside("en2"), 10), "the host that was cut off goes on"
                assert until(lambda: not inside("en0") and not inside("en1"), 10), said.read_text()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(run.pid, signal.SIGKILL)
                for pid in [pid for name in names for pid in inside(name)]:
                    os.kill(pid, signal.SIGKILL)
    except bench.Missing as why:
        pytest.skip(str(why))
    errors = {one["host"]: one["message"] for one in map(json.loads, (f.read_text() for f in tmp_path.glob("*.error.json")))}
    assert "silent for 1 s; this side is the smaller one and stops" in errors["en2"], (errors, said.read_text())
    others = [text for host, text in errors.items() if host != "en2"]
    assert others and all("host 2 silent for 1 s" in text and "smaller" not in text for text in others), errors
