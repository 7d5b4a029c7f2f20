"""What every model promises: resume, the same bits on all replicas, merging in any order, and defined answers to bad rows."""
import numpy as np
import pytest

from engine.errors import DataError, EngineError, ShardError, StoreError
from engine.models import registry
from engine.models.cluster import Kmeans
from engine.models.factor import Factor
from engine.models.forest import Forest
from engine.models.stats import Bayes, Ridge
from engine.types import Batch, Schema
from engine.update.drift import Adwin
from engine.update.merge import combine
from engine.update.policy import parse

MADE = {
    "tree": lambda **o: Forest(4, 3, grace=20, delta=0.1, **o),
    "forest": lambda **o: Forest(4, 3, trees=3, grace=20, delta=0.1, detect=Adwin, **o),
    "bayes": lambda **o: Bayes(4, 3, **o),
    "ridge": lambda **o: Ridge(4, 3, task="multiclass", **o),
    "ridge.faded": lambda **o: Ridge(4, 3, task="multiclass", half_life=100, **o),
    "kmeans": lambda **o: Kmeans(4, 5, outputs=3, **o),
    "kmeans.faded": lambda **o: Kmeans(4, 5, outputs=3, half_life=200, **o),
    "factor": lambda **o: Factor(4, loss="squared", **o),
    "factor.aware": lambda **o: Factor(4, loss="squared", fields=4, **o),
}
CLASSES = 3
WITHOUT = {"factor", "factor.aware"}  # one output


def rows(seed, n=64, first=0, d=4):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    y = np.digitize(x[:, 0] + 0.3 * x[:, 1], [-0.5, 0.5]).astype(np.float32)
    return Batch(y, np.arange(first, first + n), np.full(n, np.nan, np.float32), x=x)


def whole(parts):
    from engine.types import join

    return join(parts)


def same(a, b, atol=0.0):
    sa, sb = a.state(), b.state()
    assert sa.keys() == sb.keys()
    for path in sa:
        np.testing.assert_allclose(sa[path].data, sb[path].data, rtol=atol, atol=atol, err_msg=path)


def exchange(team):
    total = combine([m.update() for m in team])
    for m in team:
        m.merge(total, len(team))


every = pytest.mark.parametrize("name", list(MADE))


@every
@pytest.mark.parametrize("tracked", [False, True])
def test_resume_is_uninterrupted(name, tracked):
    make, batch = MADE[name], rows(1, 512)
    one, first = make(tracked=tracked), make(tracked=tracked)
    for m in (one, first):
        m.learn(batch.slice(0, 256))
        if tracked:
            exchange([m])
    again = make(tracked=tracked)
    again.load(first.state())
    np.testing.assert_array_equal(again.learn(batch.slice(256, 512)), one.learn(batch.slice(256, 512)))
    if tracked:
        exchange([one])
        exchange([again])
    same(again, one)
    assert again.predict(batch).shape == ((512,) if name in WITHOUT else (512, CLASSES))


@every
def test_replicas_hold_the_same_bits_after_a_merge(name):
    first = MADE[name]()
    team = [first, first.fork(), first.fork()]
    for step in range(6):
        for i, m in enumerate(team):
            m.learn(rows(step * 3 + i, 40, (step * 3 + i) * 40))
        exchange(team)
        same(team[0], team[1])
        same(team[0], team[2])


@every
def test_merge_commutes(name):
    first = MADE[name]()
    team = [first, first.fork()]
    for i, m in enumerate(team):
        m.learn(rows(i, 60, i * 60))
    a, b = MADE[name](), MADE[name]()
    a.merge(combine([m.update() for m in team]), 2)
    b.merge(combine([m.update() for m in team[::-1]]), 2)
    same(a, b)


@every
def test_one_replica_alone_keeps_what_it_learned(name):
    m, free = MADE[name](), MADE[name]()
    m.learn(rows(3, 100))
    free.learn(rows(3, 100))
    exchange([m])
    if name not in ("tree", "forest"):  # trees that exchange split at the merge
        same(m, free, 2e-6 if name.startswith("factor") else 1e-12)
    with pytest.raises(ShardError, match="track"):
        MADE[name](tracked=False).update()


@pytest.mark.parametrize("name", ["bayes", "ridge"])
def test_split_then_merge_is_one_pass(name):
    one = MADE[name]()
    parts = [rows(9 + i, 50, i * 50) for i in range(8)]
    team = [one.fork() for _ in range(8)]
    for m, part in zip(team, parts, strict=True):
        m.learn(part)
    one.learn(whole(parts))
    total = combine([m.update() for m in team])
    team[0].merge(total, 8)
    same(team[0], one, 1e-12)


