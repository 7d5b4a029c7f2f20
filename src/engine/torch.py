"""PyTorch: gradients travel through our codecs. A communication hook for DistributedDataParallel, and an optimiser wrapper.

    model = DistributedDataParallel(net)
    hook = Hook("int8")
    model.register_comm_hook(hook, compress)      # hook.state_dict() belongs into the checkpoint

Each rank encodes its gradient with error feedback, all gather the frames and sum what they hold in rank order: the same bits on
every rank.  PyTorch is imported here only; buffers of a device travel by way of the host.
"""
from __future__ import annotations

import atexit
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from engine.codec import base, lowrank, quant, sparse  # noqa: F401 (they register their codecs)
from engine.errors import ConfigError
from engine.types import Array

Tensors = Sequence[torch.Tensor]
Sum = Callable[[Any], torch.Tensor]
# Callbacks that a thread of the process group may still hold.  One that lets go of its last one while the interpreter shuts
# down is ended in the middle of C++, which aborts the process after all its work was done.
_held: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _let_go(limit: float = 2.0) -> None:
    end = time.monotonic() + limit
    while len(_held) and time.monotonic() < end:
        time.sleep(0.002)


class Hook:
    """State of the hook: a codec, and for each parameter the residual that was not sent yet.

    `codec` is any name of `engine.codec` (int8, int4s, sign, bf16, topk, ...), `options` its own.  `group`: the process group
    (None: the default one).  Residuals belong to parameters, so they outlive the rebuilding of buckets.
    """

    def __init__(self, codec: str = "int8", *, group: Any = None, **options: Any) -> None:
        self.codec, self.group = base.codec(codec, **options), group
        self.step = 0
        self._states: dict[tuple[int, ...], base.State] = {}
        self._sizes_of: dict[int, int] = {}
        self._lost: dict[int, Array] = {}  # residual of a parameter whose bucket was taken apart

    def exchange(self, flat: torch.Tensor, parameters: Tensors) -> torch.Tensor:
        """The mean over ranks of `flat`, the concatenated gradients of `parameters`: `flat` itself, once all have sent."""
        sent, summed = self._send(flat, parameters)
        sent.wait()
        return summed(None)

    def start(self, flat: torch.Tensor, parameters: Tensors) -> torch.futures.Future[torch.Tensor]:
        """The same in a future: a thread of the process group sums when the frames are there."""
        sent, summed = self._send(flat, parameters)
        _held.add(summed)
        return sent.get_future().then(summed)

    def _send(self, flat: torch.Tensor, parameters: Tensors) -> tuple[Any, Sum]:
        if not dist.is_initialized():
            raise ConfigError("hook: torch.distributed is not initialised", fix="call init_process_group first")
        ranks = dist.get_world_size(self.group)
        gradient = flat.detach().to("cpu", torch.float32).numpy()
        frame = self.codec.encode(gradient, self._state(parameters, len(gradient)), self.step)
        self.step += 1
        mine = torch.frombuffer(bytearray(frame), dtype=torch.uint8)
        sizes = self._sizes(len(frame), ranks)
        room = max(sizes)
        if len(mine) < room:
            mine = torch.cat([mine, torch.zeros(room - len(mine), dtype=torch.uint8)])
        frames = torch.empty(ranks * room, dtype=torch.uint8)
        sent = dist.all_gather_into_tensor(frames, mine, group=self.group, async_op=True)

        def summed(_: Any) -> torch.Tensor:
            gradient[:] = 0  # of main memory and float32 it is `flat` itself
            for rank, size in enumerate(sizes):
                self.codec.decode_add(frames[rank * room:rank * room + size].numpy(), gradient)
            np.multiply(gradient, np.float32(1 / ranks), out=gradient)
            if gradient.ctypes.data != flat.data_ptr():
                flat.copy_(torch.from_numpy(gradient))
            return flat

        return sent, summed

    def _sizes(self, mine: int, ranks: int) -> list[int]:
        """Bytes of every rank's frame; only codecs that choose entries send frames of different lengths."""
        if not isinstance(self.codec, sparse.Topk):
            return [mine] * ranks
        found = [torch.empty(1, dtype=torch.int64) for _ in range(ranks)]
        dist.all_gather(found, torch.tensor([mine]), group=self.group)
        return [int(one) for one in found]

    def _state(self, parameters: Tensors, n: int) -> base.State:
        """The state of a bucket; where parameters were put together anew, their residuals move along."""
        key = tuple(id(p) for p in parameters)
        if key not in self._states:
            mine = set(key)
            for old in [k for k in self._states if mine & set(k)]:
                self._take_apart(old)
            made = self.codec.init(n)
            start = 0
            for p in parameters:
                kept = self._lost.pop(id(p), None)
                if kept is not None:
                    made["residual"][start:start + p.numel()] = kept
                start += p.numel()
            self._states[key] = made
            self._sizes_of |= {id(p): p.numel() for p in parameters}
        return self._states[key]

    def _take_apart(self, key: tuple[int, ...]) -> None:
        start, residual = 0, self._states.pop(key)["residual"]
        for name in key:
            size = self._sizes_of[name]
            self._lost[name] = residual[start:start + size].copy()
            start += size

    def state_dict(self, parameters: Tensors) -> dict[str, Any]:
        """Step and residuals of `parameters` (in the order of the model), to be saved with them on each rank."""
        for key in list(self._states):
            self._take_apart(key)
        return {"step": self.step, "residual": [None if id(p) not in self._lost else torch.from_numpy(self._lost[id(p)].copy())
                                                for p in parameters]}

    def load_state_dict(self, state: dict[str, Any], parameters: Tensors) -> None:
        """What `state_dict` gave, for the same parameters in the same order."""
        self.step = int(state["step"])
        self._states.clear()
        self._lost = {id(p): np.array(kept, np.float32) for p, kept in zip(parameters, state["residual"], strict=True)
                      if kept is not None}


def compress(hook: Hook, bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """The communication hook: `model.register_comm_hook(Hook("int8"), compress)`."""
    return hook.start(bucket.buffer(), bucket.parameters())


# DistributedDataParallel looks at the annotations as objects, not as text.
compress.__annotations__.update({"bucket": dist.GradBucket, "return": torch.futures.Future[torch.Tensor]})


class Optimizer:
    """Any optimiser, whose `step` first replaces each gradient by its mean over ranks, sent through a codec.

    >>> optimizer = Optimizer(torch.optim.SGD(net.parameters(), 0.1), "int8")
    """

    def __init__(self, optimizer: Any, codec: str = "int8", *, group: Any = None, **options: Any) -> None:
        self.optimizer, self.hook = optimizer, Hook(codec, group=group, **options)

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Exchanges, then steps (collective). A parameter without a gradient here counts as 0."""
        loss = closure() if closure is not None else None
        parameters = [p for p in self.parameters if p.requires_grad]
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.reshape(-1).float() for p in parameters if p.grad is not None])
        mean = self.hook.exchange(flat, parameters)
        start = 0
        for p in parameters:
            assert p.grad is not None
            p.grad.copy_(mean[start:start + p.numel()].view_as(p))
            start += p.numel()
        self.optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "hook": self.hook.state_dict(self.parameters)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.hook.load_state_dict(state["hook"], self.parameters)
