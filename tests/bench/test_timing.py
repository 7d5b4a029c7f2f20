"""The clock of the benchmarks: known ratios come out, peers' own samples are believed."""
import time

from bench import timing


def spin(seconds):
    def call():
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
    return call


def test_paired_finds_a_known_ratio():
    pair = timing.paired(spin(0.002), spin(0.004), rounds=9, least_s=0.01)
    assert 0.4 < pair.ratio("cpu") < 0.6
    assert len(pair.ours.samples) == len(pair.theirs.samples) == 9
    assert pair.spread("cpu") < 0.5


def test_a_short_call_is_repeated_until_it_can_be_timed():
    calls = []
    series = timing.alone(lambda: calls.append(1), rounds=3, least_s=0.005)
    assert len(calls) > 100
    assert series.median() < 0.001


def test_a_round_that_times_itself_is_believed():
    pair = timing.paired(lambda: timing.Sample(2.0, 6.0, "a"), lambda: timing.Sample(1.0, 2.0, "b"), rounds=3)
    assert pair.ratio("wall") == 2.0 and pair.ratio("cpu") == 3.0
    assert (pair.ours.result, pair.theirs.result) == ("a", "b")


def test_rounds_stop_when_the_time_is_spent():
    pair = timing.paired(spin(0.02), spin(0.02), rounds=1000, seconds=0.2, least_s=0.0)
    assert 2 <= len(pair.ours.samples) < 20


def test_spread_of_equal_and_of_scattered_values():
    assert timing.spread([1.0] * 5) == 0.0
    assert timing.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 1 / 3


def test_comparisons_share_the_time_that_is_left():
    from bench.registry import share_s

    assert share_s(20, 540, 4) == 20
    assert share_s(20, 540, 30) == 6
    assert share_s(20, -5, 3) == 1
