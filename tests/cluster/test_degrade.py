"""What is shed and when, as a plan; and in a run whose budget cannot be kept: in order, told, given back, nothing lost."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import job as jobs
from engine import loop, resume
from engine.cluster.clock import Stop
from engine.cluster.degrade import ORDER, PATIENCE, SHORT, Shed, Strain, review
from engine.comm.local import Alone
from engine.config import resolve
from engine.survive import degrade


def test_measures_are_taken_in_order_and_given_back_by_themselves():
    shed, seen = Shed(), []
    for side in [0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.2, *[0.05] * 4 * PATIENCE]:
        shed = review(shed, Strain(side), 0.25)
        seen.append(shed.level)
        assert [m for m in ORDER if shed.has(m)] == list(ORDER[: shed.level])
    assert seen[:7] == [0, 1, 2, 3, 4, 4, 4]
    assert seen[7:] == [4 - (i + 1) // PATIENCE for i in range(4 * PATIENCE)]


def test_short_of_ranks_two_measures_are_taken_until_they_are_back():
    shed = review(Shed(), Strain(0.0, 3, 4), 0)
    assert shed.level == SHORT and shed.reason == "3 ranks of 4"
    for _ in range(20):
        shed = review(shed, Strain(0.0, 3, 4), 0)
    assert shed.level == SHORT and not shed.reason
    for _ in range(2 * PATIENCE):
        shed = review(shed, Strain(0.0, 4, 4), 0)
    assert shed.level == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4)), max_size=60), st.sampled_from([0.0, 0.1, 0.5]))
def test_a_level_moves_by_one_unless_ranks_are_lost_and_every_change_has_a_reason(trace, budget):
    shed = Shed()
    for side, ranks in trace:
        after = review(shed, Strain(side, ranks, 4), budget)
        assert 0 <= after.level <= len(ORDER) and (after.level == shed.level) == (not after.reason)
        assert shed.level - after.level <= 1
        assert after.level - shed.level <= 1 or (ranks < 4 and after.level == SHORT)
        assert after.level >= (SHORT if ranks < 4 else 0)
        shed = after


def learned(budget, monkeypatch, dear):
    """(state at the end, notes, reports) of a small run; its reports cost what `dear(n)` says of a second's clock."""
    config = resolve(overrides=["data.source=make:sea?rows=6400", "loop.threads=1", "exchange.every=16"], env={})
    link = Alone()
    source = jobs.open_agreed(config, link)
    job = jobs.assemble(config, link, source.schema, None)
    job.stream = jobs.stream(config, link, source, None)
    now = [0.0]
    monkeypatch.setattr(degrade.time, "perf_counter", lambda: now[0])
    notes, reports = [], []
    tend = degrade.Degrade(budget, 1, notes.append)
    job.rules, job.k = loop.Rules(report_s=1.0), 16
    while True:
        now[0] += 0.3
        for event in loop.once(job):
            if isinstance(event.action, Stop):
                return {path: block.data for path, block in resume.views(job).items()}, notes, reports
        with tend.side():
            now[0] += dear(len(reports))
        reports.append(job.rules.report_s)
        tend.look(job)


def test_a_run_over_its_budget_sheds_reports_first_tells_why_and_learns_the_same(monkeypatch):
    plain, silent, _ = learned(0.0, monkeypatch, lambda n: 0.9)
    state, notes, reports = learned(0.25, monkeypatch, lambda n: 0.9 if n < 10 else 0.0)
    assert not silent
    assert [note.split()[1] for note in notes[:4]] == list(ORDER) and "side work takes 75% of the time" in notes[0]
    assert [note.split()[0] for note in notes[4:8]] == list(reversed(ORDER)) and " is back" in notes[4] and len(notes) == 8
    assert reports[1] == 4.0 and reports[-1] == 1.0
    assert state.keys() == plain.keys()
    for path in plain:
        np.testing.assert_array_equal(state[path], plain[path], err_msg=path)


@pytest.mark.parametrize("small", [True, False])
def test_increments_read_back_alike_whether_row_numbers_are_coded_or_not(tmp_path, small):
    from engine.store import checkpoint as store
    from engine.store.record import Change, Record
    from engine.types import Block

    data = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    whole = store.save_part(tmp_path, 1, 0, 1, {"m": Block(data)})
    store.commit(tmp_path, 1, [whole], {})
    rows = np.arange(0, 1000, 10, dtype=np.uint32)
    part = store.save_delta(tmp_path, Record(2, 1, (Change("m", rows, data[rows] + 1, 1000),)), {"m": (0, 1000)}, whole.layout,
                            small=small)
    store.commit(tmp_path, 2, [part], {}, base=1)
    data[rows] += 1
    np.testing.assert_array_equal(store.newest(tmp_path)[0]["m"].data, data)
