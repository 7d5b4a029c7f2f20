"""A model whose columns are on different ranks is the model of one rank; rows against columns re-laid without a spike."""
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.comm.local import Alone, group
from engine.errors import ConfigError, DataError
from engine.shard.layout import Columns
from engine.shard.vertical import LOSSES, Vertical
from engine.types import Batch


def drawn(n, width, sparse, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, width)).astype(np.float32) * (draw.random((n, width)) < 0.5)
    y = (x @ draw.normal(size=width) + draw.normal(size=n) > 0).astype(np.float32)
    order, previous = np.arange(n), np.zeros(n, np.float32)
    if not sparse:
        return Batch(y, order, previous, x=x.astype(np.float32))
    rows, keys = np.nonzero(x)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))]).astype(np.int64)
    return Batch(y, order, previous, indptr=indptr, keys=keys.astype(np.uint32), values=x[rows, keys].astype(np.float32))


def on_ranks(size, act):
    """act(link) on so many logical ranks; what each returned."""
    links, found = group(size), [None] * size

    def run(rank):
        try:
            found[rank] = act(links[rank])
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(r,)) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one in found:
        if isinstance(one, Exception):
            raise one
    return found


@settings(max_examples=25, deadline=None)
@given(groups=st.sampled_from([1, 2, 3, 5]), sparse=st.booleans(), by=st.sampled_from(["range", "hash"]),
       batch=st.sampled_from([1, 7, 32]),
       loss=st.sampled_from(sorted(LOSSES)), learner=st.sampled_from(["sgd", "adagrad"]), n=st.integers(0, 90))
def test_vertical_training_is_that_of_one_rank(groups, sparse, by, batch, loss, learner, n):
    rows = drawn(n, 11, sparse)
    options = {"loss": loss, "learner": learner, "batch": batch, "rate": 0.1}

    def act(link):
        model = Vertical(link, Columns(11, groups, by=by), **options)
        return model.learn(rows), model.whole()

    one = Vertical(Alone(), Columns(11, 1), **options)
    scores, weights = one.learn(rows), one.whole()
    for found, whole in on_ranks(groups, act):
        assert np.allclose(found, scores, atol=1e-5)
        assert np.allclose(whole, weights, atol=1e-5)


def test_a_grid_learns_with_uneven_rows_and_agrees_on_weights():
    data = drawn(1330, 10, False, 1)
    rows = [data.slice(0, 200), data.slice(200, 330)]

    def act(link):
        model = Vertical(link, Columns(10, 2), batch=16)
        for _ in range(3):
            model.learn(rows[model.part])
            model.exchange()
        return model.whole()

    found = on_ranks(4, act)
    assert all(np.array_equal(found[0], other) for other in found)
    held = data.slice(330, 1330)
    assert (((held.x @ found[0][:-1] + found[0][-1]) > 0) == (held.y > 0)).mean() > 0.7


def test_a_grid_of_one_row_part_each_is_the_vertical_model():
    rows = drawn(64, 6, False)

    def act(link):
        model = Vertical(link, Columns(6, 2), batch=8)
        model.learn(rows)
        model.exchange()
        return model.whole()

    two, four = on_ranks(2, act)[0], on_ranks(4, act)[0]
    assert np.allclose(two, four, atol=1e-12)


@pytest.mark.parametrize(("act", "kind", "said"), [
    (lambda: Vertical(Alone(), Columns(4, 2)), ConfigError, "ranks in multiples of 2 column groups, found 1"),
    (lambda: Vertical(Alone(), Columns(4, 1), loss="magic"), ConfigError, "expected loss logistic or squared"),
    (lambda: Vertical(Alone(), Columns(4, 1), batch=0), ConfigError, "a batch of at least 1 row"),
    (lambda: Vertical(Alone(), Columns(4, 1)).learn(drawn(3, 5, False)), DataError, "expected rows of 4 columns, found 5"),
])
def test_bad_input_is_named(act, kind, said):
    with pytest.raises(kind, match=said):
        act()
