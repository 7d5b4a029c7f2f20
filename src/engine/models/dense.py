"""Multi-layer perceptron of up to four layers: gradients in BLAS calls on views of one flat parameter vector."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from engine.errors import ConfigError, DataError
from engine.models.graded import Graded, logits
from engine.models.registry import Spec, kind, step_rows
from engine.types import Array, Batch

LAYERS_MAX = 4


class Mlp:
    """A `Net`: `sizes` = columns, hidden units a layer, outputs; relu or tanh between layers.

    Weights (He, or Glorot for tanh) come from the seed alone.  Sparse rows are taken where the first size is the key
    space: a row's first layer is then the sum of its keys' weight rows.  spans: w0, b0, w1, b1, ...
    """

    def __init__(self, sizes: Sequence[int], *, activation: str = "relu", seed: int = 0) -> None:
        if not 2 <= len(sizes) <= LAYERS_MAX + 1 or min(sizes) < 1:
            raise ConfigError(f"mlp: expected 1 to {LAYERS_MAX} layers of at least one unit, found {list(sizes)}")
        if activation not in ("relu", "tanh"):
            raise ConfigError(f"mlp: expected activation relu or tanh, found {activation!r}")
        self.sizes, self.activation, self.outputs = tuple(sizes), activation, sizes[-1]
        rng, at = np.random.default_rng(seed), 0
        spans: dict[str, slice] = {}
        for i, (a, b) in enumerate(pairwise(sizes)):
            spans |= {f"w{i}": slice(at, at + a * b), f"b{i}": slice(at + a * b, at + a * b + b)}
            at += a * b + b
        self.spans: Mapping[str, slice] = spans
        self.theta, self._g = np.zeros(at, np.float32), np.zeros(at, np.float32)
        self._w, self._b = self._views(self.theta)
        self._gw, self._gb = self._views(self._g)
        for w in self._w:
            w[:] = rng.standard_normal(w.shape, np.float32) * np.float32(np.sqrt((2 if activation == "relu" else 1) / len(w)))
        self._tape: tuple[Batch, list[Array]] | None = None
        self._room: dict[tuple[int, int], Array] = {}

    def _views(self, flat: Array) -> tuple[list[Array], list[Array]]:
        shapes = list(pairwise(self.sizes))
        return ([flat[self.spans[f"w{i}"]].reshape(s) for i, s in enumerate(shapes)],
                [flat[self.spans[f"b{i}"]] for i in range(len(shapes))])

    def forward(self, batch: Batch) -> Array:
        """Raw outputs `(n, outputs)`; keeps the activations for the `pull` of the same batch."""
        held: list[Array] = []
        h: Array | None = batch.x
        for i, (w, b) in enumerate(zip(self._w, self._b, strict=True)):
            if h is None:
                z = _sparse_product(batch, w)
            else:
                held.append(h)
                z = self._buffer(len(h), w.shape[1], i)
                np.matmul(h, w, out=z)
            z += b
            if i + 1 < len(self._w):
                np.maximum(z, 0, out=z) if self.activation == "relu" else np.tanh(z, out=z)
            h = z
        assert h is not None
        self._tape = (batch, held)
        return h

    def _buffer(self, rows: int, columns: int, layer: int) -> Array:
        found = self._room.get((rows, layer))
        if found is None:
            if len(self._room) > 64:
                self._room.clear()
            found = self._room[rows, layer] = np.empty((rows, columns), np.float32)
        return found

    def pull(self, batch: Batch, slope: Array) -> Array:
        """The gradient, in the net's own buffer; runs `forward` first where the last one was of other rows."""
        if self._tape is None or self._tape[0] is not batch:
            self.forward(batch)
        assert self._tape is not None
        held, d = list(self._tape[1]), slope
        for i in reversed(range(len(self._w))):
            d.sum(axis=0, out=self._gb[i])
            if not held:
                self._gw[i][:] = 0
                _sparse_gradient(batch, d, self._gw[i])
                break
            h = held.pop()
            np.matmul(h.T, d, out=self._gw[i])
            if i:
                d = d @ self._w[i].T
                if self.activation == "relu":
                    d *= h > 0
                else:
                    d *= 1 - h * h
        return self._g


def _sparse_product(batch: Batch, w: Array) -> Array:
    """Rows times `w` `(keys, units)`: the sum of the weights of each row's keys."""
    assert batch.keys is not None and batch.indptr is not None
    out = np.zeros((len(batch), w.shape[1]), np.float32)
    picked = w[batch.keys] if batch.values is None else w[batch.keys] * batch.values[:, None]
    full = np.flatnonzero(np.diff(batch.indptr))
    if len(full):
        out[full] = np.add.reduceat(picked, batch.indptr[full], axis=0)
    return out


def _sparse_gradient(batch: Batch, d: Array, out: Array) -> None:
    assert batch.keys is not None and batch.indptr is not None
    each = np.repeat(d, np.diff(batch.indptr), axis=0)
    np.add.at(out, batch.keys, each if batch.values is None else each * batch.values[:, None])


def hidden_sizes(words: Sequence[str | int]) -> list[int]:
    """Hidden units a layer, from the configuration."""
    try:
        return [int(word) for word in words]
    except ValueError:
        raise ConfigError(f"hidden: expected whole numbers, comma separated, found {', '.join(map(str, words))}") from None


@kind("mlp")
def build(spec: Spec) -> Graded:
    """Options: hidden, activation (section mlp), batch and the chain (section update)."""
    loss, outputs = logits(spec.schema.task, spec.classes)
    hidden = hidden_sizes(spec.options.get("hidden") or (128,))
    sizes = [spec.schema.width, *hidden, outputs]
    activation, seed = spec.options.get("activation") or "relu", spec.seed
    if spec.policy is None:
        raise DataError("mlp: expected a chain of policies, found none")
    scale = spec.options.get("scale")
    return Graded(lambda: Mlp(sizes, activation=activation, seed=seed), spec.policy, loss=loss, width=spec.schema.width,
                  batch=step_rows("mlp", spec.options.get("batch")), merge=spec.merge, seed=seed, tracked=spec.tracked,
                  scale=not spec.schema.sparse if scale is None else bool(scale))


@kind("softmax")
def build_softmax(spec: Spec) -> Graded:
    """An mlp without a hidden layer: one softmax over all classes (a logistic or linear unit for the other tasks)."""
    loss, outputs = logits(spec.schema.task, spec.classes)
    width, scale = spec.schema.width, spec.options.get("scale")

    def make() -> Mlp:
        net = Mlp([width, outputs], seed=spec.seed)
        net.theta[:] = 0
        return net

    if spec.policy is None:
        raise DataError("softmax: expected a chain of policies, found none")
    return Graded(make, spec.policy, loss=loss, width=width, batch=step_rows("softmax", spec.options.get("batch")),
                  merge=spec.merge, seed=spec.seed, tracked=spec.tracked,
                  scale=not spec.schema.sparse if scale is None else bool(scale))
