"""Each stage against its definition on the rows before, on any cut of the stream, merged over ranks, and saved."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clean.fitted import advance, since
from engine.clean.number import quantiles
from engine.clean.pipeline import open_pipeline
from engine.comm.local import group
from engine.errors import ConfigError
from engine.kernels import _native
from engine.types import Batch, Block, Schema

NAMES = ("a", "b", "c")
SCHEMA = Schema(3, False, "binary", (), NAMES)


def rows(n=400, seed=0, gaps=0.1):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, 3)) * [1, 10, 0.1] + [0, 5, -1]).astype(np.float32)
    x[rng.random(x.shape) < gaps] = np.nan
    return Batch(rng.integers(0, 2, n).astype(np.float32), np.arange(n), np.full(n, np.nan, np.float32), x=x)


def before(x, i, fold, empty):
    """`fold` of each column's values of the rows before row i."""
    return np.array([fold(col[~np.isnan(col)]) if (~np.isnan(col)).any() else empty for col in x[:i].astype(np.float64).T])


def mean(x, i):
    return before(x, i, np.mean, 0.0)


def standard(x, i):
    sd = before(x, i, np.std, 1.0)
    return (x[i] - mean(x, i)) / np.where(sd > 0, sd, 1)


def last(x, i):
    return before(x, i, lambda v: v[-1], 0.0)


