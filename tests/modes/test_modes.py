"""Every mode of the configuration on logical ranks: all rows counted, the same bytes on all ranks, the loss beside."""
import time

import numpy as np
import pytest

from engine import loop, modes
from engine.cluster.adapt import Budget
from engine.config import resolve
from engine.errors import ConfigError
from engine.modes.auto import Auto

MODES = ["bsp", "ssp:0", "ssp:3", "hybrid:0", "hybrid:2", "asp", "gossip",
         "gossip:random", "gossip:ring", "local:4", "auto"]


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_counts_every_row_and_ends_alike_everywhere(made, rows, mode):
    config = resolve(env={}, overrides=[f"exchange.mode={mode}", "exchange.every=8"])

    def work(link):
        job = made.make(link, rows)
        events = [(type(e.action).__name__, e.rows) for e in modes.run(job, config)]
        meter = loop.merged_meter(job)
        return made.weights(job), events, meter.summary() if meter else None

    found = made.everywhere(3, work)
    assert len({w for w, *_ in found}) == 1
    assert found[0][1][-1] == ("Stop", 2000) and len({str(e) for _, e, _ in found}) == 1
    assert found[0][2]["rows"] == 2000
    assert found[0][2]["logloss"] < 0.6  # the prior alone gives .69


def test_outer_momentum_moves_on_in_the_direction_of_the_merged_change(made, rows):
    """Against the definition in NumPy: v = m v + d, x = x + d + m v."""
    config = resolve(env={}, overrides=["exchange.mode=local:2", "exchange.momentum=0.5", "model.learner=sgd"])

    def work(link):
        job = made.make(link, rows.slice(0, 160), "model.learner=sgd")
        model, merge, changes = job.team.models[0], job.team.merge, []

        def watched(total, workers):
            before = model._block[:, 0].copy()
            touched, values = total.keys, total.values
            del before, touched, values
            merge(total, workers)
            changes.append((total.keys.copy(), model._block[:, 0].copy()))

        job.team.merge = watched
        list(modes.run(job, config))
        return changes, model._block[:, 0].copy(), made.weights(job)

    (changes, final, weights), other = made.everywhere(2, work)
    assert weights == other[2]
    anchor, speed = np.zeros(made.WIDTH, np.float32), np.zeros(made.WIDTH, np.float32)
    for keys, merged in changes:
        speed[keys] = np.float32(0.5) * speed[keys] + (merged[keys] - anchor[keys])
        anchor[keys] = merged[keys] + np.float32(0.5) * speed[keys]
    np.testing.assert_allclose(final, anchor, atol=1e-6)


def test_auto_loosens_for_a_slow_rank_and_tells_why(made, rows):
    def hold(rank, at):
        time.sleep(0.002 * (1 + 5 * (at % 3 == rank)))

    def work(link):
        job, notes = made.make(link, made.batch(6000), hold=hold), []
        list(Auto(job, Budget(0.05), notes.append).run())
        return notes, made.weights(job)

    found = made.everywhere(3, work)
    assert len({w for _, w in found}) == 1
    assert found[0][0] == found[1][0] == found[2][0]
    assert "staleness up to 1, because ranks wait" in found[0][0][0]


def test_auto_shortens_the_interval_until_news_is_fresh_enough(made, rows):
    """A row takes 2 ms: 8 of them cannot be visible within 10 ms."""
    def work(link):
        job, notes = made.make(link, made.batch(1800)), []
        learn = job.team.learn

        def slow(batch, k):
            time.sleep(0.002 * len(batch))
            return learn(batch, k)

        job.team.learn = slow
        events = list(Auto(job, Budget(fresh_s=0.01), notes.append).run())
        return notes, made.weights(job), events[-1].rows

    found = made.everywhere(3, work)
    assert len({weights for _, weights, _ in found}) == 1 and found[0][2] == 1800
    assert found[0][0] == found[1][0] and "every 4 rows, because an example is visible everywhere after" in found[0][0][0]
    assert "10 asked" in found[0][0][0]


def test_what_does_not_go_together_is_refused(made, rows):
    def work(link):
        for bad, words in ((["exchange.mode=ssp:2", "exchange.split=keys"], "split"),
                           (["exchange.mode=asp", "exchange.every=10ms"], "rows")):
            with pytest.raises(ConfigError, match=words):
                modes.run(made.make(link, rows), resolve(env={}, overrides=bad))
        return True

    assert made.everywhere(2, work) == [True, True]
    with pytest.raises(ConfigError, match="ssp:N"):
        resolve(env={}, overrides=["exchange.mode=ssp"])


