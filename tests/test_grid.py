"""A linear model whose columns lie on different ranks is the model of one rank; row parts of a grid merge as replicas do."""
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import grid
from engine.comm.local import Alone, group
from engine.comm.part import part
from engine.config import resolve
from engine.errors import ConfigError, DataError, EngineError
from engine.guard import Guard
from engine.models.linear import RATE, Linear
from engine.shard.layout import Columns
from engine.source.array import from_arrays
from engine.source.table import open_table
from engine.train import train
from engine.types import Batch, Schema

LOSS = {"pa1": "hinge", "pa2": "epsilon", "sgd": "squared", "nag": "quantile"}


def drawn(n, width, sparse, classes=1, seed=0):
    draw = np.random.default_rng(seed)
    x = (draw.normal(size=(n, width)) * (draw.random((n, width)) < 0.5)).astype(np.float32)
    y = (x @ draw.normal(size=width) + draw.normal(size=n) > 0).astype(np.float32)
    if classes > 1:
        y = draw.integers(0, classes, n).astype(np.float32)
    order, previous = np.arange(n), np.zeros(n, np.float32)
    if not sparse:
        return Batch(y, order, previous, x=x)
    rows, keys = np.nonzero(x)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))]).astype(np.int64)
    return Batch(y, order, previous, indptr=indptr, keys=keys.astype(np.uint32), values=x[rows, keys])


def on_ranks(size, act):
    """act(link) on so many logical ranks; what each returned."""
    links, found = group(size) if size > 1 else [Alone()], [None] * size

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


def cut(link, schema, options, rule="columns", lot=1):
    at = grid.shape(rule, link.size, link.rank, schema)

    def make(mine, bias):
        scale = options.get("scale", False)
        return Linear(mine.width, **{**options, "bias": float(bias), "scale": scale, "tracked": at.parts > 1})

    return grid.Grid(link, at, schema, make, lot=lot)


@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from([1, 2, 3, 5]), sparse=st.booleans(), scale=st.booleans(), classes=st.sampled_from([1, 1, 3]),
       learner=st.sampled_from(sorted(RATE)), batch=st.sampled_from([0, 0, 7]), n=st.integers(0, 90))
def test_columns_on_ranks_learn_what_one_rank_learns(size, sparse, scale, classes, learner, batch, n):
    batch = batch if learner in ("sgd", "adagrad", "ftrl") and classes == 1 else 0
    options = {"learner": learner, "classes": classes, "batch": batch, "scale": scale and not sparse and not batch,
               "loss": LOSS.get(learner, "logistic") if classes == 1 else "hinge"}
    rows, schema = drawn(n, 11, sparse, classes), Schema(11, sparse, "binary")
    rows.y[3::9] = np.nan
    one = Linear(11, **options)
    scores, state = one.learn(rows), one.state()

    def act(link):
        team = cut(link, schema, options)
        mine = team.at.columns.take(rows, team.at.group)
        before = team.state()
        part, found = team.learn(mine, n)
        learned = team.state()
        fresh = cut(link, schema, options)
        fresh.load(learned)
        again = fresh.state()
        return part.order, found, before, learned, again

    found = on_ranks(size, act)
    assert np.concatenate([order for order, *_ in found]).tolist() == list(range(n))
    assert np.allclose(np.concatenate([part for _, part, *_ in found]), scores, atol=1e-5, rtol=1e-5)
    for _, _, before, learned, again in found:
        assert set(learned) == set(state)
        for path, block in state.items():
            assert not before[path].data.any()
            assert np.allclose(learned[path].data, block.data, atol=1e-5, rtol=1e-4), path
            assert np.array_equal(learned[path].data, again[path].data)


