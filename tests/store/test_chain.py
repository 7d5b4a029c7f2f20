"""Incremental checkpoints, mirrors, and the verbs that tend them, against states kept whole."""
import json
import shutil

import numpy as np
import pytest

from engine.cli import main, parse
from engine.errors import ConfigError, StoreError
from engine.store import checkpoint as store
from engine.store.checkpoint import bases, commit, latest, load, save_delta, save_part, split, step_dir, steps
from engine.store.heal import heal, mirror_step
from engine.store.record import Change, Record
from engine.survive.archive import ckpt
from engine.types import Block

COLUMNS = (("w", "owner"), ("n", "add"))
ROWS, WIDE = 50, 7


def fresh(seed):
    rng = np.random.default_rng(seed)
    return {"model": Block(rng.random((ROWS, 2)).astype(np.float32), COLUMNS), "wide": Block(rng.random((3, WIDE))),
            "meter/000000/table": Block(np.arange(4 + seed)), "clock": Block(np.array([float(seed)]))}


def step_on(state, seed):
    """(next state, rows of the model that changed): the meter grows, a few elements of the wide block change."""
    rng = np.random.default_rng(100 + seed)
    rows = np.flatnonzero(rng.random(ROWS) < 0.2)
    model, wide = state["model"].data.copy(), state["wide"].data.copy()
    model[rows] = rng.random((len(rows), 2))
    cells = np.flatnonzero(rng.random(3 * WIDE) < 0.3)
    wide.reshape(-1)[cells] = rng.random(len(cells))
    return {"model": Block(model, COLUMNS), "wide": Block(wide), "meter/000000/table": Block(np.arange(4 + seed)),
            "clock": Block(np.array([float(seed)]))}, rows, cells


def layout(state):
    return {path: {"dtype": b.data.dtype.name, "shape": list(b.data.shape), "columns": [list(c) for c in b.columns],
                   "version": 0} for path, b in state.items()}


def written(root, writers, count=5, keep=3):
    """The states of `count` checkpoints: a keyframe, then increments, by that many writers."""
    state, states = fresh(1), {}
    commit(root, 1, [save_part(root, 1, r, writers, state) for r in range(writers)], {"step": 1}, keep=keep)
    states[1] = state
    for step in range(2, count + 1):
        state, rows, cells = step_on(state, step)
        parts = []
        for rank in range(writers):
            low, high = split(ROWS, rank, writers)
            mine = rows[(rows >= low) & (rows < high)]
            first, last = split(3 * WIDE, rank, writers)
            spots = cells[(cells >= first) & (cells < last)]
            changes = [Change("model", (mine - low).astype(np.uint32), state["model"].data[mine], high - low, COLUMNS),
                       Change("wide", (spots - first).astype(np.uint32), state["wide"].data.reshape(-1)[spots], last - first)]
            ranges = {"model": (low, ROWS), "wide": (first, 3 * WIDE)}
            if rank == 0:
                changes += [Change(path, None, state[path].data, len(state[path].data))
                            for path in ("meter/000000/table", "clock")]
                ranges |= {"meter/000000/table": (0, 4 + step), "clock": (0, 1)}
            record = Record(step, step - 1, tuple(changes), shard=rank, shards=writers)
            parts.append(save_delta(root, record, ranges, layout(state)))
        commit(root, step, parts, {"step": step}, keep=keep, base=step - 1)
        states[step] = state
    return states


def same(got, want):
    assert got.keys() == want.keys()
    for path, block in want.items():
        np.testing.assert_array_equal(got[path].data, block.data)


@pytest.mark.parametrize("writers", [1, 2, 3, 5])
def test_a_chain_gives_each_state_to_any_number_of_readers(tmp_path, writers):
    states = written(tmp_path, writers, keep=9)
    for step, want in states.items():
        found = store.open_checkpoint(step_dir(tmp_path, step))
        same(load(found)[0], want)
        for readers in (1, 2, 4, 8):
            shares = [load(found, rows={p: split(n, r, readers) for p, n in found.rows.items()})[0] for r in range(readers)]
            same({p: Block(np.concatenate([s[p].data for s in shares])) for p in want}, want)