def unit(x, i):
    low, high = before(x, i, np.min, np.inf), before(x, i, np.max, -np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        at = np.where(high > low, (x[i] - low) / (high - low), 0.5)
    return np.where(np.isnan(x[i]), np.nan, np.clip(at, 0, 1))


def clipped(x, i):
    m, sd, n = mean(x, i), before(x, i, np.std, 0.0), (~np.isnan(x[:i])).sum(0)
    far = (n >= 1e9) & (np.abs(x[i] - m) > 4 * sd)
    return np.where(far, m, x[i])


def filled(x, i, fill):
    return np.where(np.isnan(x[i]), fill, x[i])


def lagged(x, i):
    return np.concatenate([x[i], *(x[i - k] if i >= k else np.zeros(3) for k in (1, 2))])


def rolled(x, i):
    part = x[max(0, i - 5) : i]
    return np.concatenate([x[i], before(part, 5, np.mean, 0.0), before(part, 5, np.std, 0.0)])


DEFINED = [
    ("impute?how=mean", lambda x, i: filled(x, i, mean(x, i))),
    ("impute?how=last", lambda x, i: filled(x, i, last(x, i))),
    ("impute?how=constant&value=7", lambda x, i: filled(x, i, 7.0)),
    ("impute?how=constant&flag=true", lambda x, i: np.concatenate([filled(x, i, 0.0), np.isnan(x[i])])),
    ("scale", standard), ("scale?how=minmax", unit), ("outliers?least=1000000000", clipped),
    ("lag?k=2", lagged), ("rolling?window=5", rolled),
    ("range?low=-1&high=6", lambda x, i: np.clip(x[i], -1, 6)),
    ("range?low=-1&high=6&how=missing", lambda x, i: np.where((x[i] < -1) | (x[i] > 6), np.nan, x[i])),
    ("interactions", lambda x, i: np.concatenate([x[i], [x[i][0] * x[i][1], x[i][0] * x[i][2], x[i][1] * x[i][2]]])),
    ("onehot?columns=a&values=0+1", lambda x, i: np.array([x[i][1], x[i][2], x[i][0] == 0, x[i][0] == 1,
                                                           not np.isnan(x[i][0]) and x[i][0] not in (0, 1)])),
]


@pytest.mark.parametrize(("spec", "meaning"), DEFINED, ids=[spec for spec, _ in DEFINED])
def test_a_row_comes_out_as_the_rows_before_it_say(spec, meaning):
    batch = rows(120)
    if "onehot" in spec:
        batch.x[:, 0] = np.round(batch.x[:, 0])
    pipeline = open_pipeline([spec], SCHEMA)
    out = pipeline.learn(batch)
    want = np.array([meaning(batch.x, i) for i in range(len(batch))])
    np.testing.assert_allclose(out.x, want.astype(np.float32), rtol=2e-5, atol=1e-6)
    assert pipeline.schema.width == out.x.shape[1] == len(pipeline.schema.columns)


STAGES = ["impute?how=mean", "impute?how=median", "impute?how=last", "impute?flag=true&columns=b", "scale", "scale?how=robust",
          "scale?how=minmax", "outliers?z=2", "lag?k=3", "rolling?window=4", "pca?k=2&every=40", "hash?bits=8&columns=a",
          "hash?bits=8;frequent?least=3&bits=10", "project?k=5"]
EXACT = [s for s in STAGES if "median" not in s and "robust" not in s and "pca" not in s]


@settings(max_examples=25)
@given(st.sampled_from(EXACT), st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_where_the_stream_is_cut_changes_nothing(spec, cuts):
    batch = rows(60)
    whole = open_pipeline(spec.split(";"), SCHEMA).learn(batch)
    pipeline, parts = open_pipeline(spec.split(";"), SCHEMA), []
    for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        parts.append(pipeline.learn(batch.slice(low, high)))
    if whole.x is not None:
        np.testing.assert_array_equal(np.concatenate([p.x for p in parts]), whole.x)
    else:
        np.testing.assert_array_equal(np.concatenate([p.keys for p in parts]), whole.keys)


@pytest.mark.parametrize("spec", STAGES)
def test_a_saved_stage_goes_on_to_the_bit(spec):
    batch = rows(200)
    whole = open_pipeline(spec.split(";"), SCHEMA)
    first = open_pipeline(spec.split(";"), SCHEMA)
    whole.learn(batch.slice(0, 100))
    first.learn(batch.slice(0, 100))
    again = open_pipeline(spec.split(";"), SCHEMA)
    again.load(first.state())
    a, b = whole.learn(batch.slice(100, 200)), again.learn(batch.slice(100, 200))
    for name in ("x", "keys", "values"):
        if getattr(a, name) is not None:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    held = again.state()
    again.transform(batch)
    for path, block in again.state().items():
        np.testing.assert_array_equal(block.data, held[path].data)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("spec", STAGES)
def test_ranks_end_with_one_state_and_it_is_that_of_one_rank(spec, size):
    batch, block, turns = rows(300), 20, 300 // 20 // size

    def work(link):
        pipeline = open_pipeline(spec.split(";"), SCHEMA)
        for turn in range(turns):
            start = (turn * size + link.rank) * block
            pipeline.learn(batch.slice(start, start + block))
            pipeline.exchange(link)
        return pipeline.state(), pipeline.transform(batch.slice(0, 10))

    with ThreadPoolExecutor(size) as pool:
        ends = list(pool.map(work, group(size, timeout_s=30)))
    one = open_pipeline(spec.split(";"), SCHEMA)
    one.learn(batch.slice(0, turns * size * block))
    for state, out in ends:
        for path, found in state.items():
            np.testing.assert_array_equal(found.data, ends[0][0][path].data)
            if "outliers" not in spec and "axes" not in path and "centre" not in path and "made" not in path:
                np.testing.assert_allclose(found.data, one.state()[path].data, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(out.x if out.x is not None else out.keys,
                                      ends[0][1].x if out.x is not None else ends[0][1].keys)


def test_every_instruction_set_gives_the_same_bits():
    x = rows(64).x
    for call, shape in ((_native.clean_standard, (3, 3)), (_native.clean_minmax, (2, 3))):
        found = []
        for isa in _native.isa_runs():
            held, out = np.zeros(shape), np.empty_like(x)
            call(x, held, True, out, isa=isa)
            found.append((held, out))
        for held, out in found[1:]:
            np.testing.assert_array_equal(held, found[0][0])
            np.testing.assert_array_equal(out, found[0][1])


@settings(max_examples=50)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=300), st.floats(0.01, 0.99))
def test_a_sketch_finds_quantiles_within_its_bin(values, q):
    counts = np.zeros((1, 16384))
    _native.clean_sketch(np.array(values, np.float32)[:, None], counts)
    found = float(quantiles(counts, q, np.zeros(1))[0])
    near = np.quantile(np.array(values, np.float32).astype(np.float64), q, method="inverted_cdf")
    assert abs(found - near) <= 0.032 * abs(near) + 1e-38


def test_moments_of_parts_are_those_of_the_whole():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(90, 4)) + 1e3

    def held(part):
        return np.stack([np.full(4, float(len(part))), part.mean(0), part.var(0) * len(part)])

    base = held(x[:30])
    total = sum(since(base, held(np.concatenate([x[:30], part]))) for part in (x[30:50], x[50:90]))
    np.testing.assert_allclose(advance(base, total), held(x), rtol=1e-9)