def test_a_lot_is_stale_by_its_rows_and_no_more():
    rows, schema, options = drawn(64, 6, False), Schema(6, False, "binary"), {"learner": "sgd", "loss": "squared"}

    def act(link):
        team = cut(link, schema, options, lot=8)
        return team.learn(team.at.columns.take(rows, team.at.group), 64)[1]

    found, one, base = np.concatenate(on_ranks(2, act)), Linear(6, **options), []
    for low in range(0, 64, 8):
        base.append(one.predict(rows.slice(low, low + 8)))
        for i in range(low, low + 8):  # each row's step along the slope of its stale score
            slope = base[-1][i - low] - rows.y[i]
            one._block[:6, 0] -= 0.05 * slope * rows.x[i]
            one._block[6, 0] -= 0.05 * slope
    assert np.allclose(found, np.concatenate(base), atol=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_parts_of_ranks_meet_among_themselves(sparse):
    def act(link):
        mine = part(link, link.rank % 2, name="halves")
        return link.rank % 2, mine.rank, mine.size, mine.allreduce(np.array([link.rank]), name="ranks")[0]

    assert on_ranks(5, act) == [(0, 0, 3, 6), (1, 0, 2, 4), (0, 1, 3, 6), (1, 1, 2, 4), (0, 2, 3, 6)]


@pytest.mark.parametrize("width", [1, 7, 64])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_cyclic_columns_need_no_table(width, groups):
    if groups > width:
        return
    columns, rows = Columns(width, groups, by="cyclic"), drawn(40, width, True)
    taken = [columns.take(rows, g) for g in range(groups)]
    whole = np.zeros((40, width))
    for g, one in enumerate(taken):
        assert one.keys.max(initial=0) < len(columns.of(g))
        place = np.repeat(np.arange(40), np.diff(one.indptr))
        whole[place, columns.of(g)[one.keys]] += one.values
    assert np.array_equal(whole, drawn(40, width, False).x)
    assert sorted(np.concatenate([columns.of(g) for g in range(groups)])) == list(range(width))


def test_a_rank_reads_its_columns_alone(tmp_path):
    source = from_arrays(drawn(50, 6, False).x, np.arange(50) % 2, piece_rows=20)
    mine = source.narrow(np.array([2, 3, 4]))
    assert (mine.schema.width, mine.pieces) == (3, 3)
    assert np.array_equal(next(iter(mine.read(1))).x, next(iter(source.read(1))).x[:, 2:5])
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    path = str(tmp_path / "rows.parquet")
    pq.write_table(pa.table({name: np.arange(9.0) + i for i, name in enumerate("abcdy")}), path)
    whole = open_table(path, lambda p: [p], target=None, columns=(), where="d>5", task="regression", labels=None,
                       missing="zero")
    part, asked = whole.narrow(np.array([1, 2])), []
    read = part._files[0].columns
    part._files[0].columns = lambda i, names: asked.append(list(names)) or read(i, names)
    assert np.array_equal(next(part.read(0)).x, next(whole.read(0)).x[:, 1:3])
    assert asked[0] == ["b", "c", "y", "d"]  # "d" is what rows are chosen by


@pytest.mark.parametrize(("rule", "size", "parts", "groups"), [
    ("columns", 3, 1, 3), ("grid", 4, 2, 2), ("grid", 6, 2, 3), ("grid", 5, 1, 5), ("grid:3x2", 6, 3, 2)])
def test_a_rule_names_a_grid(rule, size, parts, groups):
    found = [grid.shape(rule, size, rank, Schema(8, False, "binary")) for rank in range(size)]
    assert {(at.parts, at.columns.groups) for at in found} == {(parts, groups)}
    assert [(at.part, at.group) for at in found] == [divmod(rank, groups) for rank in range(size)]


@pytest.mark.parametrize(("settings", "said"), [
    (["model.kind=mlp"], "found model.kind=mlp"), (["model.interactions=true"], "found model.interactions"),
    (["clean.stages=scale"], "found stages scale"), (["exchange.mode=ssp:2"], "found another exchange"),
    (["exchange.split=keys"], "found another exchange"), (["loop.threads=2"], "one worker a rank, found 2"),
    (["data.rule=grid:2x2"], "expected 1 ranks in all, found 2 x 2 = 4"), (["update.drift=adwin"], "no rank holds the whole"),
    (["data.rule=grid:0x2"], "expected deal, hash"), (["fault.memory=on"], "no rank holds the whole"),
])
def test_what_columns_cannot_learn_is_named(settings, said):
    with pytest.raises(EngineError, match=said):
        train(resolve(env={}, overrides=["data.source=make:sea?rows=500", "data.rule=columns", "run.dir=-", "run.quiet=true",
                                         "loop.threads=1", *settings]), Guard())


@pytest.mark.parametrize(("act", "kind", "said"), [
    (lambda: Columns(4, 2, by="magic"), ConfigError, "expected hash, range or cyclic"),
    (lambda: Columns(4, 2, by="cyclic").take(drawn(3, 5, True), 0), DataError, "expected keys below 4"),
])
def test_bad_input_is_named(act, kind, said):
    with pytest.raises(kind, match=said):
        act()
