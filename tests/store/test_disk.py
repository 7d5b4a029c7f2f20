"""A disk that is full, for real: a small file system of its own. Needs root; skipped where mounting is refused."""
import contextlib
import os
import subprocess
import sys

import pytest


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
