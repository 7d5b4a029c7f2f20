"""A model of a foreign kind runs through everything that a linear one does."""
import json
import os
import sys

import numpy as np
import pytest

from engine.config import resolve
from engine.errors import ConfigError
from engine.models import registry
from engine.models.linear import Linear
from engine.session import Session
from engine.types import Block, Schema, Update


class Mean:
    """Predicts the mean target so far; its Update is dense, float64 and two wide."""

    def __init__(self, shift=0.0):
        self.bad, self.shift = 0, shift
        self.sums, self.base = np.zeros((1, 2)), np.zeros((1, 2))

    def predict(self, batch):
        return np.full(len(batch), self.shift + self.sums[0, 1] / max(self.sums[0, 0], 1), np.float32)

    def learn(self, batch):
        scores = self.predict(batch)
        self.sums += [len(batch), batch.y.sum(dtype=float)]
        return scores

    def link(self, scores):
        return scores

    def state(self):
        return {"model/mean": Block(self.sums.copy())}

    def load(self, state):
        self.sums[:] = self.base[:] = state["model/mean"].data

    def fork(self):
        twin = Mean(self.shift)
        twin.load(self.state())
        return twin

    def update(self):
        return Update(None, self.sums - self.base, float(self.sums[0, 0] - self.base[0, 0]))

    def merge(self, total, ranks):
        self.base += total.values
        self.sums[:] = self.base


def build(spec):
    return Mean(spec.options["rate"] or 0.0)


KIND = f"{__name__}:build"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__] if __name__ in sys.modules else type(sys)(__name__))
    monkeypatch.setattr(sys.modules[__name__], "build", build, raising=False)
    yield
    registry.KINDS.pop(KIND, None)


def settings(**more):
    return {"model.kind": KIND, "exchange.every": 8, "loop.threads": 2, **more}


def test_threads_exchange_checkpoints_and_resumes(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 2)).astype(np.float32), rng.normal(size=300).astype(np.float32)
    whole = Session(width=2, task="regression", **settings())
    whole.partial_fit(x[:200], y[:200]).checkpoint(str(tmp_path))
    np.testing.assert_allclose(whole.predict(x[:1]), y[:200].mean(), rtol=1e-5)
    again = Session(width=2, task="regression", **settings()).resume(str(tmp_path))
    for session in (whole, again):
        session.partial_fit(x[200:], y[200:])
    np.testing.assert_array_equal(whole.predict(x[:1]), again.predict(x[:1]))
    with pytest.raises(Exception, match="rate"):
        Session(width=2, task="regression", **settings(**{"model.rate": 3.0})).resume(str(tmp_path))


@pytest.mark.parametrize("size", [2])
def test_a_foreign_kind_trains_and_predicts_on_ranks(size, tmp_path, mpirun):
    (tmp_path / "mean_kind.py").write_text(
        f"import importlib.util as u, sys\ns = u.spec_from_file_location('held', {__file__!r})\n"
        "m = u.module_from_spec(s)\ns.loader.exec_module(m)\nbuild = m.build\n")
    data = tmp_path / "rows.csv"
    data.write_text("a,y\n" + "".join(f"{i},{i % 7}.5\n" for i in range(500)))
    args = ["-m", "engine", "train", data, "--checkpoint", tmp_path / "c", "--run-dir", "-", "--json",
            "model.kind=mean_kind:build", "loop.threads=1", "exchange.every=16"]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = mpirun(size, args, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 500
    out = tmp_path / "out"
    done = mpirun(1, ["-m", "engine", "predict", tmp_path / "c", data, "-o", out], PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    want = np.mean([i % 7 + 0.5 for i in range(500)])
    np.testing.assert_allclose(np.loadtxt(out), want, rtol=1e-5)


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="found 'linaer'") as caught:
        Session(width=2, **{"model.kind": "linaer"})
    assert "linear" in caught.value.fix
    with pytest.raises(ConfigError, match="cannot import"):
        Session(width=2, **{"model.kind": "no.such:thing"})


def test_linear_is_built_as_configured():
    options = {"learner": "pa1", "rate": 0.5, "bias": 2.0, "l1": None}
    spec = registry.Spec(Schema(4, False, "multiclass", ("a", "b", "c")), 3, options)
    model = registry.build("linear", spec)
    assert isinstance(model, Linear)
    assert {k: model.options[k] for k in ("loss", "learner", "rate", "classes", "bias", "scale")} == {
        "loss": "hinge", "learner": "pa1", "rate": 0.5, "classes": 3, "bias": 2.0, "scale": True}
    assert resolve(env={}).model.kind == "linear"


def test_auto_is_a_learner_that_suits_the_rows():
    raw = Schema(64, True, "binary", numbers=True)
    assert registry.learner_of({"learner": "auto"}, raw) == "nag"
    assert registry.learner_of({"learner": "sgd"}, raw) == "sgd"
    assert registry.learner_of({"learner": "auto", "batch": 16}, raw) == "ftrl"
    assert registry.learner_of({}, Schema(64, True, "binary")) == registry.learner_of({}, Schema(8, False, "binary")) == "ftrl"


def test_sources_say_whether_sparse_rows_hold_raw_numbers(tmp_path):
    from engine.source.read import open_source

    def numbers(name, text, **options):
        (tmp_path / name).write_text(text)
        return open_source(str(tmp_path / name), **options).schema.numbers

    assert numbers("words.csv", "a,b,y\n" + "u,v,1\nw,v,0\n" * 9) is False
    assert numbers("both.csv", "a,b,y\n" + "u,3,1\nw,4,0\n" * 9) is True
    assert numbers("dense.csv", "a,b,y\n" + "1,3,1\n2,4,0\n" * 9) is False
    assert numbers("hashed.csv", "a,b,y\n" + "1,3,1\n2,4,0\n" * 9, hash_bits=10) is True
    assert numbers("near.svm", "1 1:1 2:0.5\n0 3:1\n" * 9) is False
    assert numbers("far.svm", "1 1:1 2:1900\n0 3:1\n" * 9) is True
