"""Gossip with records of each rank's own: whoever dies anywhere, no mass and no row is lost or doubled."""
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine import job as jobs
from engine import loop, modes
from engine.comm.local import group
from engine.comm.mass import under_way, worth
from engine.config import resolve
from engine.errors import PeerError
from engine.modes import gossip
from engine.source import stream as streams
from engine.survive import protect

ROWS = 4000


class Died(Exception):
    pass


def config_of(**more):
    given = {"data.source": f"make:zipf?rows={ROWS}&keys=8&nnz=6", "loop.threads": 1, "exchange.every": 8,
             "exchange.mode": "gossip", "model.learner": "sgd", "fault.frozen": 60, "fault.seal": 40000, **more}
    return resolve(overrides=[f"{key}={value}" for key, value in given.items()], env={})


class Life:
    """One rank. `kept`: of each record its lap, x, accounts, the rows counted so far, and what was learned in its lap so far,
    times the mass it was learned at; `end` = (where, how often): this rank dies as it passes there.
    """

    def __init__(self, link, config, root, end=("", 0)):
        link.alarm = str
        source = jobs.open_agreed(config, link)
        self.job = job = jobs.assemble(config, link, source.schema, None)
        made = protect.kind(config) if link.size > 1 else protect.Protection
        self.shield = made(config, link, root)
        self.before = self.shield.recover(job, source.schema)
        place = None if self.before is None else streams.Position.parse(self.before["position"])
        job.stream = jobs.stream(config, link, source, place)
        self.shield.begin(job, source.schema)
        job.keeper = self.shield
        self.orders, self.kept, self.left = [], [], dict([end])
        self.count(job.meter)
        if link.size == 1:
            return
        self.run = run = gossip.Gossip(job)
        self.start = run.read()
        self.learned, self.settled, self.noticing = {}, {}, lambda: None
        learn, keep, settle, adopted = run._learn, self.shield.keep, run.sum.settle, self.shield.inherit

        def learning():
            x, mass = run.read(), run.sum.account.mass
            found = learn()
            self.learned[run.lap] = self.learned.get(run.lap, 0.0) + mass * (run.read() - x)
            self.noticing()
            return found

        def keeping(of, **options):
            self.passes("before")
            keep(of, **options)
            account = run.sum.account
            self.kept.append((run.lap, run.read(), account.mass, dict(account.given), dict(account.taken), len(self.orders),
                              {lap: np.array(sums) for lap, sums in self.learned.items()}))
            self.passes("after")

        def settling(x):
            self.passes("settling")
            found = settle(x)
            self.settled[run.lap] = found
            self.passes("settled")
            return found

        def adopting(of, part):
            adopted(of, part)
            self.count(job.meter)  # it is another: the two were put together

        run._learn, self.shield.keep, run.sum.settle, self.shield.inherit = learning, keeping, settling, adopting

    def count(self, meter):
        add = meter.add

        def counted(scores, rows):
            self.orders += rows.order.tolist()
            add(scores, rows)

        meter.add = counted

    def passes(self, where):
        if where in self.left:
            self.left[where] -= 1
            if not self.left[where]:
                raise Died

    def go(self, config):
        for event in (self.run.run() if hasattr(self, "run") else modes.run(self.job, config)):
            if isinstance(event.action, loop.Stop):
                break
        meter = loop.merged_meter(self.job)
        return None if meter is None else meter.summary()["rows"]

    def last(self, lap):
        """The newest record of that lap, or of one before."""
        return [one for one in self.kept if one[0] <= lap][-1]


def on_ranks(links, work):
    with ThreadPoolExecutor(len(links)) as pool:
        return list(pool.map(work, links))


ENDS = [(3, 2, [("after", 9), ("before", 20), ("", 0)]), (2, 3, [("settled", 1), ("", 0)]),
        (3, 1, [("", 0), ("settling", 2), ("", 0)]), (3, 3, [("settled", 2), ("after", 130), ("before", 70)])]