def test_what_a_chain_needs_is_kept_and_its_damage_is_named(tmp_path):
    written(tmp_path, 2, count=5, keep=1)
    assert steps(tmp_path) == [1, 2, 3, 4, 5] and bases(tmp_path, 5) == {1, 2, 3, 4}
    part = sorted(step_dir(tmp_path, 3).glob("part-*"))[0]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    found = latest(tmp_path)
    assert found.step == 2 and "goes on from step 4" in found.problems[0] and "part-0000" in found.problems[-1]
    part.write_bytes(data[:-1])
    store.make_dir(tmp_path / ".step-000000000006.tmp")
    with pytest.raises(StoreError, match="damaged"):
        commit(tmp_path, 6, [], {}, base=5)
    state = fresh(9)
    commit(tmp_path, 7, [save_part(tmp_path, 7, 0, 1, state)], {}, keep=1)
    assert steps(tmp_path) == [7]


def test_every_damaged_file_of_a_mirrored_chain_is_put_right_from_the_other_side(tmp_path):
    root, mirror = tmp_path / "a", tmp_path / "b"
    states = written(root, 2, count=3, keep=9)
    mirror_step(root, 3, mirror)
    files = [path for place in (root, mirror) for path in sorted(place.glob("step-*/*"))]
    assert len(files) == 18
    for file in files:
        good = file.read_bytes()
        other = next(path for path in files if path.name == file.name and path.read_bytes() != good).read_bytes()
        for bad in (other, good[: len(good) // 2], good[:100] + bytes([good[100] ^ 4]) + good[101:], None, b""):
            file.unlink() if bad is None else file.write_bytes(bad)
            told = heal(root, mirror)
            assert len(told) == 1 and str(file) in told[0] and "repaired" in told[0], told
            assert file.read_bytes() == good
    shutil.rmtree(root)
    heal(root, mirror)
    same(load(latest(root))[0], states[3])
    assert heal(root, mirror) == []


def test_where_both_sides_are_damaged_it_is_said_and_nothing_is_made_up(tmp_path):
    root, mirror = tmp_path / "a", tmp_path / "b"
    written(root, 1, count=1)
    mirror_step(root, 1, mirror)
    for place in (root, mirror):
        part = next(place.glob("step-*/part-*"))
        part.write_bytes(part.read_bytes()[:-1] + b"x")
    told = heal(root, mirror)
    assert len(told) == 2 and all("so is its copy" in line for line in told)
    with pytest.raises(StoreError, match="no checkpoint is intact"):
        latest(root)


def run(capsys, *words):
    code = main(["ckpt", *map(str, words)])
    return code, capsys.readouterr().out


def test_the_verbs(tmp_path, capsys):
    states = written(tmp_path / "a", 2, count=4, keep=9)
    code, out = run(capsys, "ls", tmp_path / "a", "--json")
    assert code == 0 and [row["step"] for row in json.loads(out)] == [1, 2, 3, 4]
    assert [row["base"] for row in json.loads(out)] == ["-", 1, 2, 3]
    code, out = run(capsys, "reshard", tmp_path / "a", "-n", 3, "-o", tmp_path / "c", "--json")
    assert code == 0 and json.loads(out)["parts"] == 3
    same(load(latest(tmp_path / "c"))[0], states[4])
    assert bases(tmp_path / "c", 4) == set()
    for there in ("a", "c"):  # what is there is never overwritten
        with pytest.raises(ConfigError, match="without checkpoints"):
            ckpt(parse(["ckpt", "reshard", str(tmp_path / "a"), "-n", "2", "-o", str(tmp_path / there)]))
    code, out = run(capsys, "export", tmp_path / "a", "-o", tmp_path / "model.npz", "--json")
    with np.load(tmp_path / "model.npz") as arrays:
        np.testing.assert_array_equal(arrays["model"], states[4]["model"].data)
        assert arrays["model.columns"].tolist() == ["w", "n"] and json.loads(str(arrays["meta.json"])) == {"step": 4}
    code, out = run(capsys, "rollback", tmp_path / "a", "--to", 2, "--json")
    assert code == 0 and json.loads(out)["set_aside"] == [3, 4]
    assert latest(tmp_path / "a").step == 2
    part = next(step_dir(tmp_path / "a", 2).glob("part-*"))
    part.write_bytes(part.read_bytes()[:-1])
    code, out = run(capsys, "verify", tmp_path / "a")
    assert code == 74 and "expected" in out
    code, out = run(capsys, "show", tmp_path / "c", "--json")
    assert code == 0 and json.loads(out)["step"] == 4
