"""Stages with fewer columns out than in: random projection, and principal components fitted online."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from engine.clean.fitted import Fitted
from engine.clean.pipeline import stage
from engine.errors import ConfigError
from engine.kernels import _native
from engine.types import Array, Batch, Block, Schema


@stage("project")
class Project(Fitted):
    """`k` columns of signed sums (Achlioptas 2003): distances are kept in expectation. Signs are a function of key and seed."""

    def __init__(self, k: int = 64, seed: int = 0) -> None:
        super().__init__()
        if k < 1:
            raise ConfigError(f"project: expected k >= 1, found {k}")
        self._k, self._seed = k, seed

    def bind(self, schema: Schema) -> Schema:
        self._matrix: Array | None = None
        if not schema.sparse:
            unit = np.arange(schema.width)
            self._matrix = np.empty((schema.width, self._k), np.float32)
            _native.clean_project(np.arange(schema.width + 1), unit.astype(np.uint32), None, self._seed, self._matrix)
        return replace(schema, width=self._k, sparse=False, columns=tuple(f"p{i}" for i in range(self._k)))

    def _run(self, batch: Batch, fit: bool) -> Batch:
        if batch.x is not None and self._matrix is not None:
            return replace(batch, x=np.ascontiguousarray(batch.x @ self._matrix))
        assert batch.indptr is not None and batch.keys is not None
        out = np.empty((len(batch), self._k), np.float32)
        _native.clean_project(batch.indptr, batch.keys, batch.values, self._seed, out)
        return replace(batch, x=out, indptr=None, keys=None, values=None)


@stage("pca")
class Pca(Fitted):
    """The `k` principal components of all rows before, made anew after `every` rows; before that the first `k` columns pass.

    Count, sums and sums of products add up, so many ranks fit what one would; they make axes only of merged sums, so that all
    have the same. New axes span the new components and are turned within their span to lie nearest the old ones (orthogonal
    Procrustes, Schoenemann 1966): what a model learned of a column stays true. So columns are not ordered by variance.
    """

    rules: ClassVar = {"axes": "local", "centre": "local", "made": "local"}  # made again of the sums in `merged`

    def __init__(self, k: int = 8, every: int = 1000) -> None:
        super().__init__()
        self._k, self._every, self._shared = k, every, False

    def bound(self, schema: Schema, d: int) -> Schema:
        if not 1 <= self._k <= d:
            raise ConfigError(f"pca: expected 1 <= k <= {d}, found {self._k}")
        self.arrays = {"n": np.zeros(1), "total": np.zeros(d), "products": np.zeros((d, d)), "axes": np.eye(d, self._k),
                       "centre": np.zeros(d), "made": np.zeros(1)}
        return replace(schema, width=self._k, columns=tuple(f"pc{i}" for i in range(self._k)))

    def apply(self, x: Array, fit: bool, order: Array) -> tuple[Array, Array | None]:
        held = self.arrays
        out = ((x - held["centre"]) @ held["axes"]).astype(np.float32)
        if fit:
            good = x[np.isfinite(x).all(1)].astype(np.float64)
            held["n"] += len(good)
            held["total"] += good.sum(0)
            held["products"] += good.T @ good
            if not self._shared and held["n"][0] - held["made"][0] >= self._every:
                self._make()
        return out, None

    def _make(self) -> None:
        held, n = self.arrays, self.arrays["n"][0]
        centre = held["total"] / n
        spread = held["products"] / n - np.outer(centre, centre)
        axes = np.linalg.eigh(spread)[1][:, ::-1][:, : self._k]
        left, _, right = np.linalg.svd(axes.T @ held["axes"])
        held["axes"][...], held["centre"][...], held["made"][0] = axes @ (left @ right), centre, n

    def merge(self, total: Mapping[str, Block], ranks: int) -> None:
        for name in ("axes", "centre", "made"):  # what this rank made alone, before it knew of others, is not the others'
            self.arrays[name][...] = self._base[name]
        super().merge(total, ranks)

    def merged(self) -> None:
        """Axes are made of the merged sums, from the same old ones: all ranks have the same."""
        self._shared = True
        if self.arrays["n"][0] - self.arrays["made"][0] >= self._every:
            self._make()
            self._mark()
