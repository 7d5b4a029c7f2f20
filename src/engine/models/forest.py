"""Hoeffding trees and online bagging of them, exactly data-parallel: leaves hold sums that add up over replicas.

Replicas that exchange learn into the leaves of one structure; after a merge all hold the same sums and try the same
splits, so all grow the same trees.  Alone, a tree splits as it goes.  A row's bagging weight is drawn from its place in
the global order, not by who learns it.  With a detector, a tree whose error rises is grown anew (as adaptive random
forests do).  Sources: Domingos and Hulten (2000); Gama et al. (2003) for naive Bayes leaves; Bifet et al. (2010) for
leveraging bagging; Gomes et al. (2017).
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from engine.errors import ConfigError, DataError, ShardError, StoreError
from engine.kernels import _native
from engine.models import loss as losses
from engine.models.registry import DENSE, Spec, kind
from engine.types import Array, Batch, Block, State, Update

HEAD, CHUNK = 4, 64


class Detector(Protocol):
    """What a tree asks whether its error has risen: `count` rows with `total` errors."""

    def add(self, count: float, total: float) -> bool: ...
    def state(self) -> Array: ...
    def load(self, data: Array) -> None: ...


class _Tree:
    """The arrays of one tree and the native tree bound to them."""

    def __init__(self, room: int, columns: int, classes: int, numbers: list[float], bayes: bool, seed: int) -> None:
        width = HEAD + classes + 2 * columns * classes
        self.arrays: dict[str, Array] = {
            "feature": np.full(room, -1, np.int32), "child": np.zeros((room, 2), np.int32), "depth": np.zeros(room, np.int32),
            "value": np.zeros(room), "sums": np.zeros((room, width)), "prior": np.zeros((room, classes)),
            "last": np.zeros(room), "touched": np.zeros(room, np.uint8), "count": np.ones(1, np.int64)}
        self.native = _native.Tree(**self.arrays, columns=columns, numbers=numbers, bayes=bayes, seed=seed)
        self.errors = np.zeros(2)  # rows and errors since the base
        self.base = self.arrays["sums"][:1].copy()

    def clear(self) -> None:
        """One empty leaf."""
        for name, array in self.arrays.items():
            array[...] = {"feature": -1, "count": 1}.get(name, 0)
        self.mark()

    def mark(self) -> None:
        self.base = self.arrays["sums"][: int(self.arrays["count"][0])].copy()
        self.arrays["touched"][:] = 0
        self.errors[:] = 0


class Forest:
    """`trees` Hoeffding trees over `width` dense columns and `classes` labels; one tree takes every row once.

    `grace`: rows between split attempts of a leaf; `delta`, `tie`: Hoeffding bound; `subset`: columns a leaf looks at
    (0 = all; the root for several trees); `depth`, `nodes`: limits of a tree; `poisson`: mean weight of a row in bagging;
    `detect()` makes a drift detector for each tree.  Scores: log odds a class, margins where `classes` is 2 and `binary`.
    """

    def __init__(self, width: int, classes: int = 2, *, binary: bool = False, trees: int = 1, grace: int = 200,
                 delta: float = 1e-7, tie: float = 0.05, subset: int = 0, depth: int = 20, nodes: int = 1023,
                 poisson: float = 6.0, bayes: bool = True, seed: int = 0, tracked: bool = True,
                 detect: Callable[[], Detector] | None = None) -> None:
        self.options: dict[str, Any] = {
            "width": width, "classes": classes, "binary": binary, "trees": trees, "grace": grace, "delta": delta, "tie": tie,
            "subset": subset, "depth": depth, "nodes": nodes, "poisson": poisson, "bayes": bayes, "seed": seed,
            "tracked": tracked, "detect": detect}
        if min(trees, nodes, grace, depth) < 1 or not 0 < delta < 1 or subset < 0 or poisson < 0:
            raise ConfigError(f"forest: expected trees, nodes, grace and depth >= 1 and 0 < delta < 1, found {self.options}")
        several = trees > 1
        columns = min(width, subset or (int(np.sqrt(width)) + 1 if several else width))
        numbers = [float(grace), delta, tie, float(columns), float(depth), poisson if several else 0.0]
        self.bad, self.grown, self._rows = 0, 0, 0.0
        self._trees = [_Tree(nodes, width, classes, numbers, bayes, (seed << 20) + 7919 * t) for t in range(trees)]
        self._detectors = [detect() for _ in range(trees)] if detect else []
        self._record = np.zeros((trees, 2))  # rows and errors of each tree as it stands, over all replicas

    def _gains(self) -> Array:
        """Votes of the trees: better ones count more (accuracy, from a prior of one half)."""
        rows, errors = self._record.T
        return 1 - (errors + 1) / (rows + 2)

    def _scores(self, votes: Array) -> Array:
        share = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-300)
        p = np.clip(share, losses.FLOOR, 1 - losses.FLOOR)
        if self.options["binary"]:
            return np.ascontiguousarray(np.log(p[:, 1]) - np.log(p[:, 0]), np.float32)
        return (np.log(p) - np.log1p(-p)).astype(np.float32)

    def _columns(self, batch: Batch) -> Array:
        if batch.x is None:
            raise DataError("forest: expected dense rows, found sparse ones", fix="model.kind=linear, or dense columns")
        return np.ascontiguousarray(batch.x, np.float32)

    def predict(self, batch: Batch) -> Array:
        """Scores; changes nothing."""
        votes = np.zeros((len(batch), self.options["classes"]))
        x = self._columns(batch)
        try:
            for tree, gain in zip(self._trees, self._gains().tolist(), strict=True):
                tree.native.predict(x, gain, votes)
        except ValueError as error:
            raise DataError(str(error), fix="give columns as the model was made for") from None
        return self._scores(votes)

    def learn(self, batch: Batch) -> Array:
        """Scores before each row is learned; rows without a label, or with NaN or infinity in them, are only scored."""
        many = len(self._trees) > 1 or self._detectors
        step = CHUNK if many and not self.options["tracked"] else max(1, len(batch))
        out = [self._learn(batch.slice(at, min(at + step, len(batch)))) for at in range(0, len(batch), step)]
        return np.concatenate(out) if out else self.predict(batch)

    def _learn(self, rows: Batch) -> Array:
        x, y = self._columns(rows), rows.y
        fine = np.isfinite(x).all(axis=1)
        if not fine.all():
            self.bad += int(np.count_nonzero(~fine & ~np.isnan(y)))
            y = np.where(fine, y, np.float32(np.nan)).astype(np.float32)
        if self.options["binary"]:
            y = np.where(np.isnan(y), y, y > 0).astype(np.float32)
        votes, hits = np.zeros((len(rows), self.options["classes"])), np.zeros(len(rows), np.uint8)
        labelled = float(np.count_nonzero(~np.isnan(y)))
        gains = self._gains().tolist()
        for tree, gain in zip(self._trees, gains, strict=True):
            try:
                tree.native.learn(x, y, rows.weight, np.ascontiguousarray(rows.order, np.int64), gain, votes, hits,
                                  not self.options["tracked"])
            except ValueError as error:
                raise DataError(str(error), fix="give columns and classes as the model was made for") from None
            tree.errors += (labelled, labelled - float(hits.sum()))
        self._rows += labelled
        if not self.options["tracked"]:
            self._judge(np.array([tree.errors for tree in self._trees]))
            for tree in self._trees:
                tree.errors[:] = 0
        return self._scores(votes)

    def _judge(self, errors: Array) -> None:
        """Counts rows and errors of each tree; one whose detector finds more errors is grown anew."""
        self._record += errors
        for t, detector in enumerate(self._detectors):
            if errors[t, 0] and detector.add(*errors[t].tolist()):
                self._trees[t].clear()
                self._record[t] = 0
                self.grown += 1

    def link(self, scores: Array) -> Array:
        """Probabilities."""
        return losses.sigmoid(scores).astype(np.float32)

    def state(self) -> State:
        """`model/tree/T/...`: the nodes in use of each tree; `model/record` (trees, 2); `model/detector/T`."""
        state: State = {"model/record": Block(self._record.copy())}
        for t, tree in enumerate(self._trees):
            used = int(tree.arrays["count"][0])
            state |= {f"model/tree/{t:04d}/{name}": Block(tree.arrays[name][:used].copy())
                      for name in ("feature", "child", "depth", "value", "sums", "prior", "last")}
        return state | {f"model/detector/{t:04d}": Block(d.state()) for t, d in enumerate(self._detectors)}

    def load(self, state: Mapping[str, Block]) -> None:
        """Takes what `state` gave; it becomes the base."""
        for t, tree in enumerate(self._trees):
            head = f"model/tree/{t:04d}"
            found = state[f"{head}/sums"].data.shape if f"{head}/sums" in state else (0, 0)
            if found[1] != tree.arrays["sums"].shape[1] or not 1 <= found[0] <= len(tree.arrays["sums"]):
                raise StoreError(f"{head}: expected up to {tree.arrays['sums'].shape}, found {found}",
                                 fix="load into a model made with the same options")
            tree.clear()
            for name in ("feature", "child", "depth", "value", "sums", "prior", "last"):
                tree.arrays[name][: found[0]] = state[f"{head}/{name}"].data
            tree.arrays["count"][0] = found[0]
            tree.mark()
        self._record[:] = state["model/record"].data
        for t, detector in enumerate(self._detectors):
            detector.load(state[f"model/detector/{t:04d}"].data)
        self._rows = 0.0

    def fork(self) -> Forest:
        """A replica with the same state and base."""
        twin = Forest(**self.options)
        twin.load(self.state())
        return twin

    def update(self) -> Update:
        """Sums of the touched leaves since the base, float64; key = tree * (nodes + 1) + leaf, the tree's last its errors."""
        if not self.options["tracked"]:
            raise ShardError("update: this model does not track leaves", fix="make it with tracked=True")
        keys, values, stride = [], [], self.options["nodes"] + 1
        for t, tree in enumerate(self._trees):
            leaves = np.flatnonzero(tree.arrays["touched"])
            errors = np.zeros((1, tree.arrays["sums"].shape[1]))
            errors[0, :2] = tree.errors
            keys.append(np.append(leaves, stride - 1) + t * stride)
            values += [tree.arrays["sums"][leaves] - tree.base[leaves], errors]
        return Update(np.concatenate(keys).astype(np.uint32), np.concatenate(values), self._rows)

    def merge(self, total: Update, ranks: int) -> None:
        """Back to the base, the total added, then splits: the same on every replica."""
        stride = self.options["nodes"] + 1
        assert total.keys is not None
        which, leaf = np.divmod(total.keys.astype(np.int64), stride)
        errors = np.zeros((len(self._trees), 2))
        for t, tree in enumerate(self._trees):
            mine = (which == t) & (leaf < stride - 1)
            sums, touched = tree.arrays["sums"], np.flatnonzero(tree.arrays["touched"])
            sums[touched] = tree.base[touched]
            sums[leaf[mine]] += total.values[mine]
            errors[t] = total.values[(which == t) & (leaf == stride - 1), :2].sum(axis=0)
            tree.native.attempt()
            tree.mark()
        self._judge(errors)
        self._rows = 0.0


@kind("tree")
def build_tree(spec: Spec) -> Forest:
    """One Hoeffding tree; options of section tree."""
    return _build(spec, 1, None)


@kind("forest")
def build(spec: Spec) -> Forest:
    """Bagged Hoeffding trees that are grown anew where their error rises; options of section tree."""
    return _build(spec, int(spec.options.get("trees") or 10), spec.detect)


def _build(spec: Spec, trees: int, detect: Callable[[], Any] | None) -> Forest:
    if spec.schema.task == "regression" or spec.schema.sparse:
        raise ConfigError("tree: expected classes and dense columns, found a "
                          + ("regression task" if spec.schema.task == "regression" else "sparse source"),
                          fix=DENSE if spec.schema.sparse else "model.kind=linear, mlp or ridge")
    binary = spec.schema.task == "binary"
    usual: dict[str, Any] = {"grace": 50, "delta": 0.01} if trees > 1 else {}  # as adaptive random forests have it
    return Forest(spec.schema.width, 2 if binary else spec.classes, binary=binary, trees=trees, detect=detect, seed=spec.seed,
                  tracked=spec.tracked, **usual | spec.pick("grace", "delta", "tie", "subset", "depth", "nodes", "poisson"))
