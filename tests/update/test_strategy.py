"""What each strategy learns, when, and from which rows; and which one a budget buys."""
import json

import numpy as np
import pytest

from engine.config import resolve
from engine.errors import ConfigError, DataError
from engine.models.linear import Linear
from engine.session import Session
from engine.types import Batch
from engine.update.strategy import Facts, Wish, budget, choose, recipe


def stream(n=3000, turn=1500, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    y = (x[:, 0] + 0.2 * x[:, 1] > 0).astype(np.float32)
    y[turn:] = 1 - y[turn:]
    return x, y


def session(**settings):
    return Session(width=3, **{"loop.threads": 1, **settings})


def learned(model_settings, x, y):
    """What a new model has learned from these rows."""
    m = Linear(3, scale=True, **model_settings)
    m.learn(Batch(y, np.arange(len(y)), np.full(len(y), np.nan, np.float32), x=x))
    return m


@pytest.mark.parametrize("window", [0, 600])
def test_a_retrained_model_is_that_of_its_rows_alone(window):
    x, y = stream(2000)
    s = session(**{"update.strategy": "retrain", "update.every": 500, "update.window": window})
    for at in range(0, 2000, 125):
        s.partial_fit(x[at : at + 125], y[at : at + 125])
    first = max(0, 2000 - window) if window else 0
    want = learned({}, x[first:], y[first:])
    probe = stream(50, seed=9)[0]
    np.testing.assert_array_equal(s.predict(probe), want.predict(Batch(probe[:, 0], np.arange(50), probe[:, 0], x=probe)))
    assert [e["rows"] for e in s.events] == [500, 1000, 1500, 2000]
    s.partial_fit(x[:100], y[:100])  # it stands still until the next time
    np.testing.assert_array_equal(s.predict(probe), want.predict(Batch(probe[:, 0], np.arange(50), probe[:, 0], x=probe)))


def test_a_partition_waits_until_it_is_full():
    x, y = stream(1000)
    s = session(**{"update.strategy": "partition", "update.every": 400})
    s.partial_fit(x[:399], y[:399])
    assert not s.predict(x[:5]).any()
    s.partial_fit(x[399:400], y[399:400])
    s.partial_fit(x[400:1000], y[400:1000])
    want = learned({}, x[:800], y[:800])
    np.testing.assert_array_equal(s.predict(x[:5]), want.predict(Batch(y[:5], np.arange(5), y[:5], x=x[:5])))
    s.partial_fit(x[:1], y[:1])


def test_epochs_repeat():
    x, y = stream(400)
    s = session(**{"update.strategy": "partition", "update.every": 400, "update.epochs": 3})
    s.partial_fit(x, y)
    m = Linear(3, scale=True)
    for _ in range(3):
        m.learn(Batch(y, np.arange(400), np.full(400, np.nan, np.float32), x=x))
    np.testing.assert_array_equal(s.predict(x[:5]), m.predict(Batch(y[:5], np.arange(5), y[:5], x=x[:5])))


def test_a_drift_is_noted_and_answered():
    x, y = stream(4000, 2000)
    found = {}
    for answer in ("mark", "reset", "retrain"):
        s = session(**{"update.drift": "adwin", "update.on_drift": answer, "update.window": 300, "exchange.every": 32})
        s.partial_fit(x, y)
        found[answer] = s.summary()["accuracy"]
        drifts = [e["rows"] for e in s.events if e["event"] == "drift"]
        assert drifts and 2000 < drifts[0] < 2200, answer
    assert found["reset"] > found["mark"] and found["retrain"] > found["mark"]


def test_a_drift_of_a_regression_is_found():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3)).astype(np.float32)
    y = (x[:, 0] * np.repeat([1, -8], 2000) + 0.1 * rng.normal(size=4000)).astype(np.float32)
    s = Session(width=3, task="regression", **{"loop.threads": 1, "update.drift": "page-hinkley", "exchange.every": 16})
    s.partial_fit(x, y)
    drifts = [e["rows"] for e in s.events]
    assert drifts and 2000 < drifts[0] < 2400


def test_a_task_begins_at_a_drift():
    x, y = stream(2400, 1200)
    s = session(**{"update.drift": "adwin", "update.on_drift": "task", "model.kind": "mlp", "exchange.every": 32})
    s.partial_fit(x, y)
    assert s._job.team.models[0].task == len(s.events) > 0


