"""Rounds committed in order, each rank in its own time: all stop anywhere, and the committed state comes back bit for bit."""
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from engine import job as jobs
from engine import loop, modes, resume
from engine.comm.local import group
from engine.config import resolve
from engine.errors import ConfigError, PeerError
from engine.modes import auto
from engine.source import stream as streams
from engine.survive import live, protect

ROWS = 3000


class Died(Exception):
    pass


def config_of(mode, **more):
    given = {"data.source": f"make:zipf?rows={ROWS}&keys=8&nnz=6", "loop.threads": 1, "exchange.every": 16,
             "exchange.mode": mode, "fault.ranks_per_node": 1, "fault.frozen": 60, "fault.seal": 4000, **more}
    return resolve(overrides=[f"{key}={value}" for key, value in given.items()], env={})


def shared(job):
    return {path: np.array(block.data) for path, block in resume.views(job).items() if not path.startswith("meter/")}


class Life:
    """One rank of a run: `seen[version]`: the committed state and the rows that were counted up to it."""

    def __init__(self, link, config, root):
        link.alarm = str
        source = jobs.open_agreed(config, link)
        self.config, self.seen, self.orders = config, {}, []
        self.job = job = jobs.assemble(config, link, source.schema, None)
        made = protect.kind(config) if link.size > 1 else protect.Protection
        self.shield = made(config, link, root)
        self.before = self.shield.recover(job, source.schema)
        self.found = shared(job)
        place = None if self.before is None else streams.Position.parse(self.before["position"])
        job.stream = jobs.stream(config, link, source, place)
        self.shield.begin(job, source.schema)
        job.keeper = self.shield
        add, commit = job.meter.add, self.shield.commit
        self.end = 0

        def counted(scores, rows):
            self.orders += rows.order.tolist()
            add(scores, rows)

        def committed(as_of):
            commit(as_of)
            self.seen[self.shield._own.version] = shared(as_of), len(self.orders)
            if len(self.seen) == self.end:
                raise Died

        job.meter.add, self.shield.commit = counted, committed

    def run(self, end=0):
        self.end = end
        try:
            for event in modes.run(self.job, self.config):
                if isinstance(event.action, loop.Stop):
                    break
        finally:
            self.shield._written()
            self.shield.pulse.done()
        meter = loop.merged_meter(self.job)
        return None if meter is None else meter.summary()["rows"]


def on_ranks(links, work):
    with ThreadPoolExecutor(len(links)) as pool:
        return list(pool.map(work, links))


def late(source, to, tag, nth):
    return 0.0008 * ((source + 2 * to + nth) % 3)


def stopped(n, config, root, ends):
    """A run of `n` ranks that end after so many commits each, or as they wait for one that has ended."""
    def work(link):
        life = Life(link, config, root)
        with pytest.raises((Died, PeerError)):
            life.run(ends[link.rank])
        return life

    return on_ranks(group(n, timeout_s=1.5, fault=late), work)


def gone_on(m, config, root, first):
    """`m` others go on to the end; what they found and did agrees with what was committed."""
    def work(link):
        life = Life(link, config, root)
        return life, life.run()

    ends = on_ranks(group(m, timeout_s=30), work)
    version = ends[0][0].before["version"]
    assert version >= min(max(life.seen) for life in first)  # what all had committed, at least
    for life, _ in ends:
        assert life.before["version"] == version
        for other in first:
            state, _ = other.seen[version]
            assert state.keys() == life.found.keys() and all(np.array_equal(state[path], life.found[path]) for path in state)
        assert life.job.clock.rows == ROWS
    learned = [row for life in first for row in life.orders[: life.seen[version][1]]] + [
        row for life, _ in ends for row in life.orders]
    assert sorted(learned) == list(range(ROWS))  # each row once, over both lives
    assert ends[0][1] == ROWS


