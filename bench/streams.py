"""The streams both sides read: real files turned into arrays, and the same rows written in the peers' formats."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.types import Array, Batch


@dataclass(slots=True)
class Rows:
    """Sparse rows in memory: `indptr` int64, `keys` uint32, `values` float32 or None = 1, `y` float32 of 0/1."""

    indptr: Array
    keys: Array
    values: Array | None
    y: Array

    def batch(self, times: int = 1) -> Batch:
        """The rows as one Batch, `times` over, with the places and previous labels that scoring needs."""
        nnz = int(self.indptr[-1])
        indptr = np.concatenate([self.indptr, *(self.indptr[1:] + nnz * turn for turn in range(1, times))])
        y = np.tile(self.y, times)
        previous = np.concatenate([[np.float32(np.nan)], y[:-1]]).astype(np.float32)
        values = None if self.values is None else np.tile(self.values, times)
        return Batch(y, np.arange(len(y), dtype=np.int64), previous,
                     indptr=indptr, keys=np.tile(self.keys, times), values=values)

    def write_vw(self, path: Path, times: int = 1) -> Path:
        """The same rows as VW text, labels -1/1, values of 1 left out, `times` over."""
        sign = np.where(self.y > 0, "1", "-1").tolist()
        words = self.keys.astype(str).tolist() if self.values is None else [
            f"{key}:{value:g}" for key, value in zip(self.keys.tolist(), self.values.tolist(), strict=True)]
        ends = self.indptr.tolist()
        text = "".join(f"{label} | {' '.join(words[start:stop])}\n"
                       for label, start, stop in zip(sign, ends[:-1], ends[1:], strict=True))
        with path.open("w") as out:
            for _ in range(times):
                out.write(text)
        return path


def libsvm(path: Path) -> Rows:
    """A libsvm file of two classes; values of 1 everywhere are dropped."""
    labels, ends, keys, values = [], [0], [], []
    with path.open() as lines:
        for text in lines:
            label, *words = text.split()
            labels.append(float(label) > 0)
            for word in words:
                key, value = word.split(":")
                keys.append(int(key))
                values.append(float(value))
            ends.append(len(keys))
    held = np.array(values, np.float32)
    return Rows(np.array(ends, np.int64), np.array(keys, np.uint32), None if (held == 1).all() else held,
                np.array(labels, np.float32))


def zipf(n: int, width: int = 40, bits: int = 24, seed: int = 7) -> Rows:
    """A click stream: `width` Zipf-distributed keys a row hashed to `bits` bits; a hidden logistic model clicks.

    Field f of a row draws a value of its own vocabulary, so the head of every field is hot and the tail is cold; the
    hidden weight of a key is a fixed function of the key, so the stream needs no table to be made.
    """
    draw = np.random.default_rng(seed)
    value = np.minimum(draw.zipf(1.2, (n, width)), 1 << 40).astype(np.uint64)
    with np.errstate(over="ignore"):
        odd = np.uint64(0xD6E8FEB86659FD93)
        mixed = (value + np.arange(width, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) * odd
        mixed = (mixed ^ (mixed >> np.uint64(32))) * odd
    keys = (mixed >> np.uint64(64 - bits)).astype(np.uint32)
    weight = ((mixed & np.uint64(0xFFFF)).astype(np.float32) / 32768 - 1) * np.float32(0.6)
    margin = weight.sum(1) - np.float32(1.0)
    y = (draw.random(n, dtype=np.float32) < 1 / (1 + np.exp(-margin))).astype(np.float32)
    return Rows(np.arange(n + 1, dtype=np.int64) * width, keys.ravel(), None, y)


def electricity(path: Path) -> tuple[Array, Array]:
    """Elec2: `x` float32 (45312, 8) as it stands in the file, `y` float32 of 0/1."""
    held = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32)
    return np.ascontiguousarray(held[:, :-1]), np.ascontiguousarray(held[:, -1])


def dense(x: Array, y: Array) -> Batch:
    """A dense Batch of the rows in their order."""
    previous = np.concatenate([[np.float32(np.nan)], y[:-1]]).astype(np.float32)
    return Batch(y, np.arange(len(y), dtype=np.int64), previous, x=x)


def logloss(probability: Array, y: Array) -> float:
    """Mean log loss in nats of predicted probabilities of class 1."""
    p = np.clip(np.where(y > 0, probability, 1 - probability).astype(np.float64), 1e-15, 1)
    return float(-np.log(p).mean())
