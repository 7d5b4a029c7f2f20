"""The embedding table: a row a key, admission, expiry, and replicas that agree on all of it."""
import numpy as np
import pytest

from engine.errors import DataError, StoreError
from engine.models.table import BIAS, Table
from engine.types import Batch
from engine.update.merge import combine


def rows(seed, n=200, pool=40, far=1, classes=3):
    rng = np.random.default_rng(seed)
    keys = (rng.integers(0, pool, (n, 4)) * far).astype(np.uint32)
    y = (keys[:, 0] // far % classes).astype(np.float32)
    keys[:, 0] += np.uint32(pool * far)
    return Batch(y, np.arange(n), np.full(n, np.nan, np.float32), indptr=np.arange(0, 4 * n + 1, 4), keys=keys.ravel())


def same(a, b):
    for path, block in a.state().items():
        np.testing.assert_array_equal(block.data, b.state()[path].data, err_msg=path)


def test_it_learns_over_keys_that_would_collide_if_hashed():
    m = Table(3, tracked=False, rate=0.3)
    for seed in range(8):
        scores = m.learn(rows(seed, far=1 << 24))
    assert (scores.argmax(1) == rows(7, far=1 << 24).y).mean() > 0.9
    assert len(m.keys) == len(np.unique(m.keys)) <= 81 and m.keys[-1] == BIAS


def test_rare_keys_wait_and_old_ones_go():
    m = Table(3, tracked=False, admit=3, expire=500)
    none = np.zeros(1, np.float32)
    one = Batch(none, np.arange(1), none, indptr=np.array([0, 1]), keys=np.array([7], np.uint32))
    for times in range(1, 4):
        m.learn(one)
        assert (7 in m.keys) == (times >= 3)
    for seed in range(3):
        m.learn(rows(seed))
    assert 7 not in m.keys or m.last[m.keys == 7][0] >= m.clock - 500
    batch = rows(1)
    batch.keys = batch.keys + np.uint32(1000)
    for _ in range(4):
        m.learn(batch)
    assert (m.keys[:-1] >= 1000).all()


@pytest.mark.parametrize("options", [{}, {"admit": 3}, {"admit": 2, "expire": 900}])
def test_replicas_hold_the_same_bits_and_merging_commutes(options):
    first = Table(3, **options)
    team, other = [first, first.fork(), first.fork()], first.fork()
    for step in range(6):
        for i, m in enumerate(team):
            m.learn(rows(step * 3 + i, 60, pool=60))
        ups = [m.update() for m in team]
        other.merge(combine(ups[::-1]), 3)
        for m in team:
            m.merge(combine(ups), 3)
        same(team[0], team[1])
        same(team[0], team[2])
        np.testing.assert_array_equal(team[0].keys, other.keys)
        np.testing.assert_allclose(team[0].rows, other.rows, atol=1e-5)
    assert len(team[0].keys) > 10 and team[0].clock == 6 * 180
    assert (team[0].predict(rows(99, pool=60)).argmax(1) == rows(99, pool=60).y).mean() > 0.5


def test_resume_is_uninterrupted_and_one_alone_keeps_what_it_learned():
    for tracked in (False, True):
        one, half = Table(3, tracked=tracked, admit=2), Table(3, tracked=tracked, admit=2)
        for m in (one, half):
            m.learn(rows(1))
            if tracked:
                m.merge(m.update(), 1)
        again = Table(3, tracked=tracked, admit=2)
        again.load(half.state())
        np.testing.assert_array_equal(again.learn(rows(2)), one.learn(rows(2)))
        same(again, one)
    alone, free = Table(3), Table(3)
    for m in (alone, free):
        m.learn(rows(4))
    alone.merge(alone.update(), 1)
    np.testing.assert_allclose(alone.rows, free.rows, atol=1e-6)


def test_bad_input_is_refused_or_passed_over():
    m = Table(3)
    batch = rows(5, 10)
    batch.values = np.ones(40, np.float32)
    batch.values[5], batch.y[7] = np.nan, np.nan
    assert len(m.learn(batch)) == 10 and m.bad == 1
    batch = rows(5, 4)
    batch.y[0] = 3
    with pytest.raises(DataError, match=r"model\.classes"):
        m.learn(batch)
    with pytest.raises(DataError, match="sparse rows"):
        m.predict(Batch(batch.y, batch.order, batch.previous, x=np.zeros((4, 2), np.float32)))
    with pytest.raises(StoreError, match="expected"):
        Table(2).load(m.state())
