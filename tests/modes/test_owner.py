"""Asynchronous owners on logical ranks: nobody waits, nothing is lost or doubled, all end with the same bytes."""
import threading
import time

import numpy as np
import pytest

from engine import loop
from engine.cluster import clock as clocks
from engine.errors import ConfigError, DataError, PeerError
from engine.modes.owner import Owner
from engine.source import stream as streams


@pytest.mark.parametrize("size", [2, 3, 8])
def test_all_ranks_end_with_the_same_bytes_and_every_row_counted(made, rows, size):
    def hold(rank, at):
        time.sleep(0.001 * ((rank * 7 + at * 3) % 4 == 0))

    def late(source, to, tag, nth):
        return 0.001 * ((source + 2 * to + nth) % 3)

    def work(link):
        job = made.make(link, rows, hold=hold)
        events = [(type(e.action).__name__, e.rows) for e in Owner(job).run()]
        meter = loop.merged_meter(job)
        clock = job.team.models[0].state()["model/clock"].data
        return made.weights(job), events, meter.summary() if meter else None, clock.tolist()

    found = made.everywhere(size, work, fault=late)
    assert len({w for w, *_ in found}) == 1
    assert len({str(events) for _, events, *_ in found}) == 1
    assert found[0][1][-1] == ("Stop", 2000)
    assert found[0][2]["rows"] == 2000
    assert all(clock[0] == 2000 for *_, clock in found)  # each row's part was applied once

    def strict(link):
        job = made.make(link, rows)
        list(loop.run(job))
        meter = loop.merged_meter(job)
        return meter.summary() if meter else None

    assert found[0][2]["logloss"] <= made.everywhere(size, strict)[0]["logloss"] + 0.04


def test_nothing_is_lost_or_doubled_when_every_step_is_additive(made, rows):
    """SGD with merge=add: the owners' rows are the sum of what all ranks learned, as told by the ranks themselves."""
    def work(link):
        job = made.make(link, rows, "model.learner=sgd", "exchange.merge=add")
        told, inner = np.zeros(made.WIDTH), job.team.update

        def update():
            found = inner()
            told[found.keys] += found.values[:, 0]
            return found

        job.team.update = update
        list(Owner(job).run())
        return told, job.team.models[0].state()["model/linear"].data[:, 0]

    found = made.everywhere(4, work)
    np.testing.assert_allclose(found[0][1], sum(told for told, _ in found), atol=2e-4)


def test_a_slow_rank_does_not_hold_the_others_up(made, rows):
    """Rank 2 does not go on after its second block until the others have learned all of theirs, between reports."""
    ended = [threading.Event() for _ in range(3)]

    def hold(rank, at):
        if rank == 2 and at == 2:
            assert all(other.wait(15) for other in ended[:2]), "a rank waited for the slow one"

    def work(link):
        job = made.make(link, rows.slice(0, 1000), hold=hold)
        job.clock = clocks.Clock(report_rows=10**9)  # nothing is due, for which all would settle
        owner = Owner(job)
        learn = owner.learn

        def marked():
            more = learn()
            if not more:
                ended[link.rank].set()
            return more

        owner.learn = marked
        events = list(owner.run())
        return events[-1].rows, made.weights(job)

    found = made.everywhere(3, work)
    assert len(set(found)) == 1 and found[0][0] == 1000


def test_an_error_of_one_rank_is_raised_on_every_rank(made, rows):
    def work(link):
        job = made.make(link, rows)
        if link.rank == 1:
            job.team.learn = lambda *a: (_ for _ in ()).throw(DataError("row 7 is odd"))
        with pytest.raises(DataError, match="row 7 is odd"):
            list(Owner(job).run())
        return True

    assert made.everywhere(3, work) == [True] * 3


def test_a_rank_that_stays_away_is_named(made, rows):
    def work(link):
        if link.rank == 1:
            return True
        link._room.timeout_s = 0.4
        with pytest.raises(PeerError, match=r"for rank 1"):
            list(Owner(made.make(link, rows)).run())
        return True

    assert made.everywhere(2, work) == [True] * 2


def test_a_stream_that_waits_for_all_ranks_is_refused(made, rows):
    def work(link):
        job = made.make(link, rows)
        job.stream = object.__new__(streams.Dealt)
        with pytest.raises(ConfigError, match="part"):
            Owner(job)
        return True

    assert made.everywhere(2, work) == [True] * 2
