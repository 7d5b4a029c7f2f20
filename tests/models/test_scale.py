import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models import scale


def stats(x):
    x = x.astype(np.float64)
    return np.stack([np.full(x.shape[1], float(len(x))), x.mean(0), ((x - x.mean(0)) ** 2).sum(0)], axis=1)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(-100, 100))
def test_split_then_joined_is_one_pass(seed, parts, shift):
    x = np.random.default_rng(seed).normal(shift, 2, (60, 3))
    pieces = np.array_split(x, parts)
    total = stats(pieces[0])
    for piece in pieces[1:]:
        total = scale.join(total, stats(piece))
    np.testing.assert_allclose(total, stats(x), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(-10, 10))
def test_ranks_advance_a_common_base(seed, shift):
    x = np.random.default_rng(seed).normal(shift, 2, (90, 3))
    base, left, right = stats(x[:30]), stats(x[:50]), scale.join(stats(x[:30]), stats(x[50:]))
    total = scale.since(base, left) + scale.since(base, right)
    np.testing.assert_allclose(scale.advance(base, total), stats(x), rtol=1e-9)
    keys, values = scale.pack(total)
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    np.testing.assert_allclose(scale.unpack(keys, values, 3), total, rtol=1e-9)


def test_no_rows_change_nothing():
    base = stats(np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(scale.advance(base, np.zeros((3, 3))), base)
