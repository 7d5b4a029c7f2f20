"""The Link over sockets between two hosts (network namespaces): a cable pulled and put back, a dead rail, a slow link."""
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

bench = pytest.importorskip("bench.net", reason="run from the root of the checkout")


@pytest.fixture
def run(tmp_path):
    """`run(rate, rails, faults)`: both ranks, with `ip` commands as faults at their seconds; what each rank found."""
    def act(rate, rails, faults):
        started = []
        try:
            with bench.hosts(2, rate, rails=rails):
                for rank in range(2):
                    peer = str(Path(__file__).with_name("peer_of_net.py"))
                    words = ["ip", "netns", "exec", f"en{rank}", sys.executable, peer]
                    started.append(subprocess.Popen([*words, str(rank), str(rails), str(tmp_path)]))
                end = time.monotonic() + 30
                while not all((tmp_path / f"up-{r}").exists() for r in range(2)):
                    assert time.monotonic() < end, "the two hosts did not meet"
                    time.sleep(0.02)
                began = time.monotonic()
                for at, words in faults:
                    time.sleep(max(0, began + at - time.monotonic()))
                    subprocess.run(words.split(), check=True)
                assert [one.wait(60) for one in started] == [0, 0]
        except bench.Missing as why:
            pytest.skip(str(why))
        finally:
            for one in started:
                with suppress(ProcessLookupError):
                    one.kill()
        return [json.loads((tmp_path / f"found-{r}").read_text()) for r in range(2)]
    return act


@pytest.mark.long
def test_a_pulled_cable_loses_and_doubles_nothing(run):
    """40 MiB at 200 Mb/s with the link down for two seconds in the middle: longer than the silence that breaks it."""
    sender, reader = run("200mbit", 1, [(0.4, "ip link set ev00 down"), (2.4, "ip link set ev00 up")])
    assert reader["good"] == 40 and reader["received"]["state"] == 40 << 20
    assert sender["connected"] >= 2 and sender["held"] == 0
    assert reader["metrics"] + sender["dropped"] <= 40


@pytest.mark.long
def test_a_link_that_becomes_slow_and_loses_packets_only_takes_longer(run):
    """A quarter of the rate, then for a while a queue so short that packets are lost: none is given up, none twice."""
    slow = "tc qdisc replace dev ev00 root tbf rate 50mbit burst 64kb latency 50ms"
    worse = "tc qdisc replace dev ev00 root tbf rate 20mbit burst 8kb latency 2ms"
    again = slow.replace("50mbit", "200mbit")
    sender, reader = run("200mbit", 1, [(0.3, slow), (1.0, worse), (2.0, again)])
    assert reader["good"] == 40 and reader["received"]["state"] == 40 << 20
    assert sender["held"] == 0 and reader["metrics"] + sender["dropped"] <= 40


@pytest.mark.long
def test_a_dead_rail_s_chunks_go_over_the_other(run):
    sender, reader = run("200mbit", 2, [(0.4, "ip link set ev10 down")])
    assert reader["good"] == 40
    assert sender["resent"] > 0 and sender["rails"]["0"] > sender["rails"]["1"] > 0
