"""Losses over raw outputs `(n, C)`: slopes for the gradient, and outputs as the scores a meter takes."""
from __future__ import annotations

import numpy as np

from engine.types import Array

FLOOR = 6e-8  # probabilities are held in [FLOOR, 1 - FLOOR]


def softmax(outputs: Array, live: Array | None = None, temperature: float = 1.0) -> Array:
    """Probabilities float32 `(n, C)` over the classes that are `live` (bool `(C,)`); 0 for the others."""
    z = outputs if temperature == 1 else outputs / np.float32(temperature)
    if live is not None and not live.all():
        z = np.where(live, z, np.float32(-np.inf)) if live.any() else np.zeros_like(z)
    p = z - z.max(axis=1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    return p


def sigmoid(outputs: Array) -> Array:
    """1 / (1 + exp(-outputs)), held where exp is finite."""
    return 1 / (1 + np.exp(-np.clip(outputs, -87, 87)))


def slope(loss: str, outputs: Array, y: Array, weight: Array | None, live: Array | None) -> Array:
    """Derivative of the mean loss with regard to each output, float32 `(n, C)`; loss softmax, logistic or squared."""
    if loss == "softmax":
        out = softmax(outputs, live)
        out[np.arange(len(y)), y.astype(np.intp)] -= 1
    elif loss == "logistic":
        out = sigmoid(outputs) - (y > 0)[:, None]
    else:
        out = outputs - y[:, None]
    total = float(len(y)) if weight is None else float(weight.sum())
    out *= np.float32(1 / max(total, 1e-30)) if weight is None else (weight / max(total, 1e-30)).astype(np.float32)[:, None]
    return out.astype(np.float32, copy=False)


def value(loss: str, outputs: Array, y: Array, live: Array | None) -> float:
    """Mean loss in float64 (half the square, for squared)."""
    z = outputs.astype(np.float64)
    if loss == "softmax":
        return float(-np.log(np.maximum(softmax(z, live)[np.arange(len(y)), y.astype(np.intp)], 1e-300)).mean())
    if loss == "logistic":
        return float(np.logaddexp(0, np.where(y > 0, -1, 1) * z[:, 0]).mean())
    return float(((z[:, 0] - y) ** 2).mean() / 2)


def scores(loss: str, outputs: Array, live: Array | None) -> Array:
    """What the meter takes: margins or values `(n,)`, or the log odds of each class `(n, C)`."""
    if loss != "softmax":
        return np.array(outputs[:, 0], np.float32)  # a copy: the net writes its outputs anew each time
    p = np.clip(softmax(outputs, live), FLOOR, 1 - FLOOR)
    return (np.log(p) - np.log1p(-p)).astype(np.float32)
