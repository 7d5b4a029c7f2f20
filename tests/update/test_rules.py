"""Merge rules as objects: what each does to a row, that sums commute, that staleness damps, that springs keep mass."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models.linear import Linear
from engine.types import Batch, Update
from engine.update.ease import Ease
from engine.update.elastic import Elastic
from engine.update.merge import combine
from engine.update.replica import Replica, damp


def stream(seed, rows=30, width=12, nnz=4):
    rng = np.random.default_rng(seed)
    keys = np.sort(np.argsort(rng.random((rows, width)), axis=1)[:, :nnz], axis=1).astype(np.uint32)
    y = (rng.random(rows) < 0.5).astype(np.float32)
    indptr, ones = np.arange(rows + 1) * nnz, np.ones(rows * nnz, np.float32)
    return Batch(y, np.arange(rows), y, indptr=indptr, keys=keys.ravel(), values=ones)


def trained(count, **options):
    models = [Linear(12, bias=0, **options) for _ in range(count)]
    for seed, model in enumerate(models):
        model.learn(stream(seed))
    return models, [m.update() for m in models]


@pytest.mark.parametrize("learner", ["sgd", "adagrad", "ftrl"])
def test_conflict_adds_what_ranks_do_not_agree_on(learner):
    """share = min(1, sqrt(sum of (sum g)^2) / |sum of sum g|), on w and z; n is added whole."""
    models, updates = trained(5, learner=learner, merge="conflict")
    total = combine(updates)
    models[0].merge(total, 5)
    w, a, n, g, squares, _ = total.values.astype(np.float64).T
    share = np.where(g**2 > squares, np.sqrt(squares / np.maximum(g**2, 1e-30)), 1)
    found = models[0].state()["model/linear"].data
    if learner == "ftrl":
        np.testing.assert_allclose(found[:, 1], a * share, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_allclose(found[:, 0], w * share, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[:, 2], n, rtol=1e-5)


def test_conflict_of_one_rank_is_what_that_rank_learned():
    models, updates = trained(1, learner="adagrad", merge="conflict")
    before = models[0].state()["model/linear"].data.copy()
    models[0].merge(updates[0], 1)
    np.testing.assert_allclose(models[0].state()["model/linear"].data, before, rtol=1e-5, atol=1e-6)


@settings(max_examples=25)
@given(st.sampled_from(["owner", "add", "average", "touch", "conflict"]), st.sampled_from(["sgd", "adagrad", "ftrl"]),
       st.permutations(range(4)))
def test_merges_commute(rule, learner, order):
    models, updates = trained(4, learner=learner, merge=rule)
    models[0].merge(combine(updates), 4)
    models[1].merge(combine([updates[i] for i in order]), 4)
    a, b = (m.state()["model/linear"].data for m in models[:2])
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_age_damps_sums_and_leaves_counts():
    update = Update(np.array([3], np.uint32), np.array([[2, 4, 6, 8, 10, 1]], np.float32), 5.0)
    assert damp(update, 3.0, 0.0) is update and damp(update, 0.0, 2.0) is update
    assert damp(update, 3.0, 1.0).values.tolist() == [[0.5, 1, 1.5, 2, 2.5, 1]]
    assert damp(update, 3.0, 0.5).values[0, 0] == 1 and update.values[0, 0] == 2


@settings(max_examples=30)
@given(st.integers(1, 8), st.floats(0.01, 1.0), st.integers(1, 30))
def test_springs_keep_mass_and_draw_replicas_together(ranks, share, rounds):
    pull, rng = share / ranks, np.random.default_rng(ranks)
    xs = [rng.normal(size=5) for _ in range(ranks)]
    springs = [Elastic(np.zeros(5), pull) for _ in range(ranks)]
    mass, apart = sum(xs), np.ptp(np.array(xs), axis=0).max()
    for _ in range(rounds):
        forces = sum(spring(x) for spring, x in zip(springs, xs, strict=True))
        for spring in springs:
            spring.settle(forces)
    np.testing.assert_allclose(sum(xs) + springs[0].centre, mass, atol=1e-9)
    assert np.ptp(np.array(xs), axis=0).max() <= apart * (1 - pull) ** rounds + 1e-9
    assert all(np.array_equal(s.centre, springs[0].centre) for s in springs)


def test_a_pull_out_of_range_is_refused():
    with pytest.raises(ValueError, match="pull"):
        Elastic(np.zeros(1), 1.5)


def test_the_step_is_eased_as_staleness_rises():
    factors = []
    for late in (0.0, 0.5, 4.5, 23.5):
        ease = Ease()
        ease.seen(late)
        factors.append(ease.factor)
    assert factors == sorted(factors, reverse=True) and factors[0] == 0.7 and factors[3] == pytest.approx(0.7 / 24.5)
    ease = Ease(memory=0.5)
    ease.seen(0)
    ease.seen(8)
    assert ease.late == 4


@settings(max_examples=20)
@given(st.data(), st.integers(2, 4))
def test_a_view_is_the_committed_state_and_what_came_since(data, ranks):
    """Against a plain merge from scratch; once nothing is pending it is the committed state, byte for byte."""
    model = Linear(12, bias=0)
    replica, rounds, committed = Replica([model], ranks), [], 0
    for number in range(data.draw(st.integers(1, 4))):
        made = {}
        for rank in range(ranks):
            other = Linear(12, bias=0)
            other.load(replica.committed.state())
            other.learn(stream(100 * number + rank, rows=5))
            made[rank] = other.update()
        rounds.append(made)
        for rank in data.draw(st.permutations(range(ranks))):
            replica.add(number, rank, made[rank])
        if data.draw(st.booleans()):
            while committed <= number:
                replica.commit(committed)
                committed += 1
        replica.refresh()
        want = Linear(12, bias=0)
        for k in range(committed):
            want.merge(combine([rounds[k][r] for r in range(ranks)]), ranks)
        rest = [rounds[k][r] for k in range(committed, number + 1) for r in range(ranks)]
        if rest:
            want.merge(combine(rest), ranks)
        assert model.state()["model/linear"].data.tobytes() == want.state()["model/linear"].data.tobytes()
    replica.refresh(settled=True)
    assert model.state()["model/linear"].data.tobytes() == replica.committed.state()["model/linear"].data.tobytes()
