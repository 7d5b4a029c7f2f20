"""A JAX function as a `Net`: `make(spec)` gives `(function, params)`, the function of `(params, x)`, params any pytree.

    model.kind=jax model.make=package.module:function
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.models.graded import Graded, logits
from engine.models.registry import Spec, kind, made_by, step_rows
from engine.types import Array, Batch


class JaxNet:
    """`function(params, x)` takes float32 `(n, columns)` and gives `(n, outputs)`; both passes are compiled once a shape."""

    def __init__(self, function: Callable[[Any, Any], Any], params: Any, outputs: int) -> None:
        import jax
        from jax.flatten_util import ravel_pytree

        flat, unravel = ravel_pytree(params)
        self.outputs, self.theta = outputs, np.array(flat, np.float32)
        self.spans: Mapping[str, slice] = {"params": slice(0, len(self.theta))}

        def run(theta: Any, x: Any) -> Any:
            return function(unravel(theta), x).reshape(x.shape[0], -1)

        def back(theta: Any, x: Any, slope: Any) -> Any:
            return jax.vjp(lambda t: run(t, x), theta)[1](slope)[0]

        self._forward, self._back = jax.jit(run), jax.jit(back)

    def forward(self, batch: Batch) -> Array:
        if batch.x is None:
            raise ConfigError("jax: expected dense rows, found sparse ones")
        out = np.array(self._forward(self.theta, batch.x), np.float32)
        if out.shape[1] != self.outputs:
            raise ConfigError(f"jax: expected a function of {self.outputs} outputs, found {out.shape[1]}")
        return out

    def pull(self, batch: Batch, slope: Array) -> Array:
        return np.array(self._back(self.theta, batch.x, slope), np.float32)


def _net(made: tuple[Callable[[Any, Any], Any], Any], outputs: int) -> JaxNet:
    return JaxNet(made[0], made[1], outputs)


@kind("jax")
def build(spec: Spec) -> Graded:
    """Options: make (section model), batch and the chain (section update)."""
    loss, outputs = logits(spec.schema.task, spec.classes)
    make = made_by(spec)
    if spec.policy is None:
        raise ConfigError("jax: expected a chain of policies, found none")
    scale = spec.options.get("scale")
    return Graded(lambda: _net(make(spec), outputs), spec.policy, loss=loss, width=spec.schema.width,
                  batch=step_rows("jax", spec.options.get("batch")), merge=spec.merge, seed=spec.seed, tracked=spec.tracked,
                  scale=bool(True if scale is None else scale))