@pytest.mark.parametrize(("n", "m", "ends"), ENDS)
def test_all_stop_anywhere_and_any_number_goes_on_from_the_same_mass(tmp_path, monkeypatch, n, m, ends):
    monkeypatch.setattr(gossip, "ROUNDS", 24)
    config = config_of()

    def stopped(link):
        life = Life(link, config, tmp_path, ends[link.rank])
        life.shield.keep(life.run)  # a first record, for the test to look at
        with pytest.raises((Died, PeerError)):
            life.go(config)
        return life

    first = on_ranks(group(n, timeout_s=1.5), stopped)
    lap = min(life.kept[-1][0] for life in first)
    parts = [life.last(lap) for life in first]
    taken = {pair: total for part in parts for pair, total in part[4].items()}
    total = sum(worth(part[1], part[2]) + under_way(part[3].items(), taken) for part in parts)
    assert total[-1] == pytest.approx(n, abs=1e-9)

    def going_on(link):
        life = Life(link, config, tmp_path)
        found = gossip.Gossip.read(life.run if m > 1 else Read(life.job))
        return life, found, life.go(config)

    ends = on_ranks(group(m, timeout_s=30), going_on)
    for life, found, _ in ends:
        np.testing.assert_allclose(found, total[:-1] / total[-1], rtol=1.2e-7)  # float32 but for the clock
        assert life.job.clock.rows == ROWS
    learned = [row for life, part in zip(first, parts, strict=True) for row in life.orders[: part[5]]]
    assert sorted(learned + [row for life, *_ in ends for row in life.orders]) == list(range(ROWS))
    assert ends[0][2] == ROWS


class Read:
    def __init__(self, job):
        self.model = job.team.models[0]


@pytest.mark.parametrize(("victim", "end"), [(1, ("after", 9)), (0, ("before", 30)), (2, ("settled", 1)), (1, ("settling", 2)),
                                             (0, ("after", 25))])
def test_survivors_gossip_on_and_the_heir_brings_mass_and_rows_back(tmp_path, monkeypatch, victim, end):
    """At each settling the average is what was there at the start of the lap and what records say was learned in it."""
    monkeypatch.setattr(gossip, "ROUNDS", 24)
    config, size = config_of(), 3
    again, died = group(size - 1, timeout_s=30), threading.Event()

    def work(link):
        life = Life(link, config, tmp_path, end if link.rank == victim else ("", 0))
        life.shield.keep(life.run)
        if link.rank == victim:
            with pytest.raises(Died):
                life.go(config)
            died.set()
            return life, None

        def noticing():
            if died.is_set():
                life.shield.pulse.lost.add(victim)

        life.noticing = noticing
        with pytest.raises(PeerError):
            life.go(config)
        died.wait(10)
        life.noticing = lambda: None
        fresh = again[link.rank - (link.rank > victim)]
        fresh.alarm = str
        assert life.shield.regroup(fresh) == [victim]
        return life, life.go(config)

    lives = on_ranks(group(size, timeout_s=3), work)
    gone = lives[victim][0]
    others = [life for life, _ in lives if life is not gone]
    lap_of_death = min(gone.kept[-1][0], *(life.shield._lap for life in others))
    part = gone.last(lap_of_death)
    learned = [row for life in others for row in life.orders] + gone.orders[: part[5]]
    assert sorted(learned) == list(range(ROWS))
    assert next(rows for _, rows in lives if rows is not None) == ROWS
    x, ranks = others[0].start, size
    for lap in sorted(others[0].settled):
        np.testing.assert_array_equal(others[0].settled[lap], others[1].settled[lap])
        told = sum(life.learned.get(lap, 0.0) for life in others) + (part[6].get(lap, 0.0) if lap <= lap_of_death else 0.0)
        np.testing.assert_allclose(others[0].settled[lap], x + told / ranks, atol=3e-5)
        x, ranks = others[0].settled[lap], size if lap < lap_of_death else size - 1
    assert all(life.run.sum.account.mass == 1.0 for life in others)
    assert {member for life in others for member in life.shield._plays} == {0, 1, 2}
