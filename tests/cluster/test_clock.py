"""The clock: what is due follows from agreed figures alone."""
from hypothesis import given
from hypothesis import strategies as st

from engine.cluster.clock import Clock, Report, Rules, Save, Stop, Tick, advance


def drive(ticks, rules):
    clock, seen = Clock(), []
    for tick in ticks:
        clock, actions = advance(clock, tick, rules)
        seen.append(actions)
        if any(isinstance(a, Stop) for a in actions):
            break
    return clock, seen


def test_reports_come_at_doubling_rows():
    _, seen = drive([Tick(1, True)] * 64, Rules())
    assert [i + 1 for i, actions in enumerate(seen) if Report() in actions] == [1, 2, 4, 8, 16, 32, 64]


def test_reports_go_by_time_once_rows_are_slow():
    _, seen = drive([Tick(1, True, now_s=float(s)) for s in range(1, 41)], Rules(report_s=10.0))
    at = [s for s, actions in enumerate(seen, 1) if Report() in actions]
    assert [b - a for a, b in zip(at[-3:], at[-2:], strict=False)] == [10, 10]


def test_a_last_checkpoint_is_written_when_the_input_ends():
    _, seen = drive([Tick(10, True), Tick(3, False), Tick(0, False)], Rules(save_rows=100))
    assert seen[-1] == [Save(""), Report(final=True), Stop()]


def test_a_signal_saves_and_stops():
    clock, seen = drive([Tick(5, True), Tick(5, True, stop="SIGTERM")], Rules(save_rows=1000))
    assert seen[-1] == [Save("SIGTERM"), Report(final=True), Stop("SIGTERM")]
    assert clock.rows == clock.saved_rows == 10


def test_nothing_is_saved_where_nothing_was_asked():
    _, seen = drive([Tick(5, True, stop="SIGTERM")], Rules())
    assert not any(isinstance(a, Save) for actions in seen for a in actions)


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 40))
def test_saves_are_never_further_apart_than_asked_by_more_than_a_step(rows, every):
    clock, at = Clock(), 0
    for n in rows:
        clock, actions = advance(clock, Tick(n, True), Rules(save_rows=every))
        if any(isinstance(a, Save) for a in actions):
            assert clock.rows - at >= every
            at = clock.rows
        assert clock.rows - at < every
