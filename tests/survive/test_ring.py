"""Heartbeats between hosts, on loopback: silence is noticed, a cut stops one side at most, a short cut stops nobody."""
import time

import pytest

from engine.survive.ring import Ring


@pytest.fixture
def rings():
    made = [Ring("run", 3, host, silent_s=0.6) for host in range(3)]
    for ring in made:
        ring.start([("127.0.0.1", other.address()[1]) for other in made])
    yield made
    for ring in made:
        ring.close()


def until(condition, limit_s=5.0):
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_silence_is_noticed_and_only_the_larger_side_goes_on(rings):
    time.sleep(0.8)
    assert [ring.why() for ring in rings] == ["", "", ""]
    rings[2].muted, rings[0].muted, rings[1].muted = {0, 1}, {2}, {2}
    assert until(lambda: all(ring.why() for ring in rings))
    assert rings[0].why().startswith("host 2 silent") and not rings[0].minority and not rings[1].minority
    assert rings[2].minority
    for ring in rings:
        ring.muted = set()
    assert until(lambda: not any(ring.why() for ring in rings))


def test_a_host_of_another_epoch_is_not_heard(rings):
    rings[1].close()
    old = Ring("run", 2, 1, silent_s=0.6)
    old.start([("127.0.0.1", ring.address()[1]) if ring is not rings[1] else ("127.0.0.1", 9) for ring in rings])
    try:
        assert until(lambda: "host 1" in rings[0].why())
        assert "host 1" in rings[0].why()
    finally:
        old.close()
