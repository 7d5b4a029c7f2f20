"""Each row has exactly one owner in range, the same for any cut of the rows."""

import numpy as np
import pytest

from engine.shard.rule import owner, waves
from engine.types import Batch


@pytest.mark.parametrize("rule", ["deal", "hash", "random", "range", "part"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_one_owner(rule: str, size: int) -> None:
    n = 300
    order = np.arange(n)
    rows = Batch(np.zeros(n), order, np.zeros(n), x=np.random.default_rng(1).random((n, 2), np.float32))
    bounds = np.arange(1, size) / size
    all_ = owner(rule, order, rows, size, block_rows=8, seed=3, bounds=bounds)
    assert all_.dtype == np.int32 and all_.min() >= 0 and all_.max() < size
    part = owner(rule, order[70:], rows.slice(70, n), size, block_rows=8, seed=3, bounds=bounds)
    np.testing.assert_array_equal(all_[70:], part)
    if rule in ("deal", "hash", "random", "range"):
        assert len(set(all_.tolist())) == size


def test_waves() -> None:
    assert list(waves(5, lambda p, s: p % s, 2)) == [range(2), range(2, 4), range(4, 5)]
