"""Stages in a row: a user's own class, merged over ranks, saved and loaded, and through the job."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine.clean.pipeline import open_pipeline, open_stage
from engine.comm.local import group
from engine.errors import ConfigError, StoreError
from engine.types import Batch, Schema

SCHEMA = Schema(2, False, "binary")


OWN = """
import numpy as np
from engine.types import Batch


class Centre:
    '''Takes the mean of the rows before off each column.'''

    def __init__(self, columns=2):
        self.n, self.total = np.zeros(1), np.zeros(columns)

    def transform(self, batch):
        mean = self.total / max(self.n[0], 1)
        return Batch(batch.y, batch.order, batch.previous, x=(batch.x - mean).astype(np.float32))

    def fit(self, batch):
        self.n += len(batch)
        self.total += batch.x.sum(0, dtype=np.float64)

    def arrays(self):
        return {"n": self.n, "total": self.total}
"""


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n).astype(np.float32)
    return Batch(y, np.arange(n), np.full(n, np.nan, np.float32), x=rng.integers(-9, 9, (n, 2)).astype(np.float32))


def own():
    return open_pipeline(["own_stage:Centre"], SCHEMA)


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    (tmp_path / "own_stage.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def test_each_row_is_transformed_with_the_rows_before_it():
    batch = rows(50)
    out = own().learn(batch)
    before = np.vstack([np.zeros(2), np.cumsum(batch.x, 0)[:-1]]) / np.maximum(np.arange(50), 1)[:, None]
    np.testing.assert_array_equal(out.x, (batch.x - before).astype(np.float32))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ranks_end_with_the_statistics_of_all_rows(size):
    batch = rows(100)

    def work(link):
        pipeline = own()
        for step in range(5):
            mine = np.arange(step * 20 + link.rank, step * 20 + 20, link.size)
            pipeline.learn(batch.take(mine))
            pipeline.exchange(link)
        return pipeline.state()

    with ThreadPoolExecutor(size) as pool:
        ends = list(pool.map(work, group(size, timeout_s=20)))
    assert len(ends) == size
    for state in ends:
        np.testing.assert_array_equal(state["clean/0/total"].data, batch.x.sum(0, dtype=np.float64))
        assert state["clean/0/n"].data == 100


def test_a_pipeline_goes_on_from_its_state():
    whole, first = own(), own()
    batch = rows(60)
    want = whole.learn(batch).x
    first.learn(batch.slice(0, 30))
    second = own()
    second.load(first.state())
    np.testing.assert_array_equal(second.learn(batch.slice(30, 60)).x, want[30:])


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="expected one of"):
        open_stage("scael")
    with pytest.raises(ConfigError, match="lacks"):
        open_stage("collections:Counter")
    with pytest.raises(ConfigError, match="cannot load"):
        open_stage("no.such.module:Thing")
    with pytest.raises(StoreError, match="stage n"):
        own().load({})
