"""Parity over nodes: every set of lost nodes up to m, by exhaustive enumeration; incremental updates equal to encoding anew."""
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import StoreError
from engine.store.parity import Stripes

SHAPES = [(1, 1), (2, 1), (3, 1), (2, 2), (4, 2), (3, 3), (6, 2)]


def drawn(k, m, seed=0):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, 500 + 37 * node, dtype=np.uint8) for node in range(k + m)]
    return Stripes(k, m, max(map(len, images))), images


@pytest.mark.parametrize(("k", "m"), SHAPES)
def test_every_node_holds_each_of_its_blocks_once_and_parity_of_m_stripes(k, m):
    stripes, _ = drawn(k, m)
    for node in range(k + m):
        parts = [stripes.part(node, s) for s in range(k + m)]
        assert sorted(p for p in parts if p is not None) == list(range(k)) and parts.count(None) == m
        assert [s for s in range(k + m) if node in stripes.holders(s)] == [s for s, p in enumerate(parts) if p is None]
    for stripe in range(k + m):
        assert sorted(stripes.members(stripe) + stripes.holders(stripe)) == list(range(k + m))


@pytest.mark.parametrize(("k", "m"), SHAPES)
def test_any_m_nodes_may_be_lost_and_one_more_is_said(k, m):
    stripes, images = drawn(k, m)
    kept = stripes.encode(images)
    sizes = [len(image) for image in images]
    for count in range(m + 2):
        for lost in combinations(range(k + m), count):
            left = [None if node in lost else image for node, image in enumerate(images)]
            parity = [None if node in lost else blocks for node, blocks in enumerate(kept)]
            if count <= m:
                for got, want in zip(stripes.repair(left, parity, sizes), images, strict=True):
                    np.testing.assert_array_equal(got, want)
            else:
                with pytest.raises(StoreError, match="covers"):
                    stripes.repair(left, parity, sizes)


@given(st.sampled_from(SHAPES), st.integers(0, 10), st.data())
def test_parity_brought_forward_is_parity_made_anew(shape, seed, data):
    k, m = shape
    stripes, images = drawn(k, m, seed)
    kept = stripes.encode(images)
    for _ in range(3):
        node = data.draw(st.integers(0, k + m - 1))
        low = data.draw(st.integers(0, len(images[node]) - 1))
        high = data.draw(st.integers(low, len(images[node])))
        change = np.random.default_rng(low).integers(0, 256, high - low, dtype=np.uint8)
        images[node][low:high] ^= change
        stripes.update(kept, node, low, change)
    for got, want in zip(kept, stripes.encode(images), strict=True):
        assert got.keys() == want.keys()
        for stripe in got:
            np.testing.assert_array_equal(got[stripe], want[stripe])
