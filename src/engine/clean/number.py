"""Stages over numbers: ranges, outliers, missing values, scales."""
from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from engine.clean.fitted import Fitted, chosen, labels_of, widened
from engine.clean.pipeline import stage
from engine.errors import ConfigError
from engine.kernels import _native
from engine.types import Array, Schema

BINS = 16384  # of float32's order: 5 bits of the fraction, values of a bin differ by at most 3 %


@stage("range")
class Range(Fitted):
    """Values outside `low`..`high` are clipped, made missing, or their row is dropped (`how`); each is counted."""

    def __init__(self, low: float = -np.inf, high: float = np.inf, how: str = "clip", columns: str = "") -> None:
        super().__init__(columns)
        if not low < high:
            raise ConfigError(f"range: expected low < high, found {low} and {high}")
        self._low, self._high = np.float32(low), np.float32(high)
        self._how = chosen("range how", how, ("clip", "missing", "drop"))
        self.how, self.edges = how, (low, high)

    def apply(self, x: Array, fit: bool, order: Array) -> tuple[Array, Array | None]:
        odd = (x < self._low) | (x > self._high)
        if fit:
            self.counts["out"] = self.counts.get("out", 0) + int(odd.sum())
        if self._how == 0:
            return np.clip(x, self._low, self._high), None
        if self._how == 1:
            return np.where(odd, np.float32(np.nan), x), None
        return x, np.logical_not(odd.any(axis=1))


@stage("outliers")
class Outliers(Fitted):
    """Values more than `z` standard deviations from the mean, once `least` rows are seen: clip, missing or drop the row."""

    rules: ClassVar = {"moments": "moments"}

    def __init__(self, z: float = 4.0, how: str = "clip", least: int = 30, columns: str = "") -> None:
        super().__init__(columns)
        self._z, self._how, self._least = z, chosen("outliers how", how, ("clip", "missing", "drop")), least

    def bound(self, schema: Schema, d: int) -> Schema:
        self.arrays = {"moments": np.zeros((3, d))}
        return schema

    def apply(self, x: Array, fit: bool, order: Array) -> tuple[Array, Array | None]:
        out, keep = np.empty_like(x), np.empty(len(x), np.uint8)
        found = _native.clean_outliers(x, self.arrays["moments"], self._z, self._least, self._how, fit, out, keep)
        if fit:
            self.counts["out"] = self.counts.get("out", 0) + found
        return out, keep if self._how == 2 else None


@stage("impute")
class Impute(Fitted):
    """Missing values become the mean, the median, the last value or a constant (`how`); `flag`: a column says where."""

    rules: ClassVar = {"mean": "moments", "last": "newest", "sketch": "add"}

    def __init__(self, how: str = "mean", value: float = 0.0, flag: bool = False, columns: str = "") -> None:
        super().__init__(columns)
        self._how, self._value, self._flag = how, value, flag
        chosen("impute how", how, ("mean", "median", "last", "constant"))

    def bound(self, schema: Schema, d: int) -> Schema:
        self._constant = np.full(d, self._value, np.float32)
        made = {"mean": np.zeros((2, d)), "last": np.concatenate([np.full((1, d), -1.0), np.zeros((1, d))]),
                "median": np.zeros((d, BINS))}
        if self._how != "constant":
            self.arrays = {"sketch" if self._how == "median" else self._how: made[self._how]}
        self._fill: Array | None = None
        return widened(schema, [f"{name}?" for name in labels_of(schema, self.at)]) if self._flag else schema

    def apply(self, x: Array, fit: bool, order: Array) -> tuple[Array, Array | None]:
        out, flags = np.empty_like(x), np.empty_like(x) if self._flag else None
        if self._how == "median":
            if self._fill is None:
                self._fill = quantiles(self.arrays["sketch"], 0.5, self._constant)
            _native.clean_impute(x, np.zeros((2, x.shape[1])), 2, self._fill, False, out, flags)
            if fit:
                _native.clean_sketch(x, self.arrays["sketch"])
                self._fill = None
        elif self._how == "last":
            last = self.arrays["last"]
            held = np.stack([(last[0] >= 0).astype(np.float64), last[1]])
            _native.clean_impute(x, held, 1, self._constant, fit, out, flags)
            if fit and len(x):
                there = ~np.isnan(x)
                seen, back = there.any(0), len(x) - 1 - there[::-1].argmax(0)
                last[0], last[1] = np.where(seen, order[back], last[0]), held[1]
        else:
            held = self.arrays.get("mean", np.zeros((2, x.shape[1])))
            _native.clean_impute(x, held, 0 if self._how == "mean" else 2, self._constant, fit, out, flags)
        return (out if flags is None else np.concatenate([out, flags], 1)), None

    def merged(self) -> None:
        self._fill = None


