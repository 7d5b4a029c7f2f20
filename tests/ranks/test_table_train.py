"""Training over the parameter table on real ranks: loss beside one rank's, rows once, memory shared out, resumed."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

A9A = Path(os.environ.get("ENGINE_DATA", Path(__file__).parents[2] / "../shared/data")) / "a9a.libsvm"
ONE = .33233  # log loss of one rank, FTRL as it comes
ROWS = 32561


def engine(*args, limit_s=90, **env):
    done = subprocess.run([sys.executable, "-m", "engine", *map(str, args)], env={**os.environ, **env}, capture_output=True,
                          text=True, timeout=limit_s)
    return done.returncode, done.stdout, done.stderr


def summary(*args, **env):
    code, out, err = engine(*args, "--run-dir", "-", "--json", "--quiet", **env)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def shares(folder):
    """Rows of the table that each rank wrote into the newest checkpoint."""
    last = sorted(Path(folder).glob("step-*"))[-1]
    parts = json.loads((last / "manifest.json").read_text())["parts"]
    return [sum(p["stop"] - p["start"] for p in part["pieces"] if p["path"] == "model/sparse/keys") for part in parts]


@pytest.mark.smoke
@pytest.mark.skipif(not A9A.exists(), reason="a9a is not here")
def test_a9a_on_2_3_and_5_ranks_and_resumed_on_another_number(tmp_path):
    table = ("train", A9A, "--place", "table", "--checkpoint", tmp_path)
    for n, more in ((2, ("--mode", "asp", "--rule", "part", "data.piece_bytes=65536")), (5, ())):
        found = summary("run", "-n", n, *table[:-2], *more)
        assert found["rows"] == ROWS
        assert found["logloss"] == pytest.approx(ONE, abs=.003)
    first = summary("run", "-n", 3, *table, "--stop-after", 16000)
    assert 16000 <= first["rows"] < ROWS
    assert len(shares(tmp_path)) == 3
    rest = summary("run", "-n", 2, *table, "--resume")
    assert rest["rows"] == ROWS
    assert rest["logloss"] == pytest.approx(ONE, abs=.003)
    assert sum(shares(tmp_path)) == 124
    code, out, err = engine("predict", tmp_path, A9A)
    assert code == 0, err
    assert len(out.splitlines()) == ROWS


def test_a_model_of_2_to_the_24_keys_is_shared_out(tmp_path):
    spec = "make:zipf?rows=12000&keys=24"
    found = summary("run", "-n", 2, "train", spec, "--place", "table", "--mode", "asp", "--checkpoint", tmp_path)
    plain = summary("train", spec, "--threads", 1)
    assert found["rows"] == 12000
    assert found["logloss"] == pytest.approx(plain["logloss"], abs=.003)
    mine = shares(tmp_path)
    assert sum(mine) > 200_000
    assert max(mine) < 1.02 * sum(mine) / 2
    code, out, err = engine("predict", tmp_path, "make:zipf?rows=500&keys=24")
    assert code == 0, err
    assert len(out.splitlines()) == 500