def test_trees_grow_the_same_way_on_one_replica_and_on_four():
    one = Forest(4, 3, grace=100, delta=0.1)
    team = [one.fork() for _ in range(4)]
    for step in range(20):
        parts = [rows(step * 4 + i, 50, (step * 4 + i) * 50) for i in range(4)]
        for m, part in zip(team, parts, strict=True):
            m.learn(part)
        one.learn(whole(parts))
        exchange(team)
        exchange([one])
    a, b = one.state(), team[0].state()
    assert len(a["model/tree/0000/feature"].data) > 5
    np.testing.assert_array_equal(a["model/tree/0000/feature"].data, b["model/tree/0000/feature"].data)
    np.testing.assert_allclose(a["model/tree/0000/value"].data, b["model/tree/0000/value"].data, rtol=1e-9)


@every
def test_bad_rows_are_scored_and_never_learned(name):
    batch = rows(5, 60)
    batch.x[7, 2], batch.x[9, 0], batch.y[11] = np.nan, np.inf, np.nan
    m, clean = MADE[name](tracked=False), MADE[name](tracked=False)
    with np.errstate(all="ignore"):
        scores = m.learn(batch)
    keep = np.setdiff1d(np.arange(60), [7, 9] if name.startswith("kmeans") else [7, 9, 11])
    assert len(scores) == 60 and m.bad == 2
    for block in m.state().values():
        if block.data.dtype.kind == "f":
            assert not np.isinf(block.data).any()
    clean.learn(batch.take(keep))
    if not name.endswith("faded"):  # how much fades hangs on how rows fall into chunks
        same(m, clean, 1e-9)
    with pytest.raises(DataError):
        m.learn(rows(1, 8, d=6))


@every
def test_labels_all_equal_and_empty_partitions_do_no_harm(name):
    batch = rows(6, 300)
    batch.y[:] = 1
    m = MADE[name]()
    idle = m.fork()
    assert len(m.learn(batch.slice(0, 0))) == 0
    m.learn(batch)
    exchange([m, idle])
    same(m, idle)
    scores = m.predict(rows(7, 20))
    assert np.isfinite(scores).all()
    if name not in WITHOUT:
        assert (scores.argmax(1) == 1).all()


@pytest.mark.parametrize("name", [n for n in MADE if n not in WITHOUT])
def test_a_class_the_model_has_not_is_refused(name):
    batch = rows(6, 8)
    batch.y[3] = 3
    with pytest.raises(DataError, match=r"model\.classes"):
        MADE[name]().learn(batch)


@every
def test_state_of_other_options_is_refused(name):
    other = {"forest": lambda: Forest(5, 3, trees=3), "tree": lambda: Forest(5, 3), "bayes": lambda: Bayes(5, 3),
             "ridge": lambda: Ridge(5, 3), "kmeans": lambda: Kmeans(4, 6, outputs=3), "factor": lambda: Factor(5)}
    state = other[name.split(".")[0]]().state()
    with pytest.raises(StoreError, match="expected"):
        MADE[name]().load(state)


REFUSED = {("factor", "multiclass"), ("tree", "regression"), ("forest", "regression"), ("bayes", "regression")}


@pytest.mark.parametrize(("kind", "task"), [
    (kind, task) for kind in registry.HOME if kind not in ("table", "torch", "jax", "sklearn")
    for task in ("binary", "multiclass", "regression")])
def test_every_kind_is_built_by_name_or_says_why_not(kind, task):
    labels = {"binary": ("0", "1"), "multiclass": ("0", "1", "2"), "regression": ()}[task]
    spec = registry.Spec(Schema(4, False, task, labels), 3 if task == "multiclass" else 1, policy=parse("adam(0.01)"),
                         detect=Adwin)
    if (kind, task) in REFUSED:
        with pytest.raises(EngineError, match="expected"):
            registry.build(kind, spec)
        return
    model = registry.build(kind, spec)
    batch = rows(8, 64)
    if task == "binary":
        batch.y = (batch.y > 0).astype(np.float32)
    scores = model.learn(batch)
    assert scores.shape == ((64, 3) if task == "multiclass" else (64,))
    assert scores.dtype == np.float32
    assert model.link(scores).shape == scores.shape
    model.fork().merge(combine([model.update()]), 1)