def quantiles(sketch: Array, q: float, empty: Array) -> Array:
    """float32 `(d,)`: the q-quantile of each column's sketch, within its bin by share; `empty` where nothing was counted."""
    total = sketch.sum(1)
    below = np.cumsum(sketch, 1)
    goal = q * total
    at = np.minimum((below < goal[:, None]).sum(1), BINS - 1)
    rows = np.arange(len(sketch))
    inside = sketch[rows, at]
    share = np.clip(np.divide(goal - (below[rows, at] - inside), inside, out=np.zeros_like(goal), where=inside > 0), 0, 1)
    low, high = edge(at), edge(at + 1)
    return np.where(total > 0, low + (high - low) * share, empty).astype(np.float32)


def edge(place: Array) -> Array:
    """The least value of each bin, in float32's own order."""
    ordered = np.minimum(place, BINS - 1).astype(np.uint64) << np.uint64(18)
    low = np.uint64(0x7FFFFFFF)
    bits = np.where(ordered > low, ordered & low, ~ordered & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    values = bits.view(np.float32).astype(np.float64)
    return np.where(np.isfinite(values), values, np.sign(values) * 3.4e38)


@stage("scale")
class Scale(Fitted):
    """`how`: standard (mean 0, deviation 1), minmax (0 to 1), robust (median 0, quartile distance 1)."""

    rules: ClassVar = {"moments": "moments", "low": "min", "high": "max", "sketch": "add"}

    def __init__(self, how: str = "standard", columns: str = "") -> None:
        super().__init__(columns)
        chosen("scale how", how, ("standard", "minmax", "robust"))
        self._how = self.how = how

    def bound(self, schema: Schema, d: int) -> Schema:
        made: Mapping[str, dict[str, Array]] = {
            "standard": {"moments": np.zeros((3, d))}, "robust": {"sketch": np.zeros((d, BINS))},
            "minmax": {"low": np.full(d, np.inf), "high": np.full(d, -np.inf)}}
        self.arrays = made[self._how]
        self._box: tuple[Array, Array] | None = None
        return schema

    def apply(self, x: Array, fit: bool, order: Array) -> tuple[Array, Array | None]:
        out = np.empty_like(x)
        if self._how == "standard":
            _native.clean_standard(x, self.arrays["moments"], fit, out)
        elif self._how == "minmax":
            edges = np.stack([self.arrays["low"], self.arrays["high"]])
            _native.clean_minmax(x, edges, fit, out)
            self.arrays["low"][:], self.arrays["high"][:] = edges
        else:
            middle, wide = self._quartiles()
            out = (x - middle) / wide
            if fit:
                _native.clean_sketch(x, self.arrays["sketch"])
                self._box = None
        return out, None

    def _quartiles(self) -> tuple[Array, Array]:
        if self._box is None:
            zero = np.zeros(len(self.arrays["sketch"]), np.float32)
            low, middle, high = (quantiles(self.arrays["sketch"], q, zero) for q in (0.25, 0.5, 0.75))
            self._box = middle, np.where(high > low, high - low, np.float32(1))
        return self._box

    def affine(self) -> tuple[Array, Array]:
        """(what is taken off, what is divided by) a column, float64; minmax says inf where a column never varied."""
        if self._how == "standard":
            n, mean, square = self.arrays["moments"]
            part = square / np.maximum(n, 1)
            return mean, np.sqrt(np.where(part > 0, part, 1.0))
        if self._how == "minmax":
            low, high = self.arrays["low"], self.arrays["high"]
            varied = high > low
            return np.where(varied, low, 0.0), np.where(varied, high, np.inf) - np.where(varied, low, 0.0)
        middle, wide = self._quartiles()
        return middle.astype(np.float64), wide.astype(np.float64)

    def merged(self) -> None:
        self._box = None
