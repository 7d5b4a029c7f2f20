"""The Link over sockets on this host: every call, breaks in the middle, a silent peer, two rails, best effort."""
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from engine.comm import dense
from engine.comm.flow import LOOSE, Options
from engine.comm.socket import Socketlink
from engine.errors import PeerError


@pytest.fixture
def ring():
    """`make(size, **options)`: started Links of one group, closed at the end."""
    made = []

    def make(size, hosts=("127.0.0.1",), **options):
        links = [Socketlink(r, size, hosts, **({"timeout_s": 20} | options)) for r in range(size)]
        for link in links:
            link.start([one.addresses() for one in links])
        made.extend(links)
        return links

    yield make
    with ThreadPoolExecutor(max(1, len(made))) as pool:
        list(pool.map(lambda link: link.close(), made))


def every(links, work):
    with ThreadPoolExecutor(len(links)) as pool:
        return list(pool.map(work, links))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_call_of_a_link(ring, size):
    def work(link):
        me = link.rank
        assert link.vote(np.array([me, 7]), name="v").tolist() == [[r, 7] for r in range(size)]
        found = link.allgather(np.full((me, 2), me, np.float32), name="g")
        assert [f.shape for f in found] == [(r, 2) for r in range(size)]
        assert [p.tolist() for p in link.alltoall([np.full(r, me, np.int32) for r in range(size)], name="a")] == [
            [r] * me for r in range(size)]
        assert link.allreduce(np.arange(3.0) + me, name="s").tolist() == [sum(k + r for r in range(size)) for k in range(3)]
        assert link.allreduce(np.array([me]), op="max", name="m")[0] == size - 1
        for root in range(size):
            assert link.bcast({"root": me} if me == root else None, root=root, name="b") == {"root": root}
            assert link.gather(me, root=root, name="c") == (list(range(size)) if me == root else None)
        link.barrier(name="end")
        return True

    assert every(ring(size), work) == [True] * size


def test_a_sum_survives_breaks_in_the_middle(ring):
    """Connections are cut again and again during a large sum: the same bytes, nothing lost or doubled."""
    links, stop = ring(3), threading.Event()

    def drawn(seed):
        return np.random.default_rng(seed).normal(size=1 << 20).astype(np.float32)

    def cutter():
        rng = np.random.default_rng(1)
        while not stop.wait(0.02):
            a, b = rng.choice(3, 2, replace=False)
            with suppress(OSError):
                links[a]._wires.cut(int(b), 0)

    thread = threading.Thread(target=cutter)
    thread.start()
    try:
        found = every(links, lambda link: [dense.allreduce(link, drawn(link.rank + s), name="sum", checked=True)
                                           for s in (0, 10, 20)])
    finally:
        stop.set()
        thread.join()
    for k, s in enumerate((0, 10, 20)):
        assert len({f[k].tobytes() for f in found}) == 1
        exact = sum(drawn(r + s).astype(np.float64) for r in range(3))
        assert np.abs(found[0][k] - exact).max() < 1e-5
    assert sum(c["connected"] for link in links for c in link.counters().values()) > 6


def test_frames_for_a_silent_peer_wait_and_a_full_journal_holds_the_sender(ring):
    options = Options(journal=1 << 20, silent_s=30)
    late = Socketlink(0, 2, timeout_s=20, options=options)
    early = Socketlink(1, 2, timeout_s=0.5, options=options)
    early.start([late.addresses(), early.addresses()])  # rank 0 does not listen to anybody yet
    try:
        bodies = [np.full(1 << 18, k, np.uint8) for k in range(4)]
        for body in bodies:
            early.send(body, 0, name="frames", tag=5).wait()
        with pytest.raises(PeerError, match=r"rank 1 waited 0.5 s in 'frames' for rank 0 to take 1048768 bytes"):
            early.send(bodies[0], 0, name="frames", tag=5)
        late.start([late.addresses(), early.addresses()])
        for body in bodies:
            assert np.array_equal(late.take(1, name="frames", tag=5), body)
        early.timeout_s = 10
        early.flush()
        assert early.counters()[0]["held"] == 0
    finally:
        early.close()
        late.close()


def test_two_rails_carry_a_share_each_and_one_goes_on_alone(ring):
    a, b = ring(2, hosts=("127.0.0.1", "127.0.0.2"), options=Options(chunk=1 << 14, rail=1 << 16))
    body = np.random.default_rng(0).integers(0, 256, 1 << 23).astype(np.uint8)

    def send(link):
        if link is a:
            link.send(body, 1, name="bulk", tag=4)
            link.flush()
            return True
        return np.array_equal(link.take(0, name="bulk", tag=4), body)

    assert every([a, b], send) == [True, True]
    rails = a.counters()[1]["rails"]
    assert len(rails) == 2 and min(rails.values()) > 0.1 * len(body)
    for link in (a, b):
        link._wires.hosts[1] = "203.0.113.1"  # the second rail cannot be made again
    a._wires.cut(1, 1)
    assert every([a, b], send) == [True, True]
    assert b.counters()[0]["received"]["state"] == 2 * len(body)


def test_best_effort_never_waits_and_comes_whole_or_not_at_all(ring):
    a, b = ring(2)
    every([a, b], lambda link: link.barrier(name="up"))
    for number in range(50):
        a.post(np.full(200, number, np.uint8), 1, name="metric", tag=9, kind=LOOSE)
    a.post(np.full(5000, 99, np.uint8), 1, name="metric", tag=9, kind=LOOSE)
    time.sleep(0.3)
    got = []
    while b.probe(tag=9) is not None:
        got.append(b.take(0, name="metric", tag=9))
    assert got and all(len(set(g.tolist())) == 1 and len(g) in (200, 5000) for g in got)
    counts = a.counters()[1]
    assert counts["messages"]["loose"] + counts["dropped"] == 51 and counts["sent"]["state"] == 0


def test_a_peer_that_stays_away_is_named(ring):
    link = Socketlink(0, 2, timeout_s=0.3)
    link.start([link.addresses(), [("127.0.0.1", 9), ("127.0.0.1", 9)]])
    try:
        with pytest.raises(PeerError, match=r"rank 0 waited 0.3 s in 'hello' for rank 1"):
            link.take(1, name="hello", tag=3)
    finally:
        link.close()
