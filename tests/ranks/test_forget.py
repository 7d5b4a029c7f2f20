"""What is not forgotten on real ranks: classes that come one after another, rows remembered where they are learned."""
import json

import numpy as np
import pytest

from engine import job as jobs
from engine.types import Batch

CLASSES, COLUMNS = 6, 20


def rows(n, seed):
    """Classes that overlap, `n` rows each, one class after another."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(CLASSES, COLUMNS)).astype(np.float32)
    y = np.repeat(np.arange(CLASSES), n)
    return (centres[y] + 0.8 * rng.normal(size=(len(y), COLUMNS))).astype(np.float32), y.astype(np.float32)


@pytest.mark.long
def test_four_ranks_forget_no_more_than_one(tmp_path, mpirun):
    x, y = rows(400, 2)
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    x, y = rows(200, 3)
    probe = Batch(y, np.arange(len(y)), np.full(len(y), np.nan, np.float32), x=x)

    def reached(ranks, batch, chain):
        folder = tmp_path / f"{ranks} {batch} {len(chain)}"
        done = mpirun(ranks, ["-m", "engine", "train", tmp_path / "rows.npz", "--run-dir", "-", "--json", "--quiet",
                              "loop.threads=1", "model.kind=mlp", "mlp.hidden=32", "data.task=multiclass",
                              f"update.batch={batch}", *([f"exchange.every={batch}"] if batch < 8 else []),
                              f"update.chain={chain}", "--checkpoint", folder])
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["rows"] == 2400
        return float((jobs.loaded(folder).predict(probe).argmax(1) == y).mean()), found["accuracy"]

    naive = reached(1, 8, "adam(0.005)")
    one = reached(1, 8, "replay(400, 32) | adam(0.005)")
    assert naive[0] < 0.5 < 0.75 < one[0]
    four = reached(4, 2, "replay(100, 8) | adam(0.005)")  # batch and memory shared out: what one rank does, in quarters
    assert four[0] > one[0] - 0.02 and abs(four[1] - one[1]) < 0.03
    usual = reached(4, 8, "replay(100, 32) | adam(0.005)")  # a quarter of the steps; at an interval of 256 it ends at .6
    assert usual[0] > 0.7
