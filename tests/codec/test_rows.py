"""Row blocks: exact for every dtype, bounded where asked, smaller than blosc2 on a series, refused where damaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec import pack
from engine.codec.delta import delta_encode
from engine.codec.frame import DTYPES, decode_frame, numpy_dtype
from engine.codec.rows import PACKED, RAW, SERIES, rows_decode, rows_encode
from engine.errors import FrameError
from engine.kernels import _native

SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 1e-40, 3e38, 2.0**51]


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def column(how, n, dtype, seed):
    draw = np.random.default_rng(seed)
    data = {
        "walk": lambda: np.round(np.cumsum(draw.standard_normal(n)) + 20, 2),
        "noise": lambda: draw.standard_normal(n) * 1e3,
        "clock": lambda: 1.7e9 + 10 * np.arange(n),
        "still": lambda: np.full(n, 21.5),
        "steps": lambda: np.where(draw.random(n) < 0.02, draw.integers(0, 99, n), 0),
        "odd": lambda: draw.choice([*SPECIAL, 1.25, 7.5], n),
        "class": lambda: draw.integers(0, 3, n),
    }[how]()
    with np.errstate(all="ignore"):
        return data.astype(numpy_dtype(dtype))


@settings(max_examples=80)
@given(st.sampled_from(DTYPES[1:]), st.sampled_from(["walk", "noise", "clock", "still", "steps", "odd", "class"]),
       st.sampled_from([0, 1, 2, 3, 100, 5000, 66_000]), st.integers(0, 9), st.booleans())
def test_exact(dtype, how, n, seed, fast):
    given_ = {"a": column(how, n, dtype, seed), "é": np.arange(n)}
    got = rows_decode(rows_encode(given_, fast=fast))
    assert list(got) == list(given_) and all(same(got[key], given_[key]) for key in given_)


@given(st.integers(0, 40), st.integers(0, 5), st.sampled_from(["float32", "int64", "bool"]), st.booleans())
def test_tables(n, d, dtype, turned):
    table = np.random.default_rng(1).integers(0, 2, (n, d)).astype(dtype)
    table = np.asfortranarray(table) if turned else table
    got = rows_decode(rows_encode({"x": table, "y": np.zeros(n, np.float32)}))
    assert same(got["x"], np.ascontiguousarray(table)) and len(got["y"]) == n


@settings(max_examples=40)
@given(st.sampled_from(["float32", "float64"]), st.sampled_from(["walk", "noise", "clock", "odd"]), st.integers(1, 3000),
       st.sampled_from([1e-6, 0.01, 1.0, 1e30]), st.integers(0, 9))
def test_the_bound_holds(dtype, how, n, bound, seed):
    data = column(how, n, dtype, seed)
    got = rows_decode(rows_encode({"a": data, "k": np.arange(n)}, bound={"a": bound}))
    with np.errstate(all="ignore"):
        miss = np.abs(got["a"].astype(np.longdouble) - data.astype(np.longdouble))
    exact = (got["a"].view(np.uint8) == data.view(np.uint8)).reshape(n, -1).all(axis=1)
    assert np.all((miss < bound) | exact) and np.array_equal(got["k"], np.arange(n))


def series(n=60_000):
    return {"time": column("clock", n, "int64", 0), "t": column("walk", n, "float32", 1), "p": column("walk", n, "float64", 2)}


def test_a_series_is_smaller_than_packed_and_a_bound_pays():
    data = series()
    frame = rows_encode(data)
    packed = sum(len(pack.pack_encode(one, one.itemsize)) for one in data.values())
    assert len(frame) < 0.9 * packed and all(chunk.mode == SERIES for chunk in decode_frame(frame).chunks)
    assert len(rows_encode(data, bound=0.5)) < 0.6 * len(frame)


def test_each_column_takes_its_way():
    n = 20_000
    draw = np.random.default_rng(0)
    words = draw.integers(0, 2**63, 7)[np.arange(n) % 7]
    frame = rows_encode({"words": words, "noise": draw.integers(0, 2**63, n), "clock": column("clock", n, "int64", 0)})
    assert [chunk.mode for chunk in decode_frame(frame).chunks] == [PACKED, RAW, SERIES]


@pytest.mark.parametrize("how", ["walk", "noise", "clock", "steps", "odd"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_every_path_gives_the_same_bytes(how, dtype):
    kind = {"float32": 6, "float64": 7, "int32": 2}[dtype]
    data = column(how, 70_001, dtype, 3).view(np.uint8)
    for bound in (0.0, 0.1) if dtype != "int32" else (0.0,):
        bodies = []
        for isa in _native.isa_runs():
            out = np.empty(3 * len(data), np.uint8)
            bodies.append(out[: _native.series_encode(kind, data, bound, out, isa=isa)])
        assert all(np.array_equal(body, bodies[0]) for body in bodies) and len(bodies[0])
        made = [np.empty_like(data) for _ in bodies]
        for isa, one in zip(_native.isa_runs(), made, strict=True):
            _native.series_decode(kind, bodies[0], one, isa=isa)
        assert all(np.array_equal(one, made[0]) for one in made)


def test_some_columns_only():
    got = rows_decode(rows_encode(series(500)), names={"p"})
    assert list(got) == ["p"] and same(got["p"], series(500)["p"])
    assert rows_decode(rows_encode({})) == {}


def test_damage_is_refused():
    frame = rows_encode(series(3000))
    draw = np.random.default_rng(5)
    for _ in range(300):
        bad = frame.copy()
        bad[draw.integers(len(bad))] ^= 1 << draw.integers(8)
        with pytest.raises(FrameError):
            rows_decode(bad)
        with pytest.raises(FrameError):
            rows_decode(frame[: draw.integers(len(frame))])
    data = series(3000)["t"].view(np.uint8)
    out = np.empty(len(data), np.uint8)
    body = out[: _native.series_encode(6, data, 0.0, out)]
    for _ in range(2000):
        bad = body.copy()
        bad[draw.integers(len(bad))] ^= 1 << draw.integers(8)
        try:
            _native.series_decode(6, bad[: draw.integers(len(bad)) if draw.random() < 0.3 else None], np.empty_like(data))
        except ValueError:
            continue


def test_bad_arguments():
    for columns, said in [
        ({"a": np.zeros(3), "b": np.zeros(4)}, r"a \[3\], b \[4\]"),
        ({"a": np.zeros((2, 2, 2))}, "expected arrays"),
        ({"a": np.zeros(3, complex)}, "dtype complex"),
        ({"a": np.zeros(3, "S4")}, "dtype"),
    ]:
        with pytest.raises(ValueError, match=said):
            rows_encode(columns)
    with pytest.raises(FrameError, match="frame of rows"):
        rows_decode(delta_encode(np.zeros(3), None))
