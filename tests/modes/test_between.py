"""Nodes that talk over own sockets: the run has the bits of any other, also where connections break as it goes."""
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine import modes
from engine.comm.bridge import Bridge
from engine.comm.flow import HEAD
from engine.comm.local import group
from engine.comm.rails import interfaces, pick
from engine.comm.socket import join
from engine.comm.wire import HELLO, MAGIC
from engine.config import resolve
from engine.errors import ConfigError
from engine.modes.between import between, leave

NODES = (0, 0, 1, 2)


def bridged(work):
    """`work(link)` on 4 ranks of 3 nodes."""
    def one(near):
        link = Bridge(near, join(near, ["127.0.0.1"], nodes=NODES, timeout_s=20))
        try:
            return work(link)
        finally:
            link.far.close()

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, group(4, timeout_s=20, nodes=NODES)))


@pytest.mark.parametrize("settings", [(), ("exchange.mode=ssp:2",), ("exchange.mode=asp", "data.rule=part")])
def test_a_run_goes_on_over_broken_connections(made, rows, settings):
    """Each rank's connections to other nodes are cut every few rounds: nothing is lost, doubled or waited for in vain."""
    config = resolve(env={}, overrides=["exchange.every=8", *settings])

    def run(link, cut=None):
        job = made.make(link, rows, *settings, hold=cut)
        events = [(type(e.action).__name__, e.rows) for e in modes.run(job, config)]
        meter = link.gather(job.meter.summary()["rows"], name="rows")
        return made.weights(job), events[-1], meter

    def broken(link):
        def cut(rank, at):
            time.sleep(0.002)
            if at % 7 == rank:
                for peer, rail in list(link.far._wires.wires):
                    link.far._wires.cut(peer, rail)

        found = run(link, cut)
        link.barrier(name="end")
        return *found, sum(c["connected"] for c in link.far.counters().values()), link.told()

    found = bridged(broken)
    assert len({weights for weights, *_ in found}) == 1
    assert found[0][1] == ("Stop", 2000) and sum(found[0][2]) == 2000
    assert all(connected > 3 and told for *_, connected, told in found)  # it did break
    if not settings:
        assert found[0][0] == made.everywhere(4, run)[0][0]  # lock-step: the bits of a run without sockets


def test_ranks_of_a_node_do_not_use_sockets():
    def work(link):
        mine = np.full(1000, link.rank, np.float32)
        total = link.allreduce(mine, name="sum")
        found = link.relay(mine, target=(link.rank + 1) % 4, source=(link.rank - 1) % 4, name="turn")
        link.barrier(name="end")
        return total[0], found[0], sorted(link.far.counters())

    assert bridged(work) == [(6, 3, [2, 3]), (6, 0, [2, 3]), (6, 1, [0, 1, 3]), (6, 2, [0, 1, 2])]


def test_a_stranger_is_not_let_in():
    def work(link):
        if link.rank == 0:
            host, port = link.far.addresses()[0]
            with socket.create_connection((host, port)) as stranger:
                stranger.sendall(HEAD.pack(MAGIC, HELLO, 0, 2, 0, 1 << 20, 0, 12345, 0, 0))
                stranger.settimeout(10)
                assert stranger.recv(1 << 10) == b""  # put down, not greeted
        link.barrier(name="end")
        return {c["connected"] for c in link.far.counters().values()}

    assert bridged(work) == [{1}] * 4


def test_what_a_rail_may_be_named_by():
    assert pick(["lo"]) == ["127.0.0.1"] == pick(["127.0.0.0/8"])
    assert pick([])[0] in [*interfaces().values(), "127.0.0.1"]
    with pytest.raises(ConfigError, match=r"ib7.*lo 127\.0\.0\.1"):
        pick(["ib7"])


@pytest.mark.parametrize(("settings", "kept", "words"), [
    ((), True, "node memory"), (("exchange.split=keys",), False, "split"), (("data.rule=columns",), False, "columns")])
def test_what_does_not_go_over_sockets_is_refused_on_every_rank(settings, kept, words):
    config = resolve(env={}, overrides=["transport.between=sockets", "transport.rails=lo", *settings])

    def work(link):
        with pytest.raises(ConfigError, match=words):
            between(link, config, lambda name: threading.Lock(), kept)
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, group(2, timeout_s=20, nodes=(0, 1)))) == [True, True]


def test_one_node_needs_no_sockets():
    config = resolve(env={}, overrides=["transport.between=sockets"])
    link = group(2, timeout_s=5)[0]
    assert between(link, config, lambda name: threading.Lock(), False) is link and leave(link) == []
