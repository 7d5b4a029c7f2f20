"""Several configurations on one stream: one table, one picture, each with its costs."""
import json
import xml.dom.minidom

import pytest

from engine.compare import named, table


def test_two_configurations_on_two_ranks(tmp_path, mpirun):
    (tmp_path / "plain.toml").write_text('[model]\nlearner = "sgd"\n')
    (tmp_path / "switch.toml").write_text('[update]\ndrift = "adwin"\non_drift = "reset"\n')
    out = tmp_path / "out"
    source = "make:sea?rows=6000&drift=3000"
    args = ["-m", "engine", "compare", tmp_path / "plain.toml", tmp_path / "switch.toml", source, "-o", out, "--json",
            "loop.threads=1", "exchange.every=32"]
    done = mpirun(2, args)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == ["plain", "switch"]
    assert all(row["rows"] == 6000 and 0.5 < row["accuracy"] < 1 and row["seconds"] > 0 for row in rows)
    assert all(row["bytes_sent"] > 0 for row in rows)
    alone = mpirun(2, ["-m", "engine", "train", source, "--json", "--quiet", "--run-dir", "-", "model.learner=sgd",
                       "loop.threads=1", "exchange.every=32"])
    assert json.loads(alone.stdout)["accuracy"] == rows[0]["accuracy"]
    drawn = xml.dom.minidom.parse(str(out / "compare.svg"))
    assert [p.getAttribute("class") for p in drawn.getElementsByTagName("path")] == ["s s0", "s s1"]
    page = (out / "compare.html").read_text()
    assert "plain" in page and "<svg" in page and "kappa_temporal" in page
    assert json.loads((out / "compare.json").read_text()) == rows
    (tmp_path / "other.toml").write_text('[data]\nsource = "make:rbf"\n')
    wrong = mpirun(1, ["-m", "engine", "compare", tmp_path / "plain.toml", tmp_path / "other.toml", "-o", out])
    assert wrong.returncode == 64 and "one stream" in wrong.stderr
    assert mpirun(1, ["-m", "engine", "compare", tmp_path / "plain.toml", source]).returncode == 64


def test_names_and_the_table():
    assert named(["a/x.toml", "b/x.toml", "y.toml"]) == ["x-1", "x-2", "y"]
    text = table([{"name": "a", "accuracy": 0.5, "seconds": 1.0, "bytes_sent": 2048}, {"name": "long", "accuracy": 0.25}])
    lines = text.splitlines()
    assert lines[0].split() == ["accuracy", "seconds", "bytes_sent"]
    assert lines[1].split() == ["a", "0.5000", "1.00", "2.0", "KiB"]
    assert lines[2].split() == ["long", "0.2500", "-", "-"]


@pytest.mark.parametrize("delay", [0, 1, 50])
def test_labels_that_come_late_are_learned_late(delay):
    import numpy as np

    from engine.models.linear import Linear
    from engine.session import Session
    from engine.types import Batch

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.float32)
    session = Session(width=3, **{"loop.threads": 1, "update.delay": delay})
    for at in range(0, 400, 40):
        session.partial_fit(x[at : at + 40], y[at : at + 40])
    twin = Linear(3, scale=True)
    twin.learn(Batch(y, np.arange(400), y, x=x).slice(0, 400 - delay))
    probe = Batch(y, np.arange(400), y, x=x)
    np.testing.assert_array_equal(session.predict(x), twin.predict(probe))
    assert session.summary()["accuracy"] > 0.7 and session.summary()["rows"] == 400
