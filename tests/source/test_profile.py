"""What `engine profile` says of a stream whose truth is known, and that the configuration it writes runs."""
import json
import subprocess
import sys

import numpy as np

from engine.config import resolve
from engine.source.profile import profile, starter
from engine.source.read import open_source


def main(words):
    """The command line in a process of its own: it installs hooks and a watchdog."""
    done = subprocess.run([sys.executable, "-m", "engine", *words], stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    print(done.stdout, end="")
    return done.returncode


def written(path, n=20_000):
    rng = np.random.default_rng(0)
    a = rng.normal(3, 2, n)
    kind = rng.integers(0, 37, n)
    moved = rng.normal(0, 1, n) + 3 * (np.arange(n) > n // 2)
    far = rng.normal(0, 1, n)
    far[17] = 1e5
    gone = rng.random(n) < 0.2
    y = (a > 3).astype(int)
    with open(path, "w") as out:
        out.write("a,kind,moved,far,one,y\n")
        for i in range(n):
            out.write(f"{'' if gone[i] else format(a[i], '.4f')},{kind[i]},{moved[i]:.4f},{far[i]:.4f},7,{y[i]}\n")
    return gone.mean()


def test_figures_are_those_of_the_stream(tmp_path):
    share = written(tmp_path / "s.csv")
    found = profile(open_source(str(tmp_path / "s.csv"), missing="nan", on_bad_rows="skip"))
    at = {c["name"]: c for c in found["columns"]}
    assert found["rows"] == 20_000 and found["task"] == "binary"
    assert abs(at["a"]["missing"] - share) < 1e-9 and abs(at["a"]["mean"] - 3) < 0.1 and abs(at["a"]["sd"] - 2) < 0.1
    assert at["kind"]["type"] == "integer" and at["kind"]["distinct"] == 37
    assert (at["kind"]["min"], at["kind"]["max"]) == (0, 36)
    values = {line.split(",")[0] for line in (tmp_path / "s.csv").read_text().splitlines()[1:]} - {""}
    assert abs(at["a"]["distinct"] / len(values) - 1) < 0.02 and at["one"]["distinct"] == 1
    assert at["moved"]["drift"] > 0.25 > at["a"]["drift"]
    text = starter(found, "s.csv", "y")
    for part in ("impute?how=mean&flag=true", "outliers?z=6&columns=far", "moved", "never change: one"):
        assert part in text


def test_the_verb_writes_a_configuration_that_runs(tmp_path, capsys, monkeypatch):
    written(tmp_path / "s.csv", 3000)
    monkeypatch.chdir(tmp_path)
    assert main(["profile", "s.csv", "--json", "-o", "start.toml"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3000
    assert resolve("start.toml", env={}).clean.stages == ("impute?how=mean&flag=true", "outliers?z=6&columns=far")
    assert main(["train", "--config", "start.toml", "--run-dir", "-", "--threads", "1", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3000


def test_sparse_streams_are_counted(tmp_path):
    path = tmp_path / "s.libsvm"
    path.write_text("".join(f"{i % 2} {i % 50 + 1}:1 {i % 7 + 60}:1\n" for i in range(1000)))
    found = profile(open_source(str(path)))
    assert found["sparse"]["entries_a_row"] == 2 and found["sparse"]["keys"] == 57


def test_times_and_ids_are_found_and_are_no_features(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"2026-01-05T10:{i // 60:02d}:{i % 60:02d}Z,u{i},{i % 7},{i % 2}" for i in range(300)]
    (tmp_path / "s.csv").write_text("when,user_id,a,y\n" + "\n".join(rows) + "\n")
    (tmp_path / "n.csv").write_text("a,b,y\n" + "\n".join(f"{i % 7},{i},{i % 2}" for i in range(300)) + "\n")
    assert main(["profile", "s.csv", "--json", "-o", "start.toml"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["time"], found["id"]) == ("when", "user_id")
    assert [c["name"] for c in found["columns"]] == ["a"]
    assert main(["train", "--config", "start.toml", "--run-dir", "-", "--threads", "1", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["time"]["rows"] == 300
    assert main(["profile", "n.csv", "--json"]) == 0
    assert not {"time", "id"} & set(json.loads(capsys.readouterr().out))
