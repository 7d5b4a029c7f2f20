"""Asynchronous ranks, each with records of its own: one dies anywhere, the others learn on, and no push is lost or doubled."""
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine import job as jobs
from engine import loop
from engine.cluster.recover import Held, newest
from engine.comm.local import group
from engine.config import resolve
from engine.errors import ConfigError, PeerError
from engine.modes.owner import Owner
from engine.source import stream as streams
from engine.survive.pushes import Pushes

ROWS = 4000


class Died(Exception):
    pass


def config_of(**more):
    """Additive steps: the rows of the owners are the sum of what was learned, so one push too many or too few shows."""
    given = {"data.source": f"make:zipf?rows={ROWS}&keys=8&nnz=6", "loop.threads": 1, "exchange.every": 16,
             "exchange.mode": "asp", "data.rule": "part", "exchange.merge": "add", "model.learner": "sgd", "fault.frozen": 60,
             "fault.seal": 6000, **more}
    return resolve(overrides=[f"{key}={value}" for key, value in given.items()], env={})


def prepared(link, config, root):
    """(owner, shield, what this rank's records say it learned, meta of what was recovered)."""
    link.alarm = str
    source = jobs.open_agreed(config, link)
    job = jobs.assemble(config, link, source.schema, None)
    shield = Pushes(config, link, root)
    before = shield.recover(job, source.schema)
    job.stream = jobs.stream(config, link, source, None if before is None else streams.Position.parse(before["position"]))
    shield.begin(job, source.schema)
    job.keeper = shield
    told, fresh, inner, keep = np.zeros(1 << 9), np.zeros(1 << 9), job.team.update, shield.keep

    def update():
        found = inner()
        fresh[found.keys] += found.values[:, 0]
        return found

    def kept(owner):
        if shield.end == "before":
            raise Died
        keep(owner)
        told[:] += fresh
        fresh[:] = 0
        if shield.end == "after":
            raise Died

    shield.end, job.team.update, shield.keep = "", update, kept
    return Owner(job), shield, told, before


def ending(shield, owner, when, intervals):
    """Dies in the record of the given interval: before it is written, or after it and before a letter leaves."""
    learn, count = owner.learn, [0]

    def counted():
        count[0] += 1
        more = learn()
        if count[0] == intervals:
            shield.end = when
        return more

    owner.learn = counted


def on_ranks(links, work):
    with ThreadPoolExecutor(len(links)) as pool:
        return list(pool.map(work, links))


def weights(job):
    return job.team.models[0].state()["model/linear"].data[:, 0]


def finished(owner):
    for event in owner.run():
        if isinstance(event.action, loop.Stop):
            break
    meter = loop.merged_meter(owner.job)
    return weights(owner.job), meter.summary()["rows"] if meter else ROWS, owner.job.clock.rows


@pytest.mark.parametrize(("victim", "when", "intervals"),
                         [(1, "after", 9), (0, "before", 5), (2, "after", 30), (0, "after", 1)])
def test_survivors_learn_on_and_each_push_is_applied_once(tmp_path, victim, when, intervals):
    config, size = config_of(), 3
    again, died = group(size - 1, timeout_s=60), threading.Event()

    def work(link):
        owner, shield, told, _ = prepared(link, config, tmp_path)
        if link.rank == victim:
            ending(shield, owner, when, intervals)
            with pytest.raises(Died):
                finished(owner)
            died.set()
            return None, told, None
        learn = owner.learn

        def noticing():
            if died.is_set() and not owner.away and victim in owner.members:
                shield.pulse.lost.add(victim)
            return learn()

        idle = owner.idle
        owner.learn, owner.idle = noticing, lambda: (died.is_set() and shield.pulse.lost.add(victim)) or idle()
        with pytest.raises(PeerError):  # PeerLost; a logical link does not call off a wait, it ends it
            finished(owner)
        owner.learn, owner.idle = learn, idle
        at_death = owner.rows
        fresh = again[link.rank - (link.rank > victim)]
        fresh.alarm = str
        assert shield.regroup(fresh) == [victim]
        return finished(owner), told, (at_death, owner.shards)

    found = on_ranks(group(size, timeout_s=5), work)
    ends = [end for end, _, _ in found if end is not None]
    assert sorted(shard for *_, more in found if more for shard in more[1]) == [0, 1, 2]
    total = sum(told for _, told, _ in found)
    for learned, rows, clock in ends:
        assert (rows, clock) == (ROWS, ROWS)
        np.testing.assert_allclose(learned, total[: len(learned)], atol=2e-4)


