"""Parity of shards over nodes: k + m nodes, each with a shard of its own, any m of them may be lost.

    node i has its rows in k parts (row r in part r % k); stripe s of the k + m stripes has its parity on the m nodes from s on
    and one part of each of the others, so that every node holds data and parity alike (as RAID 6 turns its parity round)

    Shadow    a node's own rows as of the last step: what a record changes, as old ^ new, for each node that sums it
    Sums      what a node holds for the others: sums over GF(2^8) of their parts, brought forward by those changes
    rebuilt   the shards of lost nodes, from any k of the k + m blocks of each stripe

Blocks of every name are summed apart, rows of one width by rows of the same width; what a shorter part lacks counts as zeros,
so that a block may grow at any step.
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..codec.erasure import erasure_matrix, erasure_repair
from ..codec.frame import numpy_dtype
from ..errors import StoreError
from ..kernels import _native
from ..kernels.rows import mix, turn
from ..types import Array, Block, State
from .record import Change

Layout = dict[str, list[Any]]  # path -> dtype, shape, columns, width of its rows in the sums, name there
SPARE = 1.25  # sums grow by more than is asked for, because they are kept whole when they do


class Stripes:
    """Which node holds what, in a group of `k + m` nodes."""

    def __init__(self, k: int, m: int) -> None:
        if k < 1 or m < 1 or k + m > 256:
            raise ValueError(f"parity: expected k, m >= 1 and k + m <= 256, found {k} + {m}")
        self.k, self.m, self.nodes = k, m, k + m
        self.matrix = erasure_matrix(k, m)

    def holders(self, stripe: int) -> list[int]:
        """Nodes that hold the parity of a stripe, in order of the parity blocks."""
        return [(stripe + j) % self.nodes for j in range(self.m)]

    def members(self, stripe: int) -> list[int]:
        """Nodes that hold its data, in order of the data blocks."""
        first = stripe + self.m
        return [(first + i) % self.nodes for i in range(self.k)]

    def part(self, node: int, stripe: int) -> int | None:
        """Which of its k parts a node has in this stripe; None where it holds parity there."""
        turn = (stripe - node - 1) % self.nodes
        return turn if turn < self.k else None

    def stripe(self, node: int, part: int) -> int:
        """The stripe that holds this part of a node."""
        return (node + 1 + part) % self.nodes


class Shadow:
    """The rows of one node's shard as of the last step. `layout`: what each block is; `fresh`: paths whose layout is new."""

    def __init__(self, stripes: Stripes, node: int) -> None:
        self.stripes, self.node = stripes, node
        self.layout: Layout = {}
        self.fresh: set[str] = set()
        self._rows: dict[str, Array] = {}  # path -> uint8 (rows, width)

    def take(self, change: Change) -> dict[int, list[Change]]:
        """The rows become those of `change`; what changed, as old ^ new, for each node that sums it."""
        data = np.ascontiguousarray(change.data)
        if change.rows is None:
            self._enter(change)
            parts = self._whole(change.path, _bytes_of(data))
        elif data.nbytes != len(change.rows) * self.layout[change.path][3]:  # its rows have another width than at first
            each = data.nbytes // len(data)
            fresh = np.array(self._rows[change.path].reshape(-1)[: change.total * each]).reshape(-1, each)
            fresh[change.rows] = _bytes_of(data).reshape(-1, each)
            parts = self._whole(change.path, _bytes_of(fresh))
        else:
            old, k = self._rows[change.path], self.stripes.k
            at = np.ascontiguousarray(change.rows, np.uint32)
            places, turned, ends = np.empty_like(at), np.empty((len(at), old.shape[1]), np.uint8), np.empty(k, np.int64)
            turn(old.reshape(-1), old.shape[1], at, _bytes_of(data), k, places, turned.reshape(-1), ends)
            parts = [(places[low:high], turned[low:high], -(-(len(old) - part) // k))
                     for part, (low, high) in enumerate(pairwise([0, *ends.tolist()]))]
        found: dict[int, list[Change]] = {}
        _, _, _, width, name = self.layout[change.path]
        for part, (rows, delta, total) in enumerate(parts):
            if len(delta):
                stripe = self.stripes.stripe(self.node, part)
                piece = Change(f"{stripe:03d}/{width}/{name}", rows, delta, total)
                for holder in self.stripes.holders(stripe):
                    found.setdefault(holder, []).append(piece)
        return found

    def _enter(self, change: Change) -> None:
        """A block's layout; its width and its name stay as they were first."""
        known, data = self.layout.get(change.path), change.data
        if known is None:
            name = re.sub(r"/\d{6}/", "/", change.path)  # without the rank: the same on every node
            taken = {entry[4] for entry in self.layout.values()}
            each = data.nbytes // len(data) if data.ndim and len(data) else data.itemsize
            known = ["", [], [], max(1, each), change.path if name in taken else name]
        about = [data.dtype.name, list(data.shape), [list(c) for c in change.columns], *known[3:]]
        if about != known:
            self.layout[change.path] = about
            self.fresh.add(change.path)

    def _whole(self, path: str, data: Array) -> list[tuple[Array | None, Array, int]]:
        """All rows of a block anew, which may have grown or shrunk: of each part what differs."""
        width, k = self.layout[path][3], self.stripes.k
        old = self._rows.get(path, np.empty((0, width), np.uint8))
        new = _padded(data, max(len(old), -(-len(data) // width)) * width).reshape(-1, width)
        turned = np.array(new)
        turned[: len(old)] ^= old
        self._rows[path] = np.array(new)
        return [_differing(np.ascontiguousarray(turned[part::k])) for part in range(k)]


class Sums:
    """The sums that one node holds. `state`: a block a stripe and name, uint8 `(rows, width)`."""

    def __init__(self, stripes: Stripes, node: int) -> None:
        self.stripes, self.node = stripes, node
        self.state: State = {}
        self._marks: dict[str, Array] = {}
        self._grown: set[str] = set()

    def add(self, node: int, changes: Sequence[Change]) -> None:
        """What `node` changed; each change once."""
        for change in changes:
            stripe = int(change.path[:3])
            row, column = self.stripes.holders(stripe).index(self.node), self.stripes.members(stripe).index(node)
            factor = int(self.stripes.matrix[row, column])
            data, mark = self._room(change.path, change.total, change.data.shape[1])
            if change.rows is None:
                _native.parity_dot(np.array([[factor]], np.uint8), [_bytes_of(change.data)],
                                   [data[: len(change.data)].reshape(-1)], True)
                self._grown.add(change.path)
                continue
            turned = _bytes_of(change.data)
            if factor != 1:
                given, turned = turned, np.empty_like(turned)
                _native.parity_dot(np.array([[factor]], np.uint8), [given], [turned])
            mix(data.reshape(-1), data.shape[1], np.ascontiguousarray(change.rows, np.uint32), turned, mark)

    def changes(self) -> tuple[Change, ...]:
        """The rows that have changed since the last call, as they are now."""
        found = []
        for path, mark in self._marks.items():
            data = self.state[path].data
            if path in self._grown:
                found.append(Change(path, None, data.copy(), len(data)))
            elif len(rows := np.flatnonzero(mark.view(bool))):
                found.append(Change(path, rows.astype(np.uint32), data.take(rows, axis=0), len(data)))
            else:
                continue
            mark[:] = 0
        self._grown.clear()
        return tuple(found)

    def _room(self, path: str, rows: int, width: int) -> tuple[Array, Array]:
        block = self.state.get(path)
        if block is None or len(block.data) < rows:
            rows = rows if block is None else int(SPARE * rows) + 1
            data, mark = np.zeros((rows, width), np.uint8), np.zeros(rows, np.uint8)
            if block is not None:
                data[: len(block.data)] = block.data
            self.state[path], self._marks[path] = Block(data), mark
            self._grown.add(path)
        return self.state[path].data, self._marks[path]


def rebuilt(stripes: Stripes, shards: Mapping[int, State], layouts: Mapping[int, Layout],
            sums: Mapping[int, State]) -> dict[int, State]:
    """The shards that are lost, bit for bit: of the nodes in `layouts` that are not in `shards`. A node in neither has none.

    StoreError where too little is left.
    """
    cut = {node: _cut(stripes, node, state, layouts[node]) for node, state in shards.items()}
    parts: dict[int, dict[str, Array]] = {node: {} for node in layouts if node not in shards}
    for stripe in range(stripes.nodes):
        gone = sum(node in parts for node in stripes.members(stripe))
        if gone and gone + sum(node not in sums for node in stripes.holders(stripe)) > stripes.m:
            raise StoreError(f"parity {stripes.k} + {stripes.m} covers {stripes.m} nodes: the shards of {len(parts)} and "
                             f"the sums of {stripes.nodes - len(sums)} are lost",
                             where=f"stripe {stripe}", fix="resume from the last checkpoint")
    for key in sorted({path for held in sums.values() for path in held}):
        stripe, width = int(key[:3]), int(key.split("/")[1])
        none = np.empty((0, width), np.uint8)
        blocks = [None if node in parts else cut.get(node, {}).get(key, none) for node in stripes.members(stripe)]
        for node in stripes.holders(stripe):
            held = sums.get(node)
            blocks.append(None if held is None else held[key].data if key in held else none)
        rows = max(len(block) for block in blocks if block is not None)
        whole = erasure_repair([None if block is None else _padded(block, rows) for block in blocks], stripes.k)
        for place, node in enumerate(stripes.members(stripe)):
            if node in parts:
                parts[node][key] = whole[place].reshape(rows, width)
    return {node: _joined(stripes, node, found, layouts[node]) for node, found in parts.items()}


def _cut(stripes: Stripes, node: int, state: State, layout: Layout) -> dict[str, Array]:
    """A shard's parts by their names in the sums."""
    found = {}
    for path, block in state.items():
        width, name = layout[path][3:]
        data = _bytes_of(block.data)
        rows = _padded(data, -(-len(data) // width) * width).reshape(-1, width)
        for part in range(stripes.k):
            found[f"{stripes.stripe(node, part):03d}/{width}/{name}"] = rows[part :: stripes.k]
    return found


def _joined(stripes: Stripes, node: int, parts: Mapping[str, Array], layout: Layout) -> State:
    """The shard of these parts."""
    state: State = {}
    for path, (dtype, shape, columns, width, name) in layout.items():
        kind = numpy_dtype(dtype)
        size = kind.itemsize * int(np.prod(shape, dtype=object))
        whole = np.zeros((-(-size // width), width), np.uint8)
        for part in range(stripes.k):
            made = parts.get(f"{stripes.stripe(node, part):03d}/{width}/{name}", whole[:0])
            rows = whole[part :: stripes.k][: len(made)]  # rows that no node has ever had other than zero are in no sum
            rows[:] = made[: len(rows)]
        data = whole.reshape(-1)[:size].view(kind).reshape(shape)
        state[path] = Block(data, tuple((column, merge) for column, merge in columns))
    return state


def _differing(part: Array) -> tuple[Array | None, Array, int]:
    """Rows of a part that are not zero; all of them where that is shorter."""
    rows = np.flatnonzero(part.any(1)).astype(np.uint32)
    if len(rows) * 2 > len(part):
        return None, part, len(part)
    return rows, part[rows], len(part)


def _padded(data: Array, size: int) -> Array:
    """`data`, contiguous, with zeros behind it up to `size` rows."""
    if len(data) == size:
        return np.ascontiguousarray(data)
    whole = np.zeros((size, *data.shape[1:]), np.uint8)
    whole[: len(data)] = data
    return whole


def _bytes_of(data: Array) -> Array:
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
