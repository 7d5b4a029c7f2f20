"""A disk that is full, for real: a small file system of its own. Needs root; skipped where mounting is refused."""
import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest

from engine.errors import StoreError
from engine.store.spool import Spool
from engine.types import Batch


@pytest.fixture
def disk(tmp_path):
    """A folder on a file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, leave_bytes):
    """Takes all space but `leave_bytes`; the file that holds it."""
    filler, room = folder / "filler", os.statvfs(folder)
    with filler.open("wb") as file, contextlib.suppress(OSError):
        file.write(bytes(max(0, room.f_bavail * room.f_frsize - leave_bytes)))
    return filler


def train(folder, *more):
    return subprocess.run(
        [sys.executable, "-m", "engine", "train", "make:zipf?rows=6000&keys=14", "--checkpoint", str(folder / "ckpt"),
         "--every", "2000rows", "--run-dir", "-", "--threads", "1", *more],
        capture_output=True, text=True, timeout=90)


def test_a_full_disk_stops_the_run_with_the_place_and_keeps_the_checkpoint_before(disk):
    assert train(disk, "--stop-after", "4000").returncode == 0
    before = sorted(path.name for path in (disk / "ckpt").glob("step-*"))
    filler = fill(disk, 40_000)
    full = train(disk, "--resume")
    assert full.returncode == 74, full.stderr
    assert "space" in full.stderr and str(disk) in full.stderr and "fix:" in full.stderr
    assert sorted(path.name for path in (disk / "ckpt").glob("step-*")) == before
    filler.unlink()
    again = train(disk, "--resume")
    assert again.returncode == 0 and "resumed from" in again.stdout, again.stderr


def test_a_run_directory_without_space_is_named(disk):
    fill(disk, 0)
    done = subprocess.run([sys.executable, "-m", "engine", "train", "make:sea?rows=3000", "--run-dir", str(disk / "run")],
                          capture_output=True, text=True, timeout=90)
    assert done.returncode == 74, done.stderr
    assert str(disk) in done.stderr and "space" in done.stderr


def test_a_full_disk_under_the_spool_is_named_and_takes_nothing_it_cannot_keep(disk):
    """Rows of a real file system of 4 MiB: what was synced is there again, the row that did not fit is not."""
    draw = np.random.default_rng(1)
    spool, sent = Spool(disk / "spool", segment_bytes=1 << 18), []

    def send():
        while True:
            x = draw.normal(size=(1000, 8)).astype(np.float32)
            spool.append(Batch(x[:, 0], np.arange(1000), x[:, 0], x=x), sender="s", count=1000 * (len(sent) + 1))
            spool.sync()
            sent.append(x)

    with pytest.raises(StoreError, match="No space left") as caught:
        send()
    assert "unacknowledged rows" in str(caught.value) and len(sent) > 50
    fill(disk, 0)
    again = Spool(disk / "spool")
    assert again.next == 1000 * len(sent) and again.senders == {"s": again.next}
    np.testing.assert_array_equal(np.concatenate([batch.x for _, batch in again.read(0)]), np.concatenate(sent))
    again.close()
