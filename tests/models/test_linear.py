import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, DataError, ShardError, StoreError
from engine.models.linear import Linear
from engine.types import Batch
from engine.update.merge import combine

LEARNERS = ["sgd", "adagrad", "ftrl", "nag", "pa1", "pa2"]


def dense(x, y, weight=None):
    n = len(y)
    return Batch(np.asarray(y, np.float32), np.arange(n), np.full(n, np.nan, np.float32),
                 x=np.ascontiguousarray(x, np.float32), weight=weight)


def sparse(rng, count, width, size=5):
    indptr = np.arange(0, count * size + 1, size, dtype=np.int64)
    y = rng.integers(0, 2, count).astype(np.float32)
    return Batch(y, np.arange(count), y, indptr=indptr, keys=rng.integers(0, width, count * size).astype(np.uint32))


def stream(seed=0, count=300, width=4):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width)).astype(np.float32)
    return dense(x, x @ np.arange(1, width + 1) + 0.3 > 0)


def bits(model):
    return {path: block.data.tobytes() for path, block in model.state().items()}


def options(learner):
    return {"learner": learner, "loss": "hinge"}


@pytest.mark.parametrize("learner", LEARNERS)
def test_learns_a_separable_stream(learner):
    batch = stream(count=2000)
    scores = Linear(4, scale=True, **options(learner)).learn(batch)
    assert ((scores > 0) == (batch.y > 0))[500:].mean() > 0.93


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("more", [{}, {"scale": True}, {"interactions": True, "width": 64}])
def test_one_call_is_row_by_row(learner, more):
    batch, width = stream(count=80), more.pop("width", 4) if "width" in more else 4
    whole, single = (Linear(width, **options(learner), **more) for _ in range(2))
    scores = whole.learn(batch)
    ones = [single.learn_one(batch.x[i], float(batch.y[i])) for i in range(len(batch))]
    np.testing.assert_array_equal(scores, np.array(ones, np.float32))
    assert bits(whole) == bits(single)


def test_dense_is_sparse_with_all_columns():
    batch = stream(count=50)
    n, d = batch.x.shape
    same = Batch(batch.y, batch.order, batch.previous, indptr=np.arange(0, n * d + 1, d, dtype=np.int64),
                 keys=np.tile(np.arange(d, dtype=np.uint32), n), values=batch.x.ravel())
    a, b = Linear(4), Linear(4)
    np.testing.assert_array_equal(a.learn(batch), b.learn(same))
    assert bits(a) == bits(b)


def test_interactions_learn_what_no_line_can():
    rng = np.random.default_rng(2)
    x = rng.choice([-1.0, 1.0], (3000, 2))
    batch = dense(x, x[:, 0] * x[:, 1] > 0)
    plain = Linear(256).learn(batch)
    pairs = Linear(256, interactions=True).learn(batch)
    assert ((plain > 0) == (batch.y > 0)).mean() < 0.6
    assert ((pairs > 0) == (batch.y > 0)).mean() > 0.98


@pytest.mark.parametrize("scale", [False, True])
def test_predict_gives_the_score_of_learn_and_changes_nothing(scale):
    batch = stream()
    for learner in LEARNERS:
        model = Linear(4, scale=scale, **options(learner))
        model.learn(batch)
        before = bits(model)
        row = dense(batch.x[:1] * 3, [1])
        score = model.predict(row)
        assert bits(model) == before
        np.testing.assert_array_equal(score, model.learn(row))


def test_classes_match_one_against_the_rest():
    rng = np.random.default_rng(5)
    batch = sparse(rng, 100, 20)
    batch.y[:] = rng.integers(0, 3, 100)
    many = Linear(20, classes=3)
    scores = many.learn(batch)
    for c in range(3):
        other = Batch((batch.y == c).astype(np.float32), batch.order, batch.y, indptr=batch.indptr, keys=batch.keys)
        np.testing.assert_array_equal(scores[:, c], Linear(20).learn(other))


