"""Codecs in checkpoints: a run resumed goes on as one that was not stopped; any number of ranks takes what others owed."""
import numpy as np
import pytest

from engine import job as jobs
from engine import loop, modes, resume
from engine.config import resolve
from engine.modes.coding import bounds
from engine.types import Batch, Schema

WIDTH = 12
SCHEMA = Schema(WIDTH, False, "binary", ("0", "1"))


@pytest.fixture(scope="module")
def dense():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((1200, WIDTH)).astype(np.float32)
    y = (x @ rng.standard_normal(WIDTH) > 0).astype(np.float32)
    return Batch(y, np.arange(1200), np.concatenate([[np.nan], y[:-1]]).astype(np.float32), x=x)


class Run:
    """A run of one rank, as the program makes it; `done`: rows of the stream that were taken."""

    def __init__(self, made, link, rows, folder, *settings, done=0, again=False):
        self.config = resolve(env={}, overrides=[
            "model.kind=mlp", "exchange.every=20", "loop.threads=1", f"checkpoint.dir={folder}",
            "checkpoint.every=240rows", "checkpoint.keep=9", *settings])
        stream = made.Dealt(rows, link)
        stream.done = done
        self.job = jobs.assemble(self.config, link, SCHEMA, stream)
        if again:
            resume.restore(self.job, self.config, str(folder), SCHEMA)

    def go(self, until=10**9):
        """Saves as is due; stops at a save at `until` rows."""
        for event in modes.run(self.job, self.config):
            if isinstance(event.action, loop.Save):
                resume.save(self.job, self.config, self.config.checkpoint.dir, SCHEMA)
                if event.rows >= until:
                    break
        return self

    @property
    def reducer(self):
        return self.job.memory.reducer if hasattr(self.job.memory, "reducer") else self.job.memory.total.reducer

    def held(self):
        return self.job.team.state()["model/theta"].data.tobytes(), self.reducer.owed().tobytes()


@pytest.mark.parametrize("settings", [("exchange.codec=sign",), ("exchange.codec=topk:.05",), ("exchange.codec=lowrank:2",),
                                      ("exchange.codec=int8", "exchange.mode=local:2")])
def test_a_run_that_is_resumed_gives_the_bits_of_one_that_was_not_stopped(made, dense, tmp_path, settings):
    def whole(link):
        return Run(made, link, dense, tmp_path / "whole", *settings).go().held()

    def first(link):
        return Run(made, link, dense, tmp_path / "parts", *settings).go(until=480).job.stream.done

    done = made.everywhere(3, first)[0]

    def rest(link):
        return Run(made, link, dense, tmp_path / "parts", *settings, done=done, again=True).go().held()

    found = made.everywhere(3, whole)
    assert made.everywhere(3, rest) == found
    assert any(np.frombuffer(owed, np.float32).any() for _, owed in found)  # something was owed


@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize("codec", ["sign", "exact"])
def test_other_ranks_owe_the_same_sum(made, dense, tmp_path, ranks, codec):
    def first(link):
        run = Run(made, link, dense, tmp_path, "exchange.codec=sign").go(until=480)
        return run.reducer.owed(), run.job.team.state()["model/theta"].data

    before = made.everywhere(3, first)
    debt = sum(owed.astype(np.float64) for owed, _ in before)
    assert np.abs(debt).max() > 0

    def rest(link):
        run = Run(made, link, dense, tmp_path, f"exchange.codec={codec}", again=True)
        run.job.stream.rows = dense.slice(0, 0)
        events = modes.run(run.job, run.config)
        if link.size == 1:
            next(events)
            return run.job.team.state()["model/theta"].data - before[0][1]
        kept = run.job.memory
        mine = kept._ready(run.job).owed()
        a, b = bounds(len(mine), link.size, link.rank)
        assert not mine[:a].any() and not mine[b:].any()
        return mine

    found = made.everywhere(ranks, rest)
    np.testing.assert_allclose(sum(part.astype(np.float64) for part in found), debt, atol=1e-6)
