"""Bounded staleness end to end on logical ranks: bound 0 is lock-step, any bound ends with the same bytes everywhere."""
import time

import numpy as np
import pytest

from engine import loop
from engine.errors import DataError, PeerError
from engine.modes.stale import Stale


def ended(events):
    return [(type(e.action).__name__, e.rows) for e in events]


@pytest.mark.parametrize("size", [2, 5])
def test_bound_nought_is_lock_step_bit_for_bit(made, rows, size):
    def strict(link):
        job = made.make(link, rows)
        return ended(loop.run(job)), made.weights(job), job.meter.state()["hist"].tobytes()

    def stale(link):
        job = made.make(link, rows)
        return ended(Stale(job, 0).run()), made.weights(job), job.meter.state()["hist"].tobytes()

    a, b = made.everywhere(size, strict), made.everywhere(size, stale)
    assert [w for _, w, _ in a] == [w for _, w, _ in b]
    assert [h for _, _, h in a] == [h for _, _, h in b]
    assert a[0][0][-1] == b[0][0][-1] == ("Stop", 2000)


@pytest.mark.parametrize(("size", "bound"), [(2, 1), (3, 4), (8, 2)])
def test_all_ranks_end_with_the_same_bytes_and_every_row_counted(made, rows, size, bound):
    """Uneven speeds, late messages, ranks that run out of rows: the same state, loss near lock-step's."""
    def hold(rank, at):
        time.sleep(0.002 * ((rank * 7 + at * 3) % 4 == 0))

    def late(source, to, tag, nth):
        return 0.001 * ((source + 2 * to + nth) % 3)

    def work(link):
        job = made.make(link, rows, hold=hold)
        events = ended(Stale(job, bound).run())
        meter = loop.merged_meter(job)
        counts = job.counts.values
        return made.weights(job), events, meter.summary() if meter else None, counts["stale_most"], counts["stale_reads"]

    found = made.everywhere(size, work, fault=late)
    assert len({w for w, *_ in found}) == 1
    assert all(events[-1] == ("Stop", 2000) for _, events, *_ in found)
    assert len({str(events) for _, events, *_ in found}) == 1
    assert found[0][2]["rows"] == 2000
    assert max(most for *_, most, _ in found) <= bound

    def strict(link):
        job = made.make(link, rows)
        list(loop.run(job))
        meter = loop.merged_meter(job)
        return meter.summary() if meter else None

    assert found[0][2]["logloss"] <= made.everywhere(size, strict)[0]["logloss"] + 0.03


def test_an_error_of_one_rank_is_raised_on_every_rank(made, rows):
    def work(link):
        job = made.make(link, rows)
        take = job.stream.take

        def broken(k):
            if link.rank == 1 and job.stream.at == 5:
                job.team.learn = lambda *a: (_ for _ in ()).throw(DataError("row 7 is odd"))
            return take(k)

        job.stream.take = broken
        with pytest.raises(DataError, match="row 7 is odd"):
            list(Stale(job, 2).run())
        return True

    assert made.everywhere(3, work) == [True] * 3


def test_a_rank_that_stays_away_is_named(made, rows):
    def work(link):
        if link.rank == 2:
            return True
        job = made.make(link, rows)
        link._room.timeout_s = 0.4
        with pytest.raises(PeerError, match=r"waited 0.4 s in 'round 1' for rank 2"):
            list(Stale(job, 1).run())
        return True

    assert made.everywhere(3, work) == [True] * 3


def test_a_checkpoint_is_taken_from_one_state_on_all_ranks(made, rows):
    def work(link):
        job = made.make(link, rows)
        job.rules = loop_rules(job)
        seen = []
        for event in Stale(job, 3).run():
            seen.append((type(event.action).__name__, event.rows, made.weights(job), job.stream.at))
        return seen

    def loop_rules(job):
        return type(job.rules)(save_rows=400, report_s=1e9)

    found = made.everywhere(4, work)
    assert all(seen == found[0] for seen in found)
    saves = [count for kind, count, _, _ in found[0] if kind == "Save"]
    assert len(saves) >= 3 and saves == sorted(saves)
    for kind, count, _, at in found[0]:
        if kind == "Save":
            assert count == min(2000, at * 4 * 8)  # the stream stands exactly where the state does


def test_staleness_is_measured(made, rows):
    def hold(rank, at):
        time.sleep(0.004 * (rank == 0))

    def work(link):
        job = made.make(link, rows, hold=hold)
        list(Stale(job, 3).run())
        return job.counts.values["stale_sum"] / job.counts.values["stale_reads"]

    slow, *fast = made.everywhere(3, work)
    assert slow < np.mean(fast) and np.mean(fast) > 0.5