def test_sgd_agrees_with_scikit_learn():
    from sklearn.linear_model import SGDClassifier, SGDRegressor

    batch = stream(count=200)
    same = {"alpha": 0.01, "eta0": 0.1, "power_t": 0.25, "learning_rate": "invscaling", "shuffle": False, "max_iter": 1,
            "tol": None, "fit_intercept": False}
    for peer, loss in ((SGDClassifier(loss="log_loss", **same), "logistic"), (SGDRegressor(**same), "squared")):
        peer.fit(batch.x.astype(np.float64), batch.y)
        model = Linear(4, learner="sgd", loss=loss, rate=0.1, power_t=0.25, l2=0.01, bias=0)
        model.learn(batch)
        np.testing.assert_allclose(model.state()["model/linear"].data[:, 0], peer.coef_.ravel(), rtol=2e-4)


@pytest.mark.parametrize("learner", LEARNERS)
def test_non_finite_rows_are_counted_and_never_learned(learner):
    clean = stream(count=40)
    dirty = clean.take(np.repeat(np.arange(40), 2))
    dirty.x[1::2, 1] = np.tile([np.nan, np.inf, -np.inf, np.nan], 10)
    a, b = (Linear(4, scale=True, **options(learner)) for _ in range(2))
    a.learn(clean)
    scores = b.learn(dirty)
    assert b.bad == 40 and a.bad == 0
    assert bits(a) == bits(b)
    assert np.isfinite(scores[::2]).all()


def test_rows_without_a_label_are_only_scored():
    batch = stream(count=20)
    model = Linear(4)
    model.learn(batch)
    before = bits(model)
    scores = model.learn(dense(batch.x, np.full(20, np.nan)))
    assert bits(model) == before
    assert np.isfinite(scores).all() and model.bad == 0


def test_weight_zero_is_absence():
    batch = stream(count=30)
    weight = (np.arange(30) % 2).astype(np.float32)
    a, b = Linear(4), Linear(4)
    a.learn(dense(batch.x, batch.y, weight))
    b.learn(batch.take(np.arange(1, 30, 2)))
    assert bits(a) == bits(b)


def test_an_empty_batch_is_nothing():
    model = Linear(4)
    assert model.learn(stream(count=1).slice(0, 0)).shape == (0,)
    assert len(model.update().keys) == 0


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("merge", ["owner", "add", "average", "touch"])
def test_one_rank_merges_into_itself(learner, merge):
    batch = stream(count=200)
    alone, model = (Linear(4, scale=True, merge=merge, **options(learner)) for _ in range(2))
    for low in range(0, 200, 50):
        alone.learn(batch.slice(low, low + 50))
        model.learn(batch.slice(low, low + 50))
        model.merge(model.update(), 1)
    for path, block in alone.state().items():
        np.testing.assert_allclose(model.state()[path].data, block.data, rtol=1e-4, atol=1e-4, err_msg=path)


@pytest.mark.parametrize("learner", LEARNERS)
def test_all_ranks_end_with_the_same_bits(learner):
    batch = stream(count=240)
    models = [Linear(4, scale=True, **options(learner)) for _ in range(3)]
    for low in range(0, 240, 60):
        for r, model in enumerate(models):
            model.learn(batch.slice(low + 20 * r, low + 20 * r + 20))
        total = combine([m.update() for m in models])
        for model in models:
            model.merge(total, 3)
    assert bits(models[0]) == bits(models[1]) == bits(models[2])
    assert models[0].state()["model/clock"].data[0] == 240
    assert models[0].state()["stage/scale"].data[0, 0] == 240
    np.testing.assert_allclose(models[0].state()["stage/scale"].data[:, 1], batch.x.mean(0), rtol=1e-5, atol=1e-6)


def test_a_rank_without_rows_takes_part():
    model, idle = Linear(4), Linear(4)
    model.learn(stream())
    total = combine([model.update(), idle.update()])
    model.merge(total, 2)
    idle.merge(total, 2)
    assert bits(model) == bits(idle)


