"""Quantisers: every ISA and block split gives the bytes of the NumPy definition; laws of error feedback."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels import _native
from engine.kernels.plain import quant as plain

ISAS = _native.isa_runs()
MODES = list(plain.BITS)
LENGTHS = [0, 1, 15, 63, 64, 65, 127, 1021, 1024, 4099, 9001]


def data(n: int, kind: str = "cube", seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    x = r.standard_normal(n).astype(np.float32)
    made = {
        "gauss": x,
        "cube": x**3,
        "laplace": r.laplace(size=n).astype(np.float32),
        "equal": np.full(n, -0.3, np.float32),
        "zeros90": np.where(r.random(n) < 0.9, 0, x),
        "zeros99": np.where(r.random(n) < 0.99, 0, x),
        "spike": np.eye(1, n, n // 2, dtype=np.float32)[0] * 7,
        "tiny": x * np.float32(1e-41),
        "none": x * 0,
    }
    return made[kind].astype(np.float32)


def shifted(x: np.ndarray, offset: int = 1) -> np.ndarray:
    """The same floats `offset` bytes after an aligned address... a float past one, as NumPy wants whole items."""
    room = np.empty(len(x) + offset, np.float32)
    room[offset:] = x
    return room[offset:]


def encode(run, mode, g, e, block, key=77, counter=0, **isa):
    e = shifted(e)
    out, scales = np.zeros(plain.payload_size(mode, len(e)), np.uint8), np.zeros(-(-len(e) // block), np.float32)
    bad = run(mode, g, e, block, out, scales, key, counter, **isa)
    return out, scales, e, bad


def same(left, right) -> bool:
    return all(
        a.tobytes() == b.tobytes() if isinstance(a, np.ndarray) else a == b for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("isa", ISAS)
def test_native_is_plain(mode, isa):
    for n in LENGTHS:
        for kind in ("cube", "equal", "tiny"):
            g, e = data(n, kind), data(n, "gauss", 1) * np.float32(0.1 if kind == "cube" else 0)
            want = encode(plain.quant_encode, mode, g, e, 1024)
            assert same(want, encode(_native.quant_encode, mode, shifted(g, 3), e, 1024, isa=isa)), (n, kind)
            left, right = data(n, "gauss", 2), data(n, "gauss", 2)
            plain.quant_decode_add(mode, *want[:2], 1024, left)
            _native.quant_decode_add(mode, *want[:2], 1024, right, isa=isa)
            assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
def test_block_split_gives_the_same_bytes(mode, isa):
    g, e = data(9001), data(9001, "gauss", 1)
    out, scales, rest, _ = encode(_native.quant_encode, mode, g, e, 1024, counter=1 << 40)
    parts = [
        encode(_native.quant_encode, mode, g[a:b], e[a:b], 1024, counter=(1 << 40) + a, isa=isa)
        for a, b in ((0, 4096), (4096, 9001))
    ]
    for at, whole in enumerate((out, scales, rest)):
        assert np.concatenate([p[at] for p in parts]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_not_finite_is_counted_and_poisons_nothing(mode):
    g, e = data(3000), data(3000, "gauss", 1)
    g[[3, 70, 2999]] = [np.nan, np.inf, -np.inf]
    e[9] = g[9] = 3e38  # overflows in g + e
    for isa in ISAS:
        got = encode(_native.quant_encode, mode, g, e, 1024, isa=isa)
        assert got[3] == 4 and np.isfinite(got[2]).all() and np.isfinite(got[1]).all()
        with np.errstate(over="ignore"):
            assert same(got, encode(plain.quant_encode, mode, g, e, 1024))


@pytest.mark.parametrize("mode", MODES)
def test_largest_values_leave_a_finite_residual(mode):
    g = np.full(1024, np.finfo(np.float32).max, np.float32)
    g[::2] *= -1
    for isa in ISAS:
        got = encode(_native.quant_encode, mode, g, g * 0, 1024, isa=isa)
        assert np.isfinite(got[2]).all() and np.isfinite(got[1]).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["gauss", "cube", "laplace", "zeros90", "zeros99", "spike", "equal", "none"])
def test_mass_is_conserved_and_operator_contracts(mode, kind):
    g = data(8192, kind)
    out, scales, e, _ = encode(_native.quant_encode, mode, g, g * 0, 1024)
    sent = np.zeros_like(g)
    _native.quant_decode_add(mode, out, scales, 1024, sent)
    total = sent.astype(np.float64) + e
    assert np.all(np.abs(total - g) <= np.spacing(np.maximum(np.abs(g), np.abs(sent))))
    limit = 1 + 1e-6 if not mode.endswith("s") else 1 + 1024 / 4 / {8: 127, 4: 7, 2: 1}[plain.BITS[mode]] ** 2
    assert np.sum(e.astype(np.float64) ** 2) <= limit * np.sum(g.astype(np.float64) ** 2)
    if kind in ("gauss", "cube") and not mode.endswith("s"):
        assert np.sum(e.astype(np.float64) ** 2) < 0.97 * np.sum(g.astype(np.float64) ** 2)


@pytest.mark.parametrize("mode", ["int2s", "int4s", "int8s"])
def test_stochastic_rounding_is_unbiased_and_independent(mode):
    n, runs = 1024, 400
    levels = {8: 127, 4: 7, 2: 1}[plain.BITS[mode]]
    g = np.full(n, 0.3 / levels, np.float32)
    g[0] = 1
    hits = np.empty((2, runs, n - 1), bool)
    for stream in range(2):
        for step in range(runs):
            got = encode(_native.quant_encode, mode, g, g * 0, 1024, key=plain.key_of(5, step, stream))
            hits[stream, step] = plain.unpack(got[0], plain.BITS[mode])[1:] > 0
    p = hits.mean()
    assert abs(p - 0.3) < 5 * np.sqrt(0.21 / hits.size)
    z = (hits - 0.3) / np.sqrt(0.21)
    assert np.abs(z.mean(axis=1)).max() < 5.5 / np.sqrt(runs)  # each element
    assert np.abs(z.mean(axis=2)).max() < 5.5 / np.sqrt(n - 1)  # each call: a shared threshold fails by 30 sigma
    for lag in (1, 2, 16, 31, 32, 33, 64):
        assert abs((z[..., lag:] * z[..., :-lag]).mean()) < 5 / np.sqrt(z[..., lag:].size)
    assert abs((z[0] * z[1]).mean()) < 5 / np.sqrt(z[0].size)  # ranks
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 5 / np.sqrt(z[:, 1:].size)  # steps


@pytest.mark.parametrize("mode", list(plain.FORMATS))
@pytest.mark.parametrize("isa", ISAS)
def test_casts_are_plain_and_nearest(mode, isa):
    r = np.random.default_rng(3)
    for n in (0, 1, 17, 4099):
        g = r.integers(0, 2**32, n, dtype=np.uint64).astype(np.uint32).view(np.float32).copy()
        if n > 3:
            g[:2] = np.nan, np.inf
        left, right = np.zeros(n, np.float32), np.zeros(n, np.float32)
        size = n * (1 if mode == "fp8" else 2)
        a, b = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        assert plain.cast_encode(mode, g, left, a) == _native.cast_encode(mode, g, right, b, isa=isa)
        assert a.tobytes() == b.tobytes() and left.tobytes() == right.tobytes() and np.isfinite(left).all()
        plain.cast_decode_add(mode, a, left)
        _native.cast_decode_add(mode, b, right, isa=isa)
        assert left.tobytes() == right.tobytes()
    if mode == "fp16":
        x = data(5000) * np.float32(1e-4)
        assert (plain.narrow(mode, x).astype(np.uint16) == x.astype(np.float16).view(np.uint16)).all()
    if mode == "fp8":
        codes = np.arange(127)
        assert (plain.narrow(mode, plain.widen(mode, codes)) == codes).all() and plain.widen(mode, codes).max() == 448


@given(st.integers(0, 3000), st.sampled_from([8, 16, 32]), st.sampled_from(ISAS))
@settings(deadline=None, max_examples=30)
def test_shared_integers_sum_natively(n, bits, isa):
    ranks = 3
    g = [data(n, "cube", rank) for rank in range(ranks)]
    top = max((float(np.abs(x).max()) for x in g if n), default=0.0)
    levels = {8: 127 // ranks, 16: 32767 // ranks, 32: 1 << 20}[bits]
    total, rest = np.zeros(n, f"i{bits // 8}"), np.zeros(n)
    for x in g:
        e, want = np.zeros(n, np.float32), np.zeros(n, np.float32)
        out, ref = np.zeros(n * bits // 8, np.uint8), np.zeros(n * bits // 8, np.uint8)
        assert _native.shared_encode(x, e, top, levels, out, bits, isa=isa) == plain.shared_encode(
            x, want, top, levels, ref, bits
        )
        assert out.tobytes() == ref.tobytes() and e.tobytes() == want.tobytes()
        left, right = np.ones(n, np.float32), np.ones(n, np.float32)
        _native.shared_add(out, 0.37, left, bits, isa=isa)
        plain.shared_add(ref, 0.37, right, bits)
        assert left.tobytes() == right.tobytes()
        assert _native.shared_peak(x, e, isa=isa) == plain.shared_peak(x, e)
        total += out.view(total.dtype)
        rest += e
    assert np.allclose(total * (top / levels) + rest, sum(x.astype(np.float64) for x in g), atol=1e-5 * max(top, 1))


@pytest.mark.parametrize("isa", ISAS)
def test_quantise_is_plain(isa):
    x = np.append(data(4099) * 10, [np.nan, np.inf, -np.inf, 0.5, 1.5]).astype(np.float32)
    a, b = np.zeros(len(x), np.uint8), np.zeros(len(x), np.uint8)
    plain.quantise(x, 3.0, 128.0, a)
    _native.quantise(x, 3.0, 128.0, b, isa=isa)
    assert a.tobytes() == b.tobytes()


def test_wrong_sizes_are_refused():
    e, out, scales = np.zeros(100, np.float32), np.zeros(128, np.uint8), np.zeros(1, np.float32)
    for args in (
        ("int8", None, e, 1000, out, scales),
        ("int8", None, e, 1024, out[:100], scales),
        ("none", None, e, 1024, out, scales),
    ):
        with pytest.raises(ValueError):
            _native.quant_encode(*args)
    with pytest.raises(TypeError):
        _native.quant_encode("int8", None, e.astype(np.float64), 1024, out, scales)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [0, 1, 63, 4096, 9001])
def test_other_inputs_are_widened_on_the_way(isa, n):
    import ml_dtypes

    given = data(n) * np.float32(3)
    for g in (given.astype(np.float64) * (1 + 1e-9), given.astype(ml_dtypes.bfloat16)):
        if n > 9:
            g[[2, 9]] = np.nan, np.inf
        bits, wide = g if g.dtype == np.float64 else g.view(np.uint16), g.astype(np.float32)
        for mode, block in (("sign", 2304), ("int8s", 1024), ("int4", 64)):
            want = encode(_native.quant_encode, mode, wide, data(n, seed=1), block, counter=1 << 20, isa=isa)
            assert same(want, encode(_native.quant_encode, mode, bits, data(n, seed=1), block, counter=1 << 20, isa=isa))
        left, right, a, b = data(n), data(n), np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        assert _native.cast_encode("fp8", wide, left, a, isa=isa) == _native.cast_encode("fp8", bits, right, b, isa=isa)
        assert a.tobytes() == b.tobytes() and left.tobytes() == right.tobytes()
        _native.widen(bits, left, isa=isa)
        assert left.tobytes() == wide.tobytes() or np.array_equal(left, wide, equal_nan=True)
    with pytest.raises(ValueError, match="byte order"):
        _native.cast_encode("fp8", given.astype(">f4"), data(n), np.zeros(n, np.uint8))


def test_large_codes_go_past_the_cache_with_the_same_bytes():
    x = data((1 << 22) + 77)
    small, room = np.zeros(len(x), np.uint8), np.zeros(len(x) + 5, np.uint8)
    for at in range(0, len(x), 1 << 20):
        _native.quantise(x[at : at + (1 << 20)], 3.0, 128.0, small[at : at + (1 << 20)])
    for isa in ISAS:
        out = room[5:]
        _native.quantise(x, 3.0, 128.0, out, isa=isa)
        assert out.tobytes() == small.tobytes()