@pytest.mark.smoke
@pytest.mark.ranks(3)
def test_modes_on_real_ranks(made, rows, size, link):
    """The same over MPI, one start for all; rank 1 is slower than the rest."""
    def hold(rank, at):
        time.sleep(0.002 * (rank == 1))

    rows = rows.slice(0, 800)
    for mode in ("ssp:2", "hybrid:2", "asp", "gossip", "local:2", "auto"):
        config = resolve(env={}, overrides=[f"exchange.mode={mode}"])
        job = made.make(link, rows, hold=hold)
        events = [(type(e.action).__name__, e.rows) for e in modes.run(job, config)]
        assert events[-1] == ("Stop", 800), mode
        assert made.weights(job) == link.bcast(made.weights(job), name=mode), mode
        meter = loop.merged_meter(job)
        assert meter is None or meter.summary()["rows"] == 800, mode
        if mode == "ssp:2":
            assert job.counts.values["stale_sum"] + (link.rank == 1) > 0 and job.counts.values["stale_most"] <= 2


@pytest.mark.parametrize("codec", ["dense", "int8", "topk:0.2", "auto"])
def test_a_codec_carries_the_parameters_of_a_dense_model(made, codec):
    """The loss is near the exact one's, every rank has the same bytes, counts are not rounded, the choice is told."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(1600, 6)).astype(np.float32)
    y = (x @ np.array([2, -1, 1, 0, 0, 1], np.float32) > 0).astype(np.float32)

    def run(link, words):
        from engine import job as jobs
        from engine.types import Batch, Schema

        previous = np.concatenate([[np.nan], y[:-1]]).astype(np.float32)
        config = resolve(env={}, overrides=["model.kind=softmax", "exchange.every=8", "loop.threads=1", *words])
        notes = []
        job = jobs.assemble(config, link, Schema(6, False, "binary", ("0", "1")),
                            made.Dealt(Batch(y, np.arange(1600), previous, x=x), link))
        list(modes.run(job, config, notes.append))
        meter = loop.merged_meter(job)
        state = {name: block.data.tobytes() for name, block in job.team.models[0].state().items()}
        return state, meter.summary()["logloss"] if meter else None, notes

    exact = made.everywhere(3, lambda link: run(link, []))
    found = made.everywhere(3, lambda link: run(link, [f"exchange.codec={codec}", "exchange.explain=true"]))
    assert all(state["model/theta"] == found[0][0]["model/theta"] for state, *_ in found)
    assert found[0][0]["model/seen"] == exact[0][0]["model/seen"]
    assert abs(found[0][1] - exact[0][1]) < 0.05
    assert any(codec.partition(":")[0] in line or "<- taken" in line for line in found[0][2])


def test_hybrid_nought_is_lock_step_bit_for_bit(made, rows):
    def run(link, mode):
        job = made.make(link, rows, "model.bias=1")
        list(modes.run(job, resolve(env={}, overrides=[f"exchange.mode={mode}"])))
        return made.weights(job)

    strict, hybrid = (made.everywhere(3, lambda link, mode=mode: run(link, mode)) for mode in ("bsp", "hybrid:0"))
    assert strict == hybrid


def test_balance_gives_a_slow_rank_fewer_rows_and_ease_smaller_steps(made, rows):
    """Rank 0 needs four times as long a row; in the end it has learned far fewer."""
    class Stream(made.Dealt):
        def take(self, k):
            time.sleep(5e-4 * k * (4 if self.link.rank == 0 else 1))
            self.at += 1
            low = (self.at * 61 * (self.link.rank + 1)) % 1500
            self.learned = getattr(self, "learned", 0) + k
            return self.rows.slice(low, low + k) if self.at < 40 else None

        @property
        def left(self):
            return self.at < 40

    def work(link):
        words = ["exchange.mode=ssp:2", "exchange.balance=true", "exchange.ease=true", "model.learner=sgd"]
        job = made.make(link, rows, *words)
        job.stream = Stream(rows, link)
        list(modes.run(job, resolve(env={}, overrides=[*words, "exchange.every=8"])))
        return job.stream.learned, made.weights(job)

    found = made.everywhere(3, work)
    assert len({w for _, w in found}) == 1
    assert found[0][0] < 0.5 * found[1][0] and found[0][0] < 0.5 * found[2][0]
