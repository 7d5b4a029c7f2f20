"""Detectors: they find a change, stay silent without one, and go on from their state."""
import numpy as np
import pytest

from engine.errors import ConfigError
from engine.update.drift import DETECTORS, make

NAMES = list(DETECTORS)


def errors(seed, rates, each=2000):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random(each) < r for r in rates]).astype(float)


def found(name, stream, lot=1):
    d = make(name)
    return [at for at in range(0, len(stream), lot) if d.add(len(stream[at : at + lot]), stream[at : at + lot].sum())]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lot", [1, 16])
def test_a_rise_of_errors_is_found_soon_and_a_fall_is_none(name, lot):
    if name == "kswin" and lot > 1:
        pytest.skip("kswin looks at 300 adds: at 16 rows each that is longer than this stream's parts")
    soon = [next((at for at in found(name, errors(s, [0.1, 0.5]), lot) if at >= 2000), 10**9) for s in range(5)]
    assert np.median(soon) < 2600
    falls = [[at for at in found(name, errors(s, [0.5, 0.1]), lot) if at > 2000] for s in range(5)]
    assert sum(map(len, falls)) <= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_steady_stream_is_left_alone(name):
    alarms = [len(found(name, errors(s, [0.2], 5000))) for s in range(6)]
    assert np.mean(alarms) <= (1.5 if name == "ddm" else 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_state_goes_on(name):
    stream = errors(1, [0.1, 0.4, 0.1, 0.5], 700)
    one, half = make(name), make(name)
    first = [half.add(1, e) for e in stream[:900]]
    again = make(name)
    again.load(half.state())
    assert first + [again.add(1, e) for e in stream[900:]] == [one.add(1, e) for e in stream]
    np.testing.assert_array_equal(one.state(), again.state())


def test_adwin_finds_what_river_finds():
    river = pytest.importorskip("river.drift")
    for seed in range(4):
        stream = errors(seed, [0.1, 0.4])
        peer, theirs = river.ADWIN(), []
        for at, e in enumerate(stream):
            peer.update(e)
            if peer.drift_detected:
                theirs.append(at)
        ours = found("adwin", stream)
        assert ours and theirs and abs(ours[0] - theirs[0]) <= 160


def test_adwin_keeps_few_buckets():
    d = make("adwin")
    for e in errors(0, [0.3], 20000):
        d.add(1, e)
    assert len(d.state()) < 100 and abs(d.mean - 0.3) < 0.02 and d.width > 10000


def test_an_unknown_detector_is_refused():
    with pytest.raises(ConfigError, match="adwin"):
        make("adwim")