def test_outliers_are_clipped_dropped_or_made_missing_and_counted():
    batch = rows(300, gaps=0)
    batch.x[200, 1] = 1e6
    for how in ("clip", "missing", "drop"):
        pipeline = open_pipeline([f"outliers?z=6&how={how}"], SCHEMA)
        out = pipeline.learn(batch)
        assert pipeline.stats() == {"outliers.out": 1}
        if how == "drop":
            assert len(out) == 299 and 200 not in out.order
        else:
            assert np.isnan(out.x[200, 1]) if how == "missing" else 0 < out.x[200, 1] < 100


def test_hashing_counts_collisions_and_keeps_values():
    pipeline = open_pipeline(["hash?bits=4&columns=a"], SCHEMA)
    batch = rows(200, gaps=0)
    out = pipeline.learn(batch)
    assert out.sparse and pipeline.schema.width == 16 and out.keys.max() < 16
    assert pipeline.stats()["hash.entries"] == 600 and pipeline.stats()["hash.collisions"] > 100
    wide = open_pipeline(["hash?bits=20"], SCHEMA)
    wide.learn(batch)
    assert wide.stats()["hash.collisions"] == 0


def test_components_are_those_of_all_rows_before():
    batch = rows(2000, gaps=0)
    pipeline = open_pipeline(["pca?k=2&every=500"], SCHEMA)
    for start in range(0, 2000, 100):
        pipeline.learn(batch.slice(start, start + 100))
    axes = np.linalg.eigh(np.cov(batch.x.T.astype(np.float64), bias=True))[1][:, ::-1][:, :2]
    found = pipeline.state()["clean/0/axes"].data
    np.testing.assert_allclose(found.T @ found, np.eye(2), atol=1e-9)
    np.testing.assert_allclose(found @ found.T, axes @ axes.T, atol=1e-6)  # the same span


def test_components_turn_no_further_than_their_span_and_are_the_same_on_all_ranks():
    batch, every = rows(4000, gaps=0), 300
    parts = [open_pipeline([f"pca?k=2&every={every}"], SCHEMA) for _ in range(3)]
    before = None
    for start in range(0, 4000, 400):
        for place, part in enumerate(parts):
            part.learn(batch.take(np.arange(start + place, start + 400, 3)))
        total = parts[0].update()
        for part in parts[1:]:
            total = {name: Block(total[name].data + block.data, block.columns) for name, block in part.update().items()}
        for part in parts:
            part.merge(total, 3)
        states = [part.state()["clean/0/axes"].data for part in parts]
        assert all(state.tobytes() == states[0].tobytes() for state in states)
        if start >= 1600:  # settled: each new axis lies close to the old one
            assert (np.abs((before * states[0]).sum(0)) > 0.99).all()
        before = states[0]


@pytest.mark.parametrize(("spec", "said"), [("impute?how=mode", "expected one of"), ("scale?columns=z", "expected a column"),
                                            ("lag?k=0", "expected 1"), ("frequent", "after hash"), ("pca?k=9", "1 <= k"),
                                            ("scale?nope=1", "unexpected keyword"), ("onehot", "columns and values")])
def test_mistakes_are_named(spec, said):
    with pytest.raises(ConfigError) as error:
        open_pipeline([spec], SCHEMA)
    assert said in str(error.value)