def test_the_gate_keeps_a_worse_model_in():
    x, y = stream(2000, 2000)
    noise = np.random.default_rng(1).integers(0, 2, 1000).astype(np.float32)
    s = session(**{"update.strategy": "retrain", "update.every": 1000, "update.window": 1000, "update.gate": "accuracy",
                   "loop.window": 1000})
    s.partial_fit(x[:1000], y[:1000])
    s.partial_fit(x[1000:], y[1000:])
    before = s.predict(x[:5])
    s.partial_fit(x[:1000], noise)
    s.partial_fit(x[:1000], y[:1000])
    assert s.events[0]["event"] == "relearned"
    kept = [e for e in s.events if e["event"] == "gate"]
    assert all(e["found"] < e["live"] for e in kept)
    with pytest.raises(ConfigError, match="metric of the task"):
        session(**{"update.strategy": "retrain", "update.every": 10, "update.gate": "rmse"}).partial_fit(x[:50], y[:50])
    assert np.isfinite(before).all()


def test_a_model_is_let_out_only_if_it_is_no_worse(tmp_path):
    from engine.store import checkpoint as store

    x, y = stream(3000, 10**9)
    s = session(**{"update.publish": str(tmp_path), "update.gate": "accuracy", "update.every": 500})
    for at in range(0, 2000, 100):
        s.partial_fit(x[at : at + 100], y[at : at + 100])
    out = store.steps(tmp_path)
    assert out
    rng = np.random.default_rng(0)
    for _ in range(10):
        s.partial_fit(x[:100], rng.integers(0, 2, 100).astype(np.float32))
    for at in range(2000, 3000, 100):
        s.partial_fit(x[at : at + 100], y[at : at + 100])
    gates = [e for e in s.events if e["event"] == "gate"]
    assert all(e["found"] < e["live"] for e in gates)


def test_rows_that_are_gone_are_an_error_that_says_so():
    x, y = stream(100)
    s = session(**{"update.strategy": "retrain", "update.every": 50, "update.spool": "none"})
    with pytest.raises(DataError, match="neither the source can be read twice nor are rows kept"):
        s.partial_fit(x, y)


def test_a_part_alone_learns():
    x, y = stream(300)
    s = session(**{"model.kind": "mlp", "update.strategy": "partial", "update.parts": "1"})
    net = s._job.team.models[0].net
    before = net.theta.copy()
    s.partial_fit(x, y)
    np.testing.assert_array_equal(net.theta[net.spans["w0"]], before[net.spans["w0"]])
    assert not np.array_equal(net.theta[net.spans["w1"]], before[net.spans["w1"]])
    with pytest.raises(ConfigError, match="parts that learn"):
        session(**{"model.kind": "mlp", "update.strategy": "partial"})


def test_a_student_learns_from_a_checkpoint(tmp_path):
    x, y = stream(3000, 10**9)
    teacher = session(**{"model.kind": "mlp", "mlp.hidden": "64"})
    teacher.partial_fit(x, y).checkpoint(str(tmp_path))
    rng = np.random.default_rng(0)
    student = session(**{"model.kind": "mlp", "mlp.hidden": "4", "update.strategy": "distil", "update.teacher": str(tmp_path),
                         "update.teacher_share": 1.0, "update.chain": "adam(0.01)"})
    student.partial_fit(x, rng.integers(0, 2, 3000).astype(np.float32))
    assert ((student.predict(x) > 0) == y).mean() > 0.9
    with pytest.raises(ConfigError, match="expected a teacher"):
        session(**{"model.kind": "mlp", "update.strategy": "distil"})


def test_auto_takes_what_the_budget_allows():
    wish, rich, poor = Wish(every=1000), Facts(20000, 100, 50, 1e6), Facts(1e7, 100, 50, 1e4)
    assert choose(rich, budget("60s"), wish)[0] == "retrain"
    assert choose(rich, budget("60s"), wish)[1].window == 0
    name, made, why = choose(rich, budget("60s,300kb"), wish)
    assert name == "retrain" and 4000 <= made.window < 6000 and "window" in why
    assert choose(rich, budget("60s,10kb"), wish)[0] == "incremental"
    assert choose(poor, budget("60s"), wish)[0] == "incremental"
    assert "one pass alone" in choose(poor, budget("60s"), wish)[2]
    assert budget("5m, 2GB") == (300.0, 2e9)
    with pytest.raises(ConfigError, match="duration or a size"):
        budget("fast")
    x, y = stream(4000)
    s = session(**{"update.strategy": "auto", "update.budget": "1h"})
    s.partial_fit(x, y)
    assert s.events[0]["chosen"] == "retrain" and json.dumps(s.events[0]["why"])