LONG = pytest.mark.long
STOPS = [("ssp:3", "deal", 3, 2, (9, 17, 12)), ("hybrid:2", "deal", 3, 4, (30, 8, 30)), ("ssp:1", "hash", 2, 1, (5, 40)),
         ("auto", "deal", 2, 3, (90, 71)),
         *(pytest.param(mode, rule, n, m, tuple((7 + 13 * r * n) % 29 + 1 for r in range(n)), marks=LONG)
           for mode in ("ssp:0", "ssp:4", "hybrid:3") for rule in ("deal", "hash") for n, m in ((2, 2), (3, 1), (4, 3)))]


@pytest.mark.parametrize(("mode", "rule", "n", "m", "ends"), STOPS)
def test_the_newest_round_of_all_comes_back_and_each_row_is_learned_once(tmp_path, monkeypatch, mode, rule, n, m, ends):
    monkeypatch.setattr(auto, "ROUNDS", 8)  # lock-step and staleness in turn
    monkeypatch.setattr(auto, "review", lambda pace, *_: replace(pace, bound=0 if pace.bound else 2, reason="told so"))
    config = config_of(mode, **{"data.rule": rule})
    gone_on(m, config, tmp_path, stopped(n, config, tmp_path, ends))


@pytest.mark.parametrize("mode", ["ssp:2", "hybrid:2"])
def test_any_one_node_may_be_wiped(tmp_path, mode):
    config = config_of(mode)
    first = stopped(3, config, tmp_path / "made", (25, 40, 40))
    assert all(len(life.shield._own.images) == 2 for life in first)  # images were brought forward meanwhile
    # Workers are ahead of what is committed: what they hold must not pass for it when survivors go on in place.
    assert all(live.stand(life.job, life.shield.at) is None for life in first)
    for node in range(3):
        root = tmp_path / str(node)
        shutil.copytree(tmp_path / "made", root)
        shutil.rmtree(root / "epoch-000001" / f"node-{node}")

        def recovered(link, root=root):
            return Life(link, config, root)

        for life in on_ranks(group(2, timeout_s=30), recovered):
            for other in first:
                state, _ = other.seen[life.before["version"]]
                assert all(np.array_equal(state[path], life.found[path]) for path in state)
            life.shield.pulse.done()


def test_a_rank_that_commits_something_else_is_named(tmp_path):
    config = config_of("ssp:2")

    def work(link):
        life = Life(link, config, tmp_path)
        keep = life.shield.round
        def other(job, model, total, at):
            if link.rank == 1 and life.shield._own.version == 6:
                total.values[0, 0] += 1
            keep(job, model, total, at)

        life.shield.round = other
        with pytest.raises(PeerError) as raised:  # or it waits for one that has found it
            life.run()
        return str(raised.value)

    assert any("disagree on step 7" in text for text in on_ranks(group(3, timeout_s=1.5), work))


def test_the_outer_momentum_of_local_steps_comes_back(tmp_path):
    config = config_of("local:2", **{"exchange.momentum": 0.5})
    whole = on_ranks(group(2, timeout_s=30), lambda link: (life := Life(link, config, tmp_path / "whole"), life.run())[0])
    first = stopped(2, config, tmp_path / "cut", (9, 9))
    again = stopped(2, config, tmp_path / "cut", (1, 1))  # the next life is lost as it commits its first step

    def work(link):
        life = Life(link, config, tmp_path / "cut")
        life.run()
        return life

    for life in on_ranks(group(2, timeout_s=30), work):
        assert life.before["version"] == 10 and life.found.keys() == first[0].seen[9][0].keys() == again[0].seen[10][0].keys()
        for path, data in shared(whole[0].job).items():
            assert np.array_equal(data, shared(life.job)[path]), path


def test_stages_are_refused_by_name(tmp_path):
    def work(link):
        with pytest.raises(ConfigError, match="without stages"):
            Life(link, config_of("ssp:2", **{"data.source": "make:sea?rows=100", "clean.stages": "scale"}), tmp_path)

    on_ranks(group(2, timeout_s=30), work)
