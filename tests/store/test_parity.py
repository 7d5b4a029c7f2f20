"""Parity over nodes: every set of lost nodes up to m, by exhaustive enumeration; sums brought forward step by step."""
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import StoreError
from engine.store.parity import Shadow, Stripes, Sums, rebuilt
from engine.store.record import Change
from engine.types import Block

SHAPES = [(1, 1), (2, 1), (3, 1), (2, 2), (4, 2), (3, 3), (6, 2)]
KINDS = ("float32", "uint8", "int64", "float64")


class Node:
    """A node's shard, its shadow, and the sums it holds for the others."""

    def __init__(self, stripes, node):
        self.node, self.shadow, self.sums = node, Shadow(stripes, node), Sums(stripes, node)
        self.state = {}


def sent(nodes, node, changes):
    for change in changes:
        nodes[node].state.setdefault(change.path, Block(np.empty(0)))
        if change.rows is None:
            nodes[node].state[change.path] = Block(change.data.copy(), change.columns)
        else:
            nodes[node].state[change.path].data[change.rows] = change.data
        for holder, pieces in nodes[node].shadow.take(change).items():
            nodes[holder].sums.add(node, pieces)


def whole(rng, path, rows, width=3, kind="float32"):
    shape = (rows, width) if width else (rows,)
    return Change(path, None, rng.integers(0, 200, shape).astype(kind), rows, (("w", "owner"),))


def group(k, m, seed=0):
    """Nodes of a group with blocks of several sizes, some of which only some have; the last node may have nothing."""
    rng, stripes = np.random.default_rng(seed), Stripes(k, m)
    nodes = [Node(stripes, node) for node in range(k + m)]
    for node in nodes[: k + m - seed % 2]:
        sent(nodes, node.node, [whole(rng, "model/a", 50 + node.node), whole(rng, f"meter/{node.node:06d}/b", 7, 0, "int64"),
                                whole(rng, "empty", 0), whole(rng, "zeros", 4, 1, "uint8")])
        if node.node % 2:
            sent(nodes, node.node, [whole(rng, "own", 9, 5, "uint8")])
    return rng, stripes, nodes


def restored(stripes, nodes, lost, also=()):
    left = [node for node in nodes if node.node not in lost]
    layouts = {node.node: node.shadow.layout for node in nodes if node.state}
    return rebuilt(stripes, {node.node: node.state for node in left if node.state and node.node not in also}, layouts,
                   {node.node: node.sums.state for node in left})


def same(a, b):
    return a.keys() == b.keys() and all(
        a[path].data.dtype == b[path].data.dtype and np.array_equal(a[path].data, b[path].data)
        and a[path].columns == b[path].columns for path in a)


@pytest.mark.parametrize(("k", "m"), SHAPES)
def test_every_node_has_each_of_its_parts_once_and_sums_of_m_stripes(k, m):
    stripes = Stripes(k, m)
    for node in range(k + m):
        parts = [stripes.part(node, s) for s in range(k + m)]
        assert sorted(p for p in parts if p is not None) == list(range(k)) and parts.count(None) == m
        assert [s for s in range(k + m) if node in stripes.holders(s)] == [s for s, p in enumerate(parts) if p is None]
        assert [stripes.part(node, stripes.stripe(node, part)) for part in range(k)] == list(range(k))
    for stripe in range(k + m):
        assert sorted(stripes.members(stripe) + stripes.holders(stripe)) == list(range(k + m))


@pytest.mark.parametrize(("k", "m"), SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_any_m_nodes_may_be_lost_and_one_more_is_said(k, m, seed):
    rng, stripes, nodes = group(k, m, seed)
    for node in nodes:  # and some steps after
        if node.state:
            rows = np.flatnonzero(rng.random(50) < 0.2).astype(np.uint32)
            sent(nodes, node.node, [Change("model/a", rows, rng.random((len(rows), 3)).astype(np.float32), 50 + node.node)])
    for count in range(m + 2):
        for lost in combinations(range(k + m), count):
            want = [node for node in lost if nodes[node].state]
            if count <= m:
                found = restored(stripes, nodes, lost)
                assert sorted(found) == want and all(same(found[node], nodes[node].state) for node in want)
            elif len(want) == count:
                with pytest.raises(StoreError, match="covers"):
                    restored(stripes, nodes, lost)


def test_sums_of_one_node_and_the_shard_of_another_may_be_damaged():
    _, stripes, nodes = group(3, 2)
    for lost in range(5):
        for damaged in range(5):
            found = restored(stripes, nodes, (lost,), also=(damaged,))
            assert all(same(found[node], nodes[node].state) for node in {lost, damaged})


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 9), st.data())
def test_sums_brought_forward_give_back_every_step(shape, seed, data):
    rng, stripes, nodes = group(*shape, seed)
    for _ in range(data.draw(st.integers(1, 6))):
        node = data.draw(st.sampled_from([node for node in nodes if node.state]))
        path = data.draw(st.sampled_from(sorted(node.state)))
        block = node.state[path].data
        if data.draw(st.booleans()) and len(block):
            rows = np.flatnonzero(rng.random(len(block)) < 0.4).astype(np.uint32)
            change = Change(path, rows, rng.integers(0, 9, (len(rows), *block.shape[1:])).astype(block.dtype), len(block))
        else:  # a block that grows, shrinks, or is of another kind
            rows, width = data.draw(st.integers(0, 90)), data.draw(st.integers(0, 4))
            change = whole(rng, path, rows, width, data.draw(st.sampled_from(KINDS)))
        sent(nodes, node.node, [change])
        for held in nodes:  # what a record of the sums says is what they are
            before = {change.path: change for change in held.sums.changes()}
            assert all(np.array_equal(held.sums.state[path].data[... if c.rows is None else c.rows], c.data)
                       for path, c in before.items())
    lost = data.draw(st.sampled_from(list(combinations(range(stripes.nodes), stripes.m))))
    found = restored(stripes, nodes, lost)
    assert all(same(found[node], nodes[node].state) for node in lost if nodes[node].state)