def test_owner_rule_of_ftrl_is_the_documented_one():
    rate, beta = 0.17, 0.5
    models = [Linear(3, bias=0) for _ in range(4)]
    for seed, model in enumerate(models):
        model.learn(sparse(np.random.default_rng(seed), 40, 3))
    updates = [m.update() for m in models]
    total = combine(updates)
    models[0].merge(total, 4)
    g, q, own, centre, rise, ranks = total.values.astype(float).T
    n = q + np.maximum(0, g**2 - own) * 0.65 * (1 - 2 / ranks)
    z = g - centre * np.sqrt(n) / rise
    want = np.stack([-z / ((beta + np.sqrt(n)) / rate), z, n], axis=1)
    np.testing.assert_allclose(models[0].state()["model/linear"].data, want, rtol=1e-4, atol=1e-5)


def test_many_ranks_stay_near_one_rank():
    rng = np.random.default_rng(7)
    truth = rng.normal(size=60)
    batch = sparse(rng, 8192, 60, 8)
    batch.y[:] = rng.random(8192) < 1 / (1 + np.exp(-truth[batch.keys].reshape(-1, 8).sum(1)))

    def loss(ranks, rows, merge):
        models, scores = [Linear(60, merge=merge) for _ in range(ranks)], np.empty(8192, np.float32)
        for low in range(0, 8192, ranks * rows):
            for r, model in enumerate(models):
                part = slice(low + r * rows, low + r * rows + rows)
                scores[part] = model.learn(batch.slice(part.start, part.stop))
            total = combine([m.update() for m in models])
            for model in models:
                model.merge(total, ranks)
        sign = np.where(batch.y > 0, 1, -1)
        return np.logaddexp(0, -sign * scores.astype(float)).mean()

    alone, few, owner = loss(1, 8192, "owner"), loss(4, 8, "owner"), loss(64, 8, "owner")
    assert few < alone + 0.01
    assert owner < loss(64, 8, "add")
    assert owner < loss(64, 8, "average")


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(LEARNERS))
def test_load_of_state_goes_on_like_the_original(seed, learner):
    batch = stream(seed % 1000, 60)
    model = Linear(4, scale=True, **options(learner))
    model.learn(batch.slice(0, 30))
    twin = Linear(4, scale=True, **options(learner))
    twin.learn(batch)
    twin.load(model.state())
    np.testing.assert_array_equal(twin.learn(batch.slice(30, 60)), model.learn(batch.slice(30, 60)))
    assert bits(twin) == bits(model)


def test_load_refuses_another_shape():
    with pytest.raises(StoreError, match="model/linear: expected shape"):
        Linear(4).load(Linear(5).state())
    with pytest.raises(StoreError, match="found None"):
        Linear(4, scale=True).load(Linear(4).state())


def test_forks_learn_in_two_threads():
    batch = sparse(np.random.default_rng(1), 4000, 50)
    one, two = Linear(50), None
    two = one.fork()
    want = Linear(50)
    want.learn(batch)
    threads = [threading.Thread(target=m.learn, args=(batch,)) for m in (one, two)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout=30)
    assert bits(one) == bits(two) == bits(want)


def test_learn_batch_is_one_mean_step():
    batch = stream(count=50)
    model = Linear(4, learner="sgd", loss="squared", rate=0.1)
    model.learn_batch(batch)
    got = model.state()["model/linear"].data[:, 0]
    x = np.column_stack([batch.x, np.ones(50)])
    np.testing.assert_allclose(got, 0.1 * (batch.y @ x) / 50, rtol=1e-5)
    with pytest.raises(ConfigError, match="mini-batches"):
        Linear(4, learner="nag").learn_batch(batch)


@pytest.mark.parametrize("wrong", [
    {"learner": "adam"}, {"loss": "logistic", "learner": "pa1"}, {"rate": 0}, {"beta": 0}, {"tau": 1},
    {"loss": "poisson", "classes": 3}, {"learner": "pa2", "loss": "hinge", "l2": 1}, {"merge": "max"}, {"loss": "log"},
])
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        Linear(4, **wrong)


def test_keys_outside_are_a_data_error():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="outside the key space of 5"):
        Linear(5).learn(sparse(rng, 50, 100))
    with pytest.raises(ShardError, match="track"):
        Linear(5, tracked=False).update()
