"""The DDP hook and the optimiser wrapper on two processes: the same bits on both, near the uncompressed run, resumable."""
import os
import socket
import subprocess
import sys

import pytest

pytest.importorskip("torch")

RANK = """
import os, sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from engine.torch import Hook, Optimizer, compress
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))

def batch(step):
    g = torch.Generator().manual_seed(1000 * step + rank)
    x = torch.randn(64, 20, generator=g)
    return x, (x[:, :1] * x[:, 1:2] + x[:, 2:3]).tanh()

def loss_of(model):
    g = torch.Generator().manual_seed(77)
    x = torch.randn(512, 20, generator=g)
    return float(((model(x) - (x[:, :1] * x[:, 1:2] + x[:, 2:3]).tanh()) ** 2).mean())

def learn(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        optimizer.zero_grad()
        x, y = batch(step)
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()

def digest(model):
    return float(sum((p.detach().double() * (i + 1)).sum() for i, p in enumerate(model.parameters())))

def same(value):
    seen = [None] * dist.get_world_size()
    dist.all_gather_object(seen, value)
    assert len(set(seen)) == 1, seen

def hooked(codec, **options):
    model = DistributedDataParallel(net(), bucket_cap_mb=0.01)
    hook = Hook(codec, **options)
    model.register_comm_hook(hook, compress)
    learn(model, torch.optim.SGD(model.parameters(), 0.2), 150)
    same(digest(model))
    return loss_of(model), hook, model

plain = DistributedDataParallel(net(), bucket_cap_mb=0.01)
learn(plain, torch.optim.SGD(plain.parameters(), 0.2), 150)
bar = loss_of(plain)
for codec, options, factor in (("int8", {}, 1.01), ("bf16", {}, 1.01), ("int4", {}, 1.05), ("topk", {"density": 0.1}, 1.5)):
    found, hook, model = hooked(codec, **options)
    if rank == 0:
        print(codec, found / bar, flush=True)
    assert found < bar * factor, (codec, found, bar)

# The wrapper learns the same as plain averaging; a run that is saved and loaded goes on with the same bits.
def wrapped():
    model = net()
    return model, Optimizer(torch.optim.SGD(model.parameters(), 0.2), "int8")
one, first = wrapped()
learn(one, first, 60)
two, second = wrapped()
learn(two, second, 30)
kept, weights = second.state_dict(), two.state_dict()
three, third = wrapped()
three.load_state_dict(weights)
third.load_state_dict(kept)
learn(three, third, 30, 30)
assert digest(one) == digest(three)
same(digest(one))
# a parameter without a gradient on one rank counts as 0 there
odd = nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
some = Optimizer(torch.optim.SGD(odd.parameters(), 0.1), "fp16")
odd[rank](torch.ones(1, 4)).sum().backward()
some.step()
dist.destroy_process_group()
print("done", flush=True)
"""


@pytest.mark.long
def test_two_ranks(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([sys.executable, tmp_path / "rank.py"], env={**env, "RANK": str(rank)}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in range(2)]
    for rank in ranks:
        out, err = rank.communicate(timeout=120)
        assert rank.returncode == 0 and out.endswith("done\n"), out + err


def test_a_hook_before_the_process_group_is_refused():
    import torch

    from engine.errors import ConfigError
    from engine.torch import Hook

    with pytest.raises(ConfigError, match="init_process_group"):
        Hook().exchange(torch.zeros(4), [torch.zeros(4)])
