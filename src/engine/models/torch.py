"""A PyTorch module as a `Net`: `graded.Graded` makes a model of it that learns under any chain, on any number of ranks.

    model.kind=torch model.make=package.module:function      the function takes a Spec and gives the module

Its parameters become views of one flat array, which the chain changes in place; buffers (running statistics of a batch
norm) stay each replica's own and are neither merged nor saved.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.models.graded import Graded, logits
from engine.models.registry import Spec, kind, made_by, step_rows
from engine.types import Array, Batch


class TorchNet:
    """`module` takes float32 `(n, columns)` and gives `(n, outputs)`; every replica gives the same module anew."""

    def __init__(self, module: Any, outputs: int) -> None:
        import torch

        self._torch, self.module, self.outputs = torch, module, outputs
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not named or any(p.dtype != torch.float32 or p.device.type != "cpu" for _, p in named):
            raise ConfigError("torch: expected parameters of float32 on the CPU, found others or none",
                              fix="module.float().cpu()")
        flat = torch.cat([p.detach().reshape(-1) for _, p in named]).contiguous()
        grad = torch.zeros_like(flat)
        spans, at = {}, 0
        for name, p in named:
            end = at + p.numel()
            spans[name] = slice(at, end)
            p.data = flat[at:end].view_as(p)
            p.grad = grad[at:end].view_as(p)
            at = end
        self.spans: Mapping[str, slice] = spans
        self.theta: Array = flat.numpy()
        self._grad: Array = grad.numpy()
        self._tape: tuple[Batch, Any] | None = None

    def forward(self, batch: Batch) -> Array:
        """Raw outputs `(n, outputs)`; keeps the graph for the `pull` of the same batch."""
        if batch.x is None:
            raise ConfigError("torch: expected dense rows, found sparse ones")
        out = self.module(self._torch.from_numpy(np.ascontiguousarray(batch.x)))
        out = out.reshape(len(batch), -1)
        if out.shape[1] != self.outputs:
            raise ConfigError(f"torch: expected a module of {self.outputs} outputs, found {out.shape[1]}")
        self._tape = (batch, out)
        return np.asarray(out.detach().numpy())

    def pull(self, batch: Batch, slope: Array) -> Array:
        """The gradient by the module's own backward pass."""
        if self._tape is None or self._tape[0] is not batch:
            self.forward(batch)
        assert self._tape is not None
        self._grad[:] = 0
        self._tape[1].backward(self._torch.from_numpy(np.ascontiguousarray(slope, np.float32)))
        self._tape = None
        return self._grad


@kind("torch")
def build(spec: Spec) -> Graded:
    """Options: make (section model), batch and the chain (section update)."""
    import torch

    loss, outputs = logits(spec.schema.task, spec.classes)
    make = made_by(spec)

    def net() -> TorchNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            return TorchNet(make(spec), outputs)

    if spec.policy is None:
        raise ConfigError("torch: expected a chain of policies, found none")
    scale = spec.options.get("scale")
    return Graded(net, spec.policy, loss=loss, width=spec.schema.width, batch=step_rows("torch", spec.options.get("batch")),
                  merge=spec.merge, seed=spec.seed, tracked=spec.tracked, scale=bool(True if scale is None else scale))