@pytest.mark.parametrize("settings", [
    {"update.chain": "adam(0.1)"}, {"update.strategy": "partial", "update.parts": "1"}, {"update.batch": 8},
    {"update.drift": "adwin", "update.on_drift": "task"}, {"model.kind": "bayes", "update.chain": "sgd(0.1)"},
])
def test_what_a_kind_has_no_use_for_is_refused(settings):
    with pytest.raises(ConfigError, match=r"model\.kind|knows no tasks"):
        session(**settings)


def test_names_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="retrain"):
        recipe("retrian", Wish())
    with pytest.raises(ConfigError):
        resolve(overrides=["update.strategy=retrian"], env={})


def test_two_ranks_relearn_drift_and_resume_alike(tmp_path, mpirun):
    base = ["-m", "engine", "train", "make:sea?rows=8000&drift=2000", "--run-dir", "-", "--json", "--quiet", "loop.threads=1",
            "exchange.every=32", "update.strategy=retrain", "update.every=1000", "update.window=1500", "update.drift=adwin",
            "update.on_drift=retrain"]
    whole = mpirun(2, base)
    assert whole.returncode == 0, whole.stderr
    half = mpirun(2, [*base, "--checkpoint", tmp_path, "loop.stop_after_rows=4000"])
    assert half.returncode == 0, half.stderr
    rest = mpirun(2, [*base, "--checkpoint", tmp_path, "--resume"])
    assert rest.returncode == 0, rest.stderr
    a, b = json.loads(whole.stdout), json.loads(rest.stdout)
    assert a["rows"] == b["rows"] == 8000
    assert a["accuracy"] == b["accuracy"] and a["logloss"] == b["logloss"]


@pytest.mark.parametrize("window", [0, 500])
def test_rows_on_disk_outlive_the_session_and_give_the_bits_of_those_in_memory(tmp_path, window):
    x, y = stream(2400)
    settings = {"update.strategy": "retrain", "update.every": 400, "update.window": window}
    disk = settings | {"update.spool": "disk", "checkpoint.dir": str(tmp_path)}
    whole = session(**settings)
    first = session(**disk)
    for at in range(0, 1000, 100):
        whole.partial_fit(x[at : at + 100], y[at : at + 100])
        first.partial_fit(x[at : at + 100], y[at : at + 100])
    first.checkpoint(str(tmp_path))
    first.partial_fit(x[:300], 1 - y[:300])  # after the checkpoint: the next one learns other rows in their place
    second = session(**disk)
    second.resume(str(tmp_path))
    for at in range(1000, 2400, 100):
        whole.partial_fit(x[at : at + 100], y[at : at + 100])
        second.partial_fit(x[at : at + 100], y[at : at + 100])
    np.testing.assert_array_equal(second.predict(x[:50]), whole.predict(x[:50]))
    assert [e["rows"] for e in second.events] == [1200, 1600, 2000, 2400]
    with pytest.raises(ConfigError, match="no checkpoint"):
        session(**settings | {"update.spool": "disk"})


@pytest.mark.parametrize("ranks", [1, 2])
def test_rows_that_wait_for_their_labels_are_in_the_checkpoint(tmp_path, ranks):
    from engine.store import held

    x, y = stream(900)
    late = {"update.delay": 250}
    whole, first = session(**late), session(**late)
    whole.partial_fit(x[:600], y[:600])
    first.partial_fit(x[:600], y[:600])
    first.checkpoint(str(tmp_path))
    second = session(**late)
    second.resume(str(tmp_path))
    for s in (whole, second):
        for at in range(600, 900, 50):
            s.partial_fit(x[at : at + 50], y[at : at + 50])
    assert whole._job.team.models[0].bad == 0 and whole.predict(x[:5]).any()
    np.testing.assert_array_equal(second.predict(x[:50]), whole.predict(x[:50]))
    other = held.packed(3, [Batch(y[:4], np.arange(4), y[:4], x=x[:4])])
    parts = [held.unpacked(first._job.tactic.state() | other, r, ranks) for r in range(ranks)]  # each takes a share
    assert sorted(np.concatenate([b.order for part in parts for b in part])) == sorted([*range(350, 600), *range(4)])
