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


TWO_NODES = ("fault.ranks_per_node=2", "--stall-timeout", 60)
ASP = ("--mode", "asp", "--rule", "part", "data.piece_bytes=65536")


@pytest.mark.smoke
@pytest.mark.skipif(not A9A.exists(), reason="a9a is not here")
def test_a9a_on_5_and_3_ranks_and_resumed_on_2(tmp_path):
    """Five ranks of three nodes of two, asynchronous, asked by frames, pushes combined; then in steps, in shared memory."""
    found = summary("run", "-n", 5, "train", A9A, "--place", "table", *ASP, *TWO_NODES, "shard.service=inline",
                    "shard.combine=4096")
    assert found["rows"] == ROWS
    assert found["logloss"] == pytest.approx(ONE, abs=.003)
    table = ("train", A9A, "--place", "table", "--checkpoint", tmp_path)
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


@pytest.mark.long
@pytest.mark.skipif(not A9A.exists(), reason="a9a is not here")
@pytest.mark.parametrize("more", [("shard.service=thread",), ("--mode", "ssp:1", *ASP[2:]),
                                  ("shard.onesided=rma", "--stop-after", 6000, *ASP)])
def test_every_way_to_reach_rows_learns_alike(more):
    """Four ranks of two nodes: in steps, answered by the service thread; within one clock; asynchronous, read one-sided."""
    found = summary("run", "-n", 4, "train", A9A, "--place", "table", *TWO_NODES, *more)
    assert found["rows"] == ROWS or 6000 <= found["rows"] < 9000
    assert found["logloss"] == pytest.approx(ONE, abs=.004 if found["rows"] == ROWS else .03)


def test_a_model_of_2_to_the_24_keys_is_shared_out(tmp_path):
    spec = "make:zipf?rows=4000&keys=24"
    found = summary("run", "-n", 2, "train", spec, "--place", "table", "--mode", "asp", "--checkpoint", tmp_path)
    assert found["rows"] == 4000
    mine = shares(tmp_path)
    assert sum(mine) > 80_000
    assert max(mine) < 1.02 * sum(mine) / 2
    one = summary("train", spec, "--place", "table")
    assert found["logloss"] == pytest.approx(one["logloss"], abs=.005)
    code, out, err = engine("predict", tmp_path, "make:zipf?rows=500&keys=24")
    assert code == 0, err
    assert len(out.splitlines()) == 500


STOPPED = """
import os, sys, signal, time
from engine.cli import main
from engine.table.worker import Worker
learn, seen = Worker._learn, []
def stops(self, batch):
    seen.append(1)
    if self._link.rank == 1 and len(seen) == 200:  # between two reports, for which all would meet
        with self._waiting("sleep"):  # its own watchdog would name it as soon as rank 0 does
            time.sleep(30)  # an owner that answers nobody
    return learn(self, batch)
Worker._learn = stops
sys.exit(main(sys.argv[1:]))
"""


def test_an_owner_that_does_not_answer_is_named_at_the_deadline(mpirun, tmp_path):
    program = tmp_path / "stops.py"
    program.write_text(STOPPED)
    done = mpirun(2, [program, "train", "make:zipf?rows=50000&keys=16", "--place", "table", "--mode", "asp", "--threads", 1,
                      "shard.service=inline", "fault.ranks_per_node=1", "--stall-timeout", 2, "--run-dir", "-"], timeout_s=25)
    assert done.returncode != 0
    assert "rank 0 waited 2 s in 'table 0: " in done.stderr and "for the reply of rank 1" in done.stderr


@pytest.mark.ranks(3)
def test_a_session_on_ranks_with_uneven_rows(size, link, tmp_path):
    import numpy as np

    from engine import Session

    rng, truth = np.random.default_rng(link.rank), np.random.default_rng(9).normal(size=200) * 2
    keys = np.argsort(rng.random((300 + 100 * link.rank, 200)), axis=1)[:, :6].astype(np.uint32)
    rows = type("Csr", (), {})()
    rows.indptr, rows.indices, rows.data = np.arange(len(keys) + 1) * 6, keys.ravel(), np.ones(keys.size, np.float32)
    rows.shape = len(keys), 200
    y = (truth[keys].sum(1) > 0).astype(np.float32)
    folder = link.bcast(str(tmp_path), name="folder")
    session = Session(link, width=200, sparse=True, **{"exchange.place": "table", "loop.stall_timeout": 30})
    for _ in range(2):
        session.partial_fit(rows, y)
    assert session.summary()["rows"] == 2 * 1200
    scores = session.predict(rows)
    assert ((scores > 0) == (y > 0)).mean() > .85
    session.checkpoint(folder)
    session.partial_fit(rows, y)
    assert not np.array_equal(session.predict(rows), scores)
    assert np.array_equal(session.resume(folder).predict(rows), scores)
    assert session._job.team.table.stats()["used"] < 201 * .6  # its share, not the model
    session.close()
