"""`engine train` on two hosts (network namespaces) whose cable is pulled for longer than a silence that breaks connections."""
import json
import subprocess
import sys
import time

import pytest

from engine.comm import probe

bench = pytest.importorskip("bench.net", reason="run from the root of the checkout")


@pytest.mark.long
@pytest.mark.skipif(" " in sys.prefix and probe.vendor(probe.launcher()) == "openmpi",
                    reason="Open MPI's remote start does not quote its own folder, which has a space")
def test_a_run_goes_on_after_its_cable_was_pulled(tmp_path):
    """MPI starts the ranks; what they exchange goes over own sockets, made again when the cable is back."""
    report = tmp_path / "out"
    words = ["-m", "engine", "train", "make:sea?rows=40000", "--json", "--run-dir", "-", "exchange.every=16",
             "transport.between=sockets", "transport.rails=10.77.0.0/16", "transport.silent=1", "loop.stall_timeout=60"]
    try:
        with bench.hosts(2, "100mbit"), open(report, "w") as out, open(tmp_path / "err", "w") as err:
            agent = tmp_path / "agent"
            agent.write_text(bench.AGENT)
            agent.chmod(0o755)
            launcher, more = bench.line(["en0", "en1"], [1, 1], str(agent))
            env = bench.environment() | more
            run = subprocess.Popen([*launcher, sys.executable, *words], stdout=out, stderr=err, stdin=subprocess.DEVNULL,
                                   env=env)
            try:
                end = time.monotonic() + 40
                while " 1024 " not in (tmp_path / "err").read_text() and run.poll() is None:
                    assert time.monotonic() < end, "the run did not begin"
                    time.sleep(0.02)
                subprocess.run(["ip", "link", "set", "ev00", "down"], check=True)
                time.sleep(2.5)
                subprocess.run(["ip", "link", "set", "ev00", "up"], check=True)
                assert run.wait(90) == 0, (tmp_path / "err").read_text()
            finally:
                if run.poll() is None:
                    run.kill()
    except bench.Missing as why:
        pytest.skip(str(why))
    found = json.loads(report.read_text())
    assert found["rows"] == 40000 and found["ranks"] == 2
    assert "connections made again" in (tmp_path / "err").read_text()
