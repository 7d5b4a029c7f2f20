import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from engine.errors import StoreError
from engine.kernels import _native
from engine.store import atomic, bulk, checkpoint, piece
from engine.store.checkpoint import commit, latest, load, newest, save_part, split, step_dir
from engine.store.describe import inspect, told
from engine.types import Block

META = {"engine": "0.1.0", "rows": 12, "match": {"model": "linear", "width": 4}}
COLUMNS = (("w", "add"), ("g", "none"), ("n", "max"))


def make(seed=0, rows=7):
    rng = np.random.default_rng(seed)
    return {
        "model/linear": Block(rng.random((rows, 3), np.float32), COLUMNS, 3),
        "cursor/0": Block(np.arange(3, dtype=np.int64) + seed),
        "empty": Block(np.zeros((0, 2), np.float32)),
        "table/keys": Block(rng.integers(0, 2**32, 5, dtype=np.uint32)),
    }


def save(root, step=1, size=2, state=None, **options):
    state = state or make(step)
    return commit(root, step, [save_part(root, step, rank, size, state, **options) for rank in range(size)], META)


def same(got, want):
    assert got.keys() == want.keys()
    for path, block in want.items():
        data = block.data.copy()
        if block.columns:
            data[:, 1] = 0
        assert (
            got[path].data.dtype == data.dtype
            and got[path].columns == block.columns
            and got[path].version == block.version
        )
        np.testing.assert_array_equal(got[path].data, data)


@pytest.mark.parametrize("writers", range(1, 6))
def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path, writers, monkeypatch):
    monkeypatch.setattr(piece, "CHUNK_BYTES", 24)
    want = make()
    ranges = {"model/linear": [(*split(7, r, writers), 7) for r in range(writers)]}
    parts = []
    for rank in range(writers):
        low, high, total = ranges["model/linear"][rank]
        mine = want | {"model/linear": Block(want["model/linear"].data[low:high], COLUMNS, 3)}
        parts.append(save_part(tmp_path, 1, rank, writers, mine, {"model/linear": (low, high, total)}))
    commit(tmp_path, 1, parts, META)
    found = latest(tmp_path)
    assert found.step == 1 and found.problems == []
    same(load(found)[0], want)
    for readers in range(1, 6):
        shares = [load(found, rows={p: split(n, r, readers) for p, n in found.rows.items()})[0] for r in range(readers)]
        same(
            {p: Block(np.concatenate([s[p].data for s in shares]), want[p].columns, want[p].version) for p in want},
            want,
        )


def test_a_block_of_one_rank_and_packed_frames(tmp_path):
    import zlib

    parts = [
        save_part(
            tmp_path,
            5,
            r,
            2,
            {f"meter/{r}": Block(np.arange(9.0))},
            {f"meter/{r}": (0, 9, 9)},
            pack=lambda a: zlib.compress(a),
        )
        for r in range(2)
    ]
    commit(tmp_path, 5, parts, META)
    state, meta = load(latest(tmp_path), unpack=lambda data, size: zlib.decompress(data))
    assert sorted(state) == ["meter/0", "meter/1"] and meta == META
    np.testing.assert_array_equal(state["meter/1"].data, np.arange(9.0))
    with pytest.raises(StoreError, match="packed"):
        load(latest(tmp_path))


