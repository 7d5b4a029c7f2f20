"""`data.rule` by columns, windows and a user's function, trained on real ranks as `engine train` does it."""
import os

import numpy as np
import pytest

from engine.config import resolve
from engine.errors import ConfigError, DataError, EngineError, ShardError
from engine.guard import Guard
from engine.store import checkpoint
from engine.train import train

ROWS, COLUMNS, LIMIT = 600, 9, 300

RULE = """
def by_label(order, batch, size):
    return batch.y.astype(int) % size

def beyond(order, batch, size):
    return (order // 200 * size).astype(int)
"""


def write(folder):
    draw = np.random.default_rng(5)
    x = draw.normal(size=(ROWS, COLUMNS)).round(3)
    y = (x @ draw.normal(size=COLUMNS) + draw.normal(size=ROWS) > 0).astype(int)
    head = ",".join([*(f"c{i}" for i in range(COLUMNS)), "class"])
    lines = [",".join(map(str, [*row, label])) for row, label in zip(x.tolist(), y, strict=True)]
    (folder / "rows.csv").write_text("\n".join([head, *lines]) + "\n")
    (folder / "ragged.csv").write_text("\n".join([head, *lines[:400], "1,2,3", *lines[400:]]) + "\n")
    np.savez(folder / "rows.npz", x=x.astype(np.float32), y=y)
    sparse = [f"{label} " + " ".join(f"{3 * i + 1}:{v}" for i, v in enumerate(row) if abs(v) > 0.5)
              for row, label in zip(x.tolist(), y, strict=True)]
    (folder / "rows.svm").write_text("\n".join(sparse) + "\n")
    (folder / "rule.py").write_text(RULE)


def learned(link, folder, name, file, *settings):
    """(summary, state of the checkpoint at the end) of a run on these ranks."""
    place = folder / name
    overrides = [f"data.source={folder / file}", "loop.threads=1", "run.dir=-", "run.quiet=true", "data.piece_bytes=16384",
                 f"checkpoint.dir={place}", *settings]
    summary = train(resolve(env={}, overrides=overrides), Guard())
    found = checkpoint.latest(place)
    state, meta = checkpoint.load(found)
    link.barrier(name="loaded")
    return summary, {path: block.data for path, block in state.items() if path.startswith(("model/", "stage/"))}, meta


def alone(folder, name, file, *settings):
    """The same on one rank, in this process, whatever started it."""
    from engine import train as module
    from engine.comm.local import Alone

    kept = module.link_up
    module.link_up = lambda config, guard: Alone()
    try:
        return learned(Alone(), folder, name, file, *settings)
    finally:
        module.link_up = kept


def agree(one, other):
    (summary, state, _), (again, found, _) = one, other
    assert again["rows"] == summary["rows"]
    for name in ("accuracy", "logloss", "no_change", "window_logloss"):
        if name in summary:
            assert abs(again[name] - summary[name]) < 1e-5, name
    assert found.keys() == state.keys()
    for path, data in state.items():
        assert np.allclose(found[path], data, atol=1e-5, rtol=1e-4), path


@pytest.mark.ranks(1, 2, 3, 5)
def test_columns_and_grids_learn_what_one_rank_learns(link, size, tmp_path):
    folder = link.bcast(tmp_path, name="folder")
    if not link.rank:
        write(folder)
    link.barrier(name="files are there")
    kinds = [("rows.csv", "model.batch=32", "model.scale=false"), ("rows.svm", "model.learner=pa1"),
             ("rows.npz", "model.learner=nag"), ("rows.csv",)]
    for file, *settings in kinds if size < 5 else kinds[1:2]:
        name = f"{file}-{len(settings)}"
        one = alone(folder, f"{name}-alone-{link.rank}", file, *settings)
        many = learned(link, folder, f"{name}-columns", file, "data.rule=columns", *settings)
        agree(one, many)
        assert many[0]["ranks"] == size
    if size == 5:
        return
    # stopped by a row limit, then to the end on the same ranks and, from the same checkpoint, alone and by rows
    one = alone(folder, f"whole-{link.rank}", "rows.csv")
    learned(link, folder, "cut", "rows.csv", "data.rule=columns", f"loop.stop_after_rows={LIMIT}", "checkpoint.every=100rows",
            "shard.lot=1", "exchange.every=64")
    agree(one, learned(link, folder, "cut", "rows.csv", "data.rule=columns", "checkpoint.resume=must"))
    if size in (2, 3):  # a grid of row parts alone is the rule by rows; row parts of columns are as many ranks by rows
        rows = learned(link, folder, "rows", "rows.csv", "exchange.every=50")
        agree(rows, learned(link, folder, "parts", "rows.csv", f"data.rule=grid:{size}x1", "exchange.every=50"))


@pytest.mark.ranks(2)
def test_windows_and_the_users_rule_learn_every_row_once_and_errors_come_before_rows_move(link, size, tmp_path):
    folder = link.bcast(tmp_path, name="folder")
    if not link.rank:
        write(folder)
    link.barrier(name="files are there")
    for name, *settings in (("window", "data.window=200rows"), ("window", "data.window=0.5s", "data.key=c1"),
                            ("user", f"data.user={folder / 'rule.py'}:by_label")):
        summary, _, meta = learned(link, folder, f"{name}-{len(settings)}", "rows.csv", f"data.rule={name}", *settings)
        assert summary["rows"] == ROWS == meta["position"]["order"]
    user = f"data.user={folder / 'rule.py'}:"
    for n, (error, said, file, *settings) in enumerate((
            (ShardError, f"expected shards 0 to {size - 1}, found {size}", "rows.csv", "data.rule=user", f"{user}beyond"),
            (ConfigError, "cannot import", "rows.csv", "data.rule=user", f"{user}missing"),
            (ConfigError, "cannot import", "rows.csv", "data.rule=user", "data.user=nowhere.at.all:f"),
            (ConfigError, "expected a span in rows", "rows.csv", "data.rule=window"),
            (ConfigError, "a column of times", "rows.csv", "data.rule=window", "data.window=60s"),
            (DataError, "ragged.csv", "ragged.csv", "data.rule=columns"),
            (ConfigError, f"expected {size} ranks in all", "rows.csv", "data.rule=grid:4x4"),
            (ConfigError, "expected 1 to 1 groups", "narrow.csv", "data.rule=columns"))):
        if file == "narrow.csv" and not link.rank:
            (folder / file).write_text("a,class\n1,0\n2,1\n3,1\n")
        link.barrier(name="files are there")
        with pytest.raises(EngineError) as caught:
            learned(link, folder, f"bad-{n}", file, *settings)
        assert isinstance(caught.value, error) and said in str(caught.value), caught.value
        sent = link.vote(np.array([os.getpid()], np.int64), name="all of them raised")
        assert len(set(sent[:, 0].tolist())) == size
