"""Changed copies of the rows, before they are learned: first links of a chain. Scores are of the rows as they came."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.errors import ConfigError
from engine.types import Array, Batch, Policy, State, Step
from engine.update.policy import generator, need, nothing, policy


def augment(change: Callable[[Array, np.random.Generator], Array], salt: int = 11) -> Policy:
    """A user's own: `change(x, rng)` gives rows of the same shape; `rng` is that of the step, so runs repeat."""
    def update(step: Step, state: State) -> None:
        rows = step.rows
        if rows.x is None:
            raise ConfigError("augment: expected dense rows, found sparse ones")
        x = np.ascontiguousarray(change(rows.x, generator(step, salt)), np.float32)
        if x.shape != rows.x.shape:
            raise ConfigError(f"augment: expected rows of shape {rows.x.shape}, found {x.shape}")
        step.rows = Batch(rows.y, rows.order, rows.previous, x=x, weight=rows.weight)

    return Policy(nothing, update)


@policy
def noise(scale: float = 0.1) -> Policy:
    """Adds normal noise of this standard deviation."""
    return augment(lambda x, rng: x + np.float32(scale) * rng.standard_normal(x.shape, np.float32), 12)


@policy
def mixup(alpha: float = 0.2) -> Policy:
    """Each row mixed with another of its label by a Beta(alpha, alpha) share (labels stay whole, so any loss will do)."""
    need(alpha > 0, f"mixup: expected alpha > 0, found {alpha}")

    def update(step: Step, state: State) -> None:
        rows, rng = step.rows, generator(step, 13)
        if rows.x is None:
            raise ConfigError("mixup: expected dense rows, found sparse ones")
        other = np.arange(len(rows))
        for label in np.unique(rows.y):
            places = np.flatnonzero(rows.y == label)
            other[places] = rng.permutation(places)
        share = rng.beta(alpha, alpha, (len(rows), 1)).astype(np.float32)
        x = np.ascontiguousarray(share * rows.x + (1 - share) * rows.x[other])
        step.rows = Batch(rows.y, rows.order, rows.previous, x=x, weight=rows.weight)

    return Policy(nothing, update)


@policy
def crop(height: int, width: int, pad: int = 2) -> Policy:
    """Images `(height, width, any channels)` a row, moved by up to `pad` pixels; what comes in is 0."""
    need(height > 0 and width > 0 and pad >= 0, "crop: expected a height and a width")

    def change(x: Array, rng: np.random.Generator) -> Array:
        image = _images(x, height, width)
        out = np.zeros_like(image)
        moves = rng.integers(-pad, pad + 1, (len(image), 2))
        for (down, right), one, to in zip(moves.tolist(), image, out, strict=True):
            source = one[max(0, -down): height - max(0, down), max(0, -right): width - max(0, right)]
            to[max(0, down): height - max(0, -down), max(0, right): width - max(0, -right)] = source
        return out.reshape(x.shape)

    return augment(change, 14)


@policy
def flip(height: int, width: int, chance: float = 0.5) -> Policy:
    """Images turned left to right, by this chance."""
    need(0 <= chance <= 1, f"flip: expected a chance in [0, 1], found {chance}")

    def change(x: Array, rng: np.random.Generator) -> Array:
        image = _images(x, height, width)
        turned = rng.random(len(image)) < chance
        return np.where(turned[:, None, None, None], image[:, :, ::-1], image).reshape(x.shape)

    return augment(change, 15)


def _images(x: Array, height: int, width: int) -> Array:
    if x.shape[1] % (height * width):
        raise ConfigError(f"image policy: expected rows of {height} x {width} pixels, found {x.shape[1]} columns")
    return x.reshape(len(x), height, width, -1)