def test_every_flipped_byte_and_every_cut_is_named_and_the_one_before_used(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    for file in sorted(step_dir(tmp_path, 2).iterdir()):
        good = file.read_bytes()
        for at in range(len(good)):
            bad = bytearray(good)
            bad[at] ^= 1 << at % 8
            for data in (bytes(bad), good[:at]):
                file.write_bytes(data)
                found = latest(tmp_path)
                assert found.step == 1 and len(found.problems) == 1 and file.name in found.problems[0]
        file.write_bytes(good + b"\n")
        assert latest(tmp_path).step == 1
        file.write_bytes(good)
    assert latest(tmp_path).step == 2


def test_missing_swapped_and_foreign_files(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = step_dir(tmp_path, 2)
    parts = sorted(newest.glob("part-*"))
    parts[0].rename(tmp_path / "kept")
    assert "part-0000" in latest(tmp_path).problems[0]
    shutil.copy(parts[1], parts[0])
    assert latest(tmp_path).step == 1
    shutil.copy(step_dir(tmp_path, 1) / parts[0].name, parts[0])
    assert latest(tmp_path).step == 1
    (tmp_path / "kept").replace(parts[0])
    assert latest(tmp_path).step == 2
    shutil.copy(step_dir(tmp_path, 1) / "manifest.json", newest / "manifest.json")
    assert "step 1" in latest(tmp_path).problems[0]
    for foreign in (b"", b"null", b"[]", b'"x"', b"{}", b"hello", bytes(64)):
        (newest / "manifest.json").write_bytes(foreign)
        assert latest(tmp_path).step == 1
    (step_dir(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"no checkpoint is intact.*step-000000000002.*step-000000000001"):
        latest(tmp_path)


def test_shallow_check_leaves_damage_to_load(tmp_path):
    save(tmp_path, 1)
    part = step_dir(tmp_path, 1) / "part-0001-of-0002.bin"
    data = bytearray(part.read_bytes())
    data[130] ^= 1
    part.write_bytes(data)
    with pytest.raises(StoreError, match="checksum"):
        load(latest(tmp_path, deep=False))


def test_the_last_two_intact_are_kept(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step)
    assert checkpoint.steps(tmp_path) == [4, 5]
    (step_dir(tmp_path, 5) / "manifest.json").write_bytes(b"x")
    save(tmp_path, 6)
    assert checkpoint.steps(tmp_path) == [4, 6]
    save(tmp_path, 6, size=3)
    assert checkpoint.steps(tmp_path) == [4, 6] and len(latest(tmp_path).manifest["parts"]) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000000004", "step-000000000006"]


def test_another_run_or_format_is_refused_by_name(tmp_path, monkeypatch):
    save(tmp_path)
    found = latest(tmp_path)
    load(found, match={"model": "linear", "width": 4})
    with pytest.raises(StoreError, match="model is 'linear' there and 'softmax' here"):
        load(found, match={"model": "softmax", "width": 4})
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(StoreError, match="expected 2, found 1"):
        latest(tmp_path)


def test_missing_rows_are_not_committed(tmp_path):
    state = make()
    parts = [save_part(tmp_path, 1, r, 3, state) for r in (0, 2)]
    with pytest.raises(StoreError, match="rows expected"):
        commit(tmp_path, 1, parts, META)
    assert latest(tmp_path) is None


OPS = ("open", "write", "fsync", "close", "rename", "mkdir", "unlink", "rmdir")


def run_child(root, deadly, lethal):
    """Save step 3 in a child that dies before (or fails in) its n-th file operation; True if it got through."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    left = deadly

    def hook(real):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                lethal()
            return real(*args, **kwargs)

        return call

    try:
        for name in OPS:
            setattr(os, name, hook(getattr(os, name)))
        save(root, 3)
    except (StoreError, OSError):
        os._exit(1)
    except BaseException:
        os._exit(2)
    os._exit(0)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def full():
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("lethal", [die, full])
def test_death_or_full_disk_at_any_file_operation_leaves_a_checkpoint(tmp_path, lethal):
    whole = tmp_path / "whole"
    save(whole, 1)
    save(whole, 2)
    for deadly in range(1, 200):
        root = tmp_path / str(deadly)
        shutil.copytree(whole, root)
        done = run_child(root, deadly, lethal)
        found = latest(root)
        assert found.step in (2, 3) and found.problems == []
        same(load(found)[0], make(found.step))
        save(root, 4)
        assert latest(root).step == 4 and not list(root.glob(".*"))
        shutil.rmtree(root)
        if done and lethal is die:
            break
        if done and deadly > 90:
            break
    assert deadly > 20 and done


def test_full_disk_names_path_bytes_and_fix(tmp_path, monkeypatch):
    target = tmp_path / "f.bin"
    atomic.write_file(target, [b"old"])
    with pytest.raises(
        StoreError, match=r"disk full: \d+ bytes needed, \d+ bytes free; nothing was overwritten"
    ) as caught:
        atomic.write_file(target, [b"new"], need=1 << 62)
    assert str(target) in str(caught.value) and "fix:" in str(caught.value)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_device_that_is_full(tmp_path):
    with pytest.raises(OSError) as caught:
        atomic._stream(Path("/dev/full"), [b"x" * 100])
    assert "disk full" in str(atomic.refused(caught.value, tmp_path / "x", 100))


def test_read_only_and_not_a_directory(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreError, match="cannot write"):
        save(tmp_path / "file")

    def deny(*_args, **_kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(StoreError, match="Read-only"):
        save(tmp_path / "ro")


def test_inspect(tmp_path):
    save(tmp_path, 1)
    got = inspect(tmp_path)
    assert (
        got["step"] == 1
        and got["blocks"]["model/linear"]["shape"] == [7, 3]
        and got == inspect(step_dir(tmp_path, 1)) | {"steps": [1]}
    )
    with pytest.raises(StoreError, match="neither"):
        inspect(tmp_path / "nothing")


def test_what_a_checkpoint_holds_is_told_in_lines(tmp_path):
    save(tmp_path, 1)
    lines = told(inspect(tmp_path))
    assert any(line.split()[:2] == ["model/linear", "float32"] and "(7, 3)" in line for line in lines)
    assert max(map(len, lines)) < 160


def test_parts_of_a_killed_attempt_do_not_stay(tmp_path):
    for rank in range(3):
        save_part(tmp_path, 1, rank, 3, make())
    save(tmp_path, 1, size=2)
    names = sorted(path.name for path in step_dir(tmp_path, 1).iterdir())
    assert names == ["manifest.json", "part-0000-of-0002.bin", "part-0001-of-0002.bin"]


@pytest.mark.parametrize("chunk", [1 << 21, 48])
def test_no_byte_of_the_newest_can_change_unseen_in_one_reading(tmp_path, monkeypatch, chunk):
    """Frames that are read straight into their place (whole columns kept) and others, on one thread and on several."""
    monkeypatch.setattr(piece, "CHUNK_BYTES", chunk)
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    state, meta, found = newest(tmp_path)
    same(state, make(2))
    assert (found.step, meta, found.problems) == (2, META, [])
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        places = range(0, len(good), 3 if chunk > 48 else 31)
        for at in places:
            path.write_bytes(good[:at] + bytes([good[at] ^ 0x40]) + good[at + 1 :])
            state, _, found = newest(tmp_path)
            assert found.step == 1 and len(found.problems) == 1 and path.name in found.problems[0], at
        same(state, make(1))
        path.write_bytes(good[: len(good) // 2])
        assert newest(tmp_path)[2].step == 1
        path.write_bytes(good)
        path.write_bytes(good[:-1] + b"x")
        with pytest.raises(StoreError, match="no checkpoint is intact"):
            newest(folder)
        path.write_bytes(good)
    with pytest.raises(StoreError, match="no checkpoint found"):
        newest(tmp_path / "nowhere")


def test_the_sum_of_a_file_is_that_of_its_bytes_however_it_is_read(tmp_path, monkeypatch):
    data = np.random.default_rng(3).bytes(100_003)
    (tmp_path / "a").write_bytes(data)
    for size in (1 << 22, 4096, 333):
        monkeypatch.setattr(bulk, "BLOCK_BYTES", size)
        for count in (1, 5):
            monkeypatch.setattr(bulk, "threads", lambda count=count: count)
            assert bulk.file_crc(tmp_path / "a") == _native.crc32c(data)
    for cut in (0, 1, 64, 99_999, len(data)):
        first, second = _native.crc32c(data[:cut]), _native.crc32c(data[cut:])
        assert _native.crc32c_join(first, second, len(data) - cut) == _native.crc32c(data)


def test_what_fails_ahead_is_raised_in_its_turn(monkeypatch):
    monkeypatch.setattr(bulk, "threads", lambda: 4)
    done = []
    with pytest.raises(ZeroDivisionError):
        done.extend(bulk.ahead(lambda x: 6 // x, [3, 2, 1, 0, 1], 2))
    assert done == [2, 3, 6] and list(bulk.ahead(str, range(50), 4)) == [str(i) for i in range(50)]
