import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ShardError
from engine.types import Update
from engine.update.merge import MANY, combine


def make(rng, most=40):
    keys = np.unique(rng.integers(0, 60, rng.integers(0, most))).astype(np.uint32)
    return Update(keys, rng.integers(-50, 50, (len(keys), 6)).astype(np.float32), float(rng.integers(0, 9)))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_total_is_the_sum_by_key(seed, count):
    rng = np.random.default_rng(seed)
    updates = [make(rng) for _ in range(count)]
    want = np.zeros((60, 6), np.float32)
    for u in updates:
        want[u.keys] += u.values
    total = combine(updates)
    assert (np.diff(total.keys.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(total.keys, np.unique(np.concatenate([u.keys for u in updates])))
    np.testing.assert_array_equal(total.values, want[total.keys])
    assert total.weight == sum(u.weight for u in updates)
    other = combine(updates[::-1])  # whole numbers: any order gives the same bits
    np.testing.assert_array_equal(other.values, total.values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_width_and_type_is_summed_by_key(dtype):
    rng = np.random.default_rng(3)
    updates = [Update(u.keys, rng.normal(size=(len(u.keys), 3)).astype(dtype), 1.0) for u in (make(rng) for _ in range(4))]
    want = np.zeros((60, 3), dtype)
    for u in updates:
        want[u.keys] += u.values
    total = combine(updates)
    assert total.values.dtype == dtype
    np.testing.assert_array_equal(total.values, want[total.keys])


def test_dense_updates_are_summed():
    total = combine([Update(None, np.full((3, 2), value), value) for value in (1.0, 2.0, 4.0)])
    assert total.keys is None and total.weight == 7
    np.testing.assert_array_equal(total.values, np.full((3, 2), 7.0))


@pytest.mark.parametrize("pair", [
    (Update(None, np.zeros((2, 6), np.float32), 1.0), Update(np.arange(2, dtype=np.uint32), np.zeros((2, 6), np.float32), 1.0)),
    (Update(np.arange(2, dtype=np.uint32), np.zeros((2, 6), np.float32), 1.0),
     Update(np.arange(2, dtype=np.uint32), np.zeros((2, 3), np.float32), 1.0)),
    (Update(None, np.zeros((2, 1)), 1.0), Update(None, np.zeros((2, 1), np.float32), 1.0)),
    (Update(np.arange(3, dtype=np.uint32), np.zeros((2, 6), np.float32), 1.0),) * 2,
])
def test_what_does_not_fit_together_is_refused(pair):
    with pytest.raises(ShardError, match="expected updates of one width"):
        combine(pair)
    with pytest.raises(ShardError, match="at least one"):
        combine([])


@pytest.mark.parametrize("count", [MANY, 200])
@pytest.mark.parametrize(("width", "dtype"), [(6, np.float32), (2, np.float64)])
def test_many_are_summed_in_the_order_given_to_the_last_bit(count, width, dtype):
    rng = np.random.default_rng(count)
    parts = []
    for i in range(count):
        keys = np.unique(rng.integers(0, 300, rng.integers(0, 60)).astype(np.uint32)) if i % 7 else np.empty(0, np.uint32)
        parts.append(Update(keys, (rng.normal(size=(len(keys), width)) * 10.0 ** rng.integers(-6, 6)).astype(dtype), 1.0))
    one = parts[0]
    for part in parts[1:]:
        one = combine([one, part])
    found = combine(parts)
    assert np.array_equal(found.keys, one.keys) and found.values.tobytes() == one.values.tobytes()
    assert found.weight == one.weight == count
    none = combine([Update(np.empty(0, np.uint32), np.empty((0, width), dtype), 0.0)] * count)
    assert not len(none.keys) and none.values.shape == (0, width)
