"""Models of other libraries learn through the engine: alone, as replicas that merge, and under a launcher."""
import json
import os

import numpy as np
import pytest

from engine.errors import ConfigError
from engine.models import registry
from engine.types import Batch, Schema
from engine.update.merge import combine
from engine.update.policy import parse

MAKE = '''
def net(spec):
    import torch
    return torch.nn.Sequential(torch.nn.Linear(spec.schema.width, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

def function(spec):
    import numpy as np
    rng = np.random.default_rng(spec.seed)
    def run(params, x):
        import jax.numpy as jnp
        return jnp.tanh(x @ params["a"] + params["c"]) @ params["b"]  # without c it is odd: no class could be in the middle
    shapes = {"a": (spec.schema.width, 16), "b": (16, 3), "c": (16,)}
    return run, {name: rng.normal(size=shape).astype("f") * 0.4 for name, shape in shapes.items()}

def line(spec):
    from sklearn.linear_model import SGDClassifier
    return SGDClassifier(loss="log_loss", alpha=1e-5, random_state=0)

def layers(spec):
    from sklearn.neural_network import MLPClassifier
    return MLPClassifier((16,), random_state=0, learning_rate_init=0.01)
'''
KINDS = [("torch", "net"), ("jax", "function"), ("sklearn", "line"), ("sklearn", "layers")]


@pytest.fixture(params=KINDS, ids=lambda k: f"{k[0]}.{k[1]}")
def make(request, tmp_path, monkeypatch):
    kind, function = request.param
    pytest.importorskip(kind)
    (tmp_path / "made_here.py").write_text(MAKE)
    monkeypatch.syspath_prepend(tmp_path)

    def built(**more):
        spec = registry.Spec(Schema(5, False, "multiclass", ("0", "1", "2")), 3, policy=parse("adam(0.01)"),
                             options={"make": f"made_here:{function}", "scale": False, "batch": 16}, **more)
        return registry.build(kind, spec)

    built.kind, built.function = kind, function
    return built


def rows(seed, n=160):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    y = np.digitize(x[:, 0] - x[:, 1], [-0.7, 0.7]).astype(np.float32)
    return Batch(y, np.arange(n), np.full(n, np.nan, np.float32), x=x)


def test_it_learns_resumes_and_merges(make):
    m = make()
    for seed in range(6):
        m.learn(rows(seed))
    probe = rows(99)
    assert (m.predict(probe).argmax(1) == probe.y).mean() > 0.8
    again = make()
    again.load(m.state())
    np.testing.assert_allclose(again.predict(probe), m.predict(probe), rtol=1e-5, atol=1e-5)
    m.load(m.state())  # the base from here on
    team = [m, m.fork(), m.fork()]
    for i, one in enumerate(team):
        one.learn(rows(50 + i))
    total = combine([one.update() for one in team])
    for one in team:
        one.merge(total, 3)
    for one in team[1:]:
        for path, block in team[0].state().items():
            if path != "model/steps":
                np.testing.assert_array_equal(block.data, one.state()[path].data)
    assert (team[0].predict(probe).argmax(1) == probe.y).mean() > 0.8
    odd = rows(3, 16)
    odd.x[2, 1], odd.y[5] = np.nan, np.nan
    assert len(m.learn(odd)) == 16 and m.bad == 1


def test_the_gradient_of_a_net_is_that_of_finite_differences(make):
    m = make()
    if not hasattr(m, "net"):
        pytest.skip("it gives no gradients")
    net, batch = m.net, rows(1, 12)
    slope = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    net.forward(batch)
    g = net.pull(batch, slope).astype(float).copy()
    way = np.random.default_rng(1).normal(size=len(net.theta))
    start, values = net.theta.copy(), []
    for sign in (1, -1):
        net.theta[:] = start + sign * 1e-3 * way
        values.append(float((net.forward(batch) * slope).sum()))
    np.testing.assert_allclose((values[0] - values[1]) / 2e-3, g @ way, rtol=2e-2, atol=2e-2)


@pytest.mark.long
def test_it_trains_on_two_ranks(make, tmp_path, mpirun):
    batch = rows(7, 1200)
    np.savez(tmp_path / "rows.npz", x=batch.x, y=batch.y)
    args = ["-m", "engine", "train", tmp_path / "rows.npz", "--run-dir", "-", "--json", "--quiet", "loop.threads=1",
            f"model.kind={make.kind}", f"model.make=made_here:{make.function}", "exchange.every=32", "update.batch=16",
            *(["update.chain=adam(0.03)"] if make.kind in registry.GRADED else [])]
    done = mpirun(2, args, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == 1200 and found["accuracy"] > 0.6


def test_what_cannot_be_made_is_refused(make, tmp_path):
    schema = Schema(5, False, "multiclass", ("0", "1", "2"))
    spec = registry.Spec(schema, 3, policy=parse("adam"), options={"make": "made_here:no"})
    with pytest.raises(ConfigError, match=r"model\.make"):
        registry.build(make.kind, spec)
    if make.kind == "sklearn":
        from sklearn.naive_bayes import GaussianNB

        from engine.models.sklearn import Estimator
        with pytest.raises(ConfigError, match="coefficients"):
            Estimator(GaussianNB(), 5, "multiclass", 3)