def until(owner, shield, died, victim):
    """Learns on until that member's death is noticed; a logical link does not call off a wait, it ends it."""
    learn, idle = owner.learn, owner.idle

    def noticing(act):
        if died.is_set():
            shield.pulse.lost.add(victim)
        return act()

    owner.learn, owner.idle = lambda: noticing(learn), lambda: noticing(idle)
    with pytest.raises(PeerError):
        finished(owner)
    owner.learn, owner.idle = learn, idle
    assert died.wait(10)


def test_an_heir_that_dies_before_it_has_taken_what_it_read_has_an_heir_of_both(tmp_path):
    config = config_of()
    three, two, died = group(3, timeout_s=15), group(2, timeout_s=60), [threading.Event(), threading.Event()]

    def work(link):
        owner, shield, told, _ = prepared(link, config, tmp_path)
        if link.rank == 1:
            ending(shield, owner, "after", 9)
        if not link.rank:
            shield._fetch = lambda member, wards: None  # it is slow: nothing of rank 1 has come when rank 0 dies
        for victim, links in ((1, three), (0, two)):
            if link.rank == victim:
                with pytest.raises((Died, PeerError)):
                    finished(owner)
                died[1 - victim].set()
                return None, told, None
            until(owner, shield, died[1 - victim], victim)
            fresh = links[sorted({0, 2, 3} if victim else {2, 3}).index(link.rank)]
            fresh.alarm = str
            assert shield.regroup(fresh) == [victim]
            if link.rank == 0:
                assert shield.awaited == {1}
                ending(shield, owner, "after", 5)
        return finished(owner), told, owner.shards

    found = on_ranks(group(4, timeout_s=5), work)
    total = sum(told for _, told, _ in found)
    assert sorted(shard for *_, shards in found if shards for shard in shards) == [0, 1, 2, 3]
    for end, *_ in found:
        if end is not None:
            assert end[1:] == (ROWS, ROWS)
            np.testing.assert_allclose(end[0], total[: len(end[0])], atol=2e-4)


@pytest.mark.parametrize(("n", "m"), [(3, 2), (2, 4), (3, 1)])
def test_all_stop_anywhere_and_any_number_goes_on(tmp_path, n, m):
    config = config_of()

    def stopped(link):
        owner, shield, told, _ = prepared(link, config, tmp_path)
        ending(shield, owner, ["after", "before", "after"][link.rank], [7, 4, 11][link.rank])
        with pytest.raises((Died, PeerError)):  # or waits, as it settles, for one that has died
            finished(owner)
        return told

    told = sum(on_ranks(group(n, timeout_s=2), stopped))

    def found(link):
        if m > 1:
            owner, _, more, before = prepared(link, config, tmp_path)
            start = weights(owner.job)
            return start, *finished(owner), more, before["clock"][1]
        from engine.survive.protect import Protection

        link.alarm = str
        source = jobs.open_agreed(config, link)
        job = jobs.assemble(config, link, source.schema, None)
        before = Protection(config, link, tmp_path).recover(job, source.schema)
        start = weights(job)
        return start, start, ROWS, ROWS, np.zeros_like(told), before["clock"][1]

    ends = on_ranks(group(m, timeout_s=30), found)
    more = sum(end[4] for end in ends)
    for start, learned, rows, clock, _, at in ends:
        assert 0 < at < ROWS and at % 16 == 0
        np.testing.assert_allclose(start, told[: len(start)], atol=2e-4)  # what the records say, no push lost or doubled
        np.testing.assert_allclose(learned, (told + more)[: len(learned)], atol=2e-4)
        assert (rows, clock) == (ROWS, ROWS)


def held(shard, version, members, *, epoch=1, shards=3):
    return Held(f"{shard}@{version}", epoch, shard, shards, "own", {version: 0}, tuple(members))


def test_the_newest_record_of_each_counts_and_an_heir_speaks_for_the_dead():
    assert newest([held(0, 5, [0]), held(1, 9, [1]), held(2, 7, [2])]) == [0, 1, 2]
    assert newest([held(0, 5, [0, 1]), held(1, 9, [1]), held(2, 7, [2])]) == [0, 2]
    assert newest([held(0, 5, [0]), held(0, 6, [0]), held(1, 1, [1, 2])]) == [1, 2]
    assert newest([held(0, 5, [0]), held(2, 7, [2])]) is None
    assert newest([held(0, 5, [0], epoch=2), held(0, 4, [0]), held(1, 4, [1]), held(2, 4, [2])]) == [1, 2, 3]


def test_what_cannot_be_kept_is_said_before_a_row_is_read(tmp_path):
    def work(link):
        with pytest.raises(ConfigError, match="rows read in place"):
            prepared(link, config_of(**{"data.rule": "hash"}), tmp_path)

    on_ranks(group(2, timeout_s=30), work)
