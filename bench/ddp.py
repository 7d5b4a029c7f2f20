"""One rank of the `ddp.int8` row: two models, one with the hook and one without, stepped in turn; JSON from rank 0."""
from __future__ import annotations

import json
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine.torch import Hook, compress

WIDTH, BATCH, STEPS, BUCKET_MB = 1536, 16, 4, 4  # buckets small enough to travel while others are still computed


def net() -> nn.Module:
    torch.manual_seed(0)
    hidden = [layer for _ in range(2) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), *hidden, nn.Linear(WIDTH, 1))


def batch(step: int, rank: int, rows: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(100_003 * step + rank)
    x = torch.randn(rows, 64, generator=g)
    return x, (x[:, :1] * x[:, 1:2] + x[:, 2:3]).tanh()


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    models = [DistributedDataParallel(net(), bucket_cap_mb=BUCKET_MB) for _ in range(2)]
    models[0].register_comm_hook(Hook("int8"), compress)
    steppers = [torch.optim.SGD(model.parameters(), 0.05, momentum=0.9) for model in models]
    done = [0, 0]

    def steps(which: int, count: int) -> float:
        dist.barrier()
        began = time.perf_counter()
        for _ in range(count):
            x, y = batch(done[which], rank)
            done[which] += 1
            steppers[which].zero_grad()
            ((models[which](x) - y) ** 2).mean().backward()
            steppers[which].step()
        dist.barrier()
        return (time.perf_counter() - began) / count

    for which in (0, 1):
        steps(which, 3)  # buckets are rebuilt after the first
    times: list[list[float]] = [[], []]
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            times[which].append(steps(which, STEPS))
    with torch.no_grad():
        x, y = batch(10**6, 0, 2000)
        loss = [float(((model(x) - y) ** 2).mean()) for model in models]
    if rank == 0:
        count = sum(p.numel() for p in net().parameters())
        print(json.dumps({"hook": times[0], "plain": times[1], "loss": loss, "parameters": count}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]))
