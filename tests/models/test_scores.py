"""The law of `Model.learn`: a row is scored before it is learned, for every kind and task."""
from dataclasses import replace

import numpy as np
import pytest

from engine import job
from engine.config import resolve
from engine.errors import ConfigError, DataError
from engine.models import registry
from engine.types import Batch, Schema

KINDS = sorted(set(registry.HOME) - {"torch", "jax", "sklearn"})
ROW_BY_ROW = {"linear", "softmax", "mlp", "factor", "tree", "bayes"}  # the others score a chunk before they learn it
LABELS = {"binary": ("0", "1"), "multiclass": ("0", "1", "2"), "regression": ()}


def rows(task, sparse, n=200):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    margin = x[:, 0] - x[:, 1]
    y = {"binary": margin > 0, "multiclass": np.digitize(margin, [-0.7, 0.7]), "regression": margin}[task].astype(np.float32)
    if not sparse:
        return Batch(y, np.arange(n), np.full(n, np.nan, np.float32), x=x)
    keys = np.tile(np.arange(4, dtype=np.uint32), n)
    return Batch(y, np.arange(n), np.full(n, np.nan, np.float32), indptr=np.arange(n + 1, dtype=np.int64) * 4, keys=keys,
                 values=x.ravel())


def made(kind, task, sparse):
    config = resolve(env={}, overrides=[f"model.kind={kind}", "update.batch=1"] if kind in registry.GRADED else
                     [f"model.kind={kind}"])
    return job.build(config, Schema(4, sparse, task, LABELS[task]), tracked=False)


@pytest.fixture(params=[(kind, task, sparse) for kind in KINDS for task in LABELS for sparse in (False, True)],
                ids=lambda p: f"{p[0]}-{p[1]}-{'sparse' if p[2] else 'dense'}")
def case(request):
    """Kind, rows, and a maker of equal models; skips what a kind says it does not take."""
    kind, task, sparse = request.param
    batch = rows(task, sparse)
    try:
        made(kind, task, sparse).learn(batch)
    except (ConfigError, DataError) as why:
        pytest.skip(str(why))
    return kind, batch, lambda: made(kind, task, sparse)


def test_a_score_does_not_know_its_own_label_nor_later_ones(case):
    _, batch, make = case
    scores = make().learn(batch)
    other = replace(batch, y=batch.y.copy())
    other.y[150:] = np.roll(other.y[150:], 1)
    changed = make().learn(other)
    np.testing.assert_array_equal(changed[:151], scores[:151])
    assert len(np.unique(scores[64:].round(5), axis=0)) > 5


def test_scores_are_those_before_the_row_is_learned(case):
    kind, batch, make = case
    if kind not in ROW_BY_ROW:
        pytest.skip("it scores a chunk at a time")
    whole, single, before = make(), make(), []
    scores = whole.learn(batch)
    for i in range(len(batch)):
        row = batch.slice(i, i + 1)
        before.append(single.predict(row)[0])
        single.learn(row)
    np.testing.assert_allclose(scores, np.array(before, np.float32), rtol=1e-4, atol=1e-5)
