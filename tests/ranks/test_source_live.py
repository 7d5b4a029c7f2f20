"""Live sources under a real launcher: every row is learned once over kills, rotations and other numbers of ranks.

Rows are counted by what is learned from them: features are one-hot row numbers, so the weight of a row that was learned once
is the same for all, zero where it was lost, and larger where it was learned twice.
"""
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from engine.errors import PeerError
from engine.source.send import Sender
from engine.store import checkpoint as store

LIMIT_S = 90


def start(n, source, folder, *more):
    verb = ["run", "-n", str(n), "train"] if n > 1 else ["train"]
    args = [source, "--checkpoint", str(folder), "--every", "500rows", "--resume", "--run-dir", "-", "--threads", "1", "--json",
            "--quiet", "--task", "regression", "--learner", "sgd", "--rate", "1", "model.bias=0", "model.power_t=0",
            "model.loss=squared", "model.scale=false", "exchange.every=64", "exchange.merge=add", "data.format=libsvm",
            "data.wait=20", *more]
    return subprocess.Popen([sys.executable, "-m", "engine", *verb, *args], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)


def ended(job, limit_s=LIMIT_S):
    try:
        out, err = job.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        out, err = job.communicate()
        pytest.fail(f"no end within {limit_s} s\n{out}\n{err}")
    return job.returncode, out, err


def kill_at(job, folder, rows, limit_s=LIMIT_S):
    """kill -9 of the whole job once a checkpoint of `rows` rows or more is there; where it stood."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end and job.poll() is None:
        steps = [int(p.name[5:]) for p in Path(folder).glob("step-*")] if Path(folder).is_dir() else []
        if steps and max(steps) >= rows:
            break
        time.sleep(0.02)
    if job.poll() is None:
        os.killpg(job.pid, signal.SIGKILL)
    return job.communicate(timeout=LIMIT_S)


def learned(folder, total):
    """How often each of `total` rows was learned, from the weights of the newest checkpoint."""
    state, _ = store.load(store.latest(folder))
    weights = state["model/linear"].data[:total, 0]
    return np.rint(weights).astype(int)


def line(i):
    return f"1 {i + 1}:1\n"


@pytest.mark.parametrize("plan", [(1, 1), pytest.param((3, 2, 5), marks=pytest.mark.long)])
def test_a_followed_file_is_learned_once_over_kills_rotations_and_other_numbers_of_ranks(tmp_path, plan):
    path, folder, total = tmp_path / "log", tmp_path / "saved", 6000
    draw = random.Random(1)
    path.write_text("".join(line(i) for i in range(600)))
    stop = threading.Event()

    def write():
        done, turn = 600, 0
        while not folder.is_dir() and not stop.is_set():  # a file rotated away before the run began is not its own
            time.sleep(0.02)
        while done < total and not stop.is_set():
            n = min(total - done, draw.randrange(1, 300))
            with path.open("a") as out:
                out.write("".join(line(i) for i in range(done, done + n)))
            done += n
            time.sleep(0.01)
            if draw.random() < 0.1:
                turn += 1
                os.rename(path, f"{path}.{turn}")
                path.touch()

    writer = threading.Thread(target=write)
    writer.start()
    for place, n in enumerate(plan[:-1]):
        kill_at(start(n, f"follow:{path}", folder), folder, 1500 * (place + 1))
    writer.join(LIMIT_S)
    code, out, err = ended(start(plan[-1], f"follow:{path}", folder, "data.idle=2"))
    stop.set()
    assert code == 0, err
    np.testing.assert_array_equal(learned(folder, total), np.ones(total))
    assert json.loads(out)["rows"] == total


@pytest.mark.parametrize("plan", [pytest.param((2, 1), marks=()), pytest.param((1, 3, 2), marks=pytest.mark.long)])
def test_socket_rows_are_learned_once_over_kills_with_a_spool(tmp_path, plan):
    folder, spool, total = tmp_path / "saved", tmp_path / "spool", 6000
    address = f"unix://{tmp_path}/door"
    sent = []

    def send():
        with Sender(address, "solver", timeout_s=LIMIT_S, window_bytes=1 << 14) as out:
            for i in range(0, total, 10):
                out.lines("".join(line(j) for j in range(i, i + 10)).encode())
                if i % 300 == 0:
                    time.sleep(0.02)
            out.flush()
            sent.append(out.taken)

    sender = threading.Thread(target=send)
    sender.start()
    for place, n in enumerate(plan[:-1]):
        kill_at(start(n, address, folder, "--spool", spool.as_posix()), folder, 1500 * (place + 1))
    code, out, err = ended(start(plan[-1], address, folder, "--spool", spool.as_posix(), "data.idle=4"))
    sender.join(LIMIT_S)
    assert code == 0, err
    assert sent == [total]
    np.testing.assert_array_equal(learned(folder, total), np.ones(total))
    assert json.loads(out)["rows"] == total


@pytest.mark.parametrize("plan", [(2, 1)])
def test_files_that_come_into_a_folder_are_learned_once(tmp_path, plan):
    inbox, folder, total = tmp_path / "in", tmp_path / "saved", 6000
    inbox.mkdir()

    def put(k):
        made = tmp_path / f"part{k}.tmp"
        made.write_text("".join(line(i) for i in range(k * 500, k * 500 + 500)))
        os.rename(made, inbox / f"part{k}.libsvm")

    put(0)
    writer = threading.Thread(target=lambda: [(time.sleep(0.15), put(k)) for k in range(1, total // 500)])
    writer.start()
    kill_at(start(plan[0], f"follow:{inbox}", folder), folder, 1500)
    writer.join(LIMIT_S)
    code, out, err = ended(start(plan[1], f"follow:{inbox}", folder, "data.idle=2"))
    assert code == 0, err
    np.testing.assert_array_equal(learned(folder, total), np.ones(total))
    assert json.loads(out)["rows"] == total


def test_a_spool_without_checkpoints_is_refused(tmp_path):
    job = subprocess.run([sys.executable, "-m", "engine", "train", "unix:///x", "--spool", str(tmp_path), "--task", "binary"],
                         capture_output=True, text=True, timeout=LIMIT_S)
    assert job.returncode == 64 and "checkpoint" in job.stderr


def test_feeds_of_a_rank_that_dies_are_read_by_those_who_go_on_in_place(tmp_path):
    """Files come into a folder while a rank is killed; the survivors take over its files at the rows it had reached."""
    inbox, folder, total = tmp_path / "in", tmp_path / "saved", 6000
    inbox.mkdir()
    for k in range(6):
        (inbox / f"part{k}.libsvm").write_text("".join(line(i) for i in range(k * 500, k * 500 + 500)))
    audit = tmp_path / "audit.jsonl"
    job = subprocess.Popen(
        [sys.executable, "-m", "engine", "run", "--supervise", "--on-loss=shrink", "-n", "3", "train", f"follow:{inbox}",
         "--checkpoint", str(folder), "--every", "100000rows", "--run-dir", "-", "--threads", "1", "--json", "--quiet",
         "--task", "regression", "--learner", "sgd", "--rate", "1", "model.bias=0", "model.power_t=0",
         "model.loss=squared", "model.scale=false", "exchange.every=16", "exchange.merge=add", "data.format=libsvm",
         "data.idle=4", "fault.ranks_per_node=1"],
        env={**os.environ, "ENGINE_AUDIT": str(audit), "ENGINE_CRASH": "own:1:20"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True)
    for k in range(6, 12):
        made = tmp_path / f"part{k}.tmp"
        made.write_text("".join(line(i) for i in range(k * 500, k * 500 + 500)))
        os.rename(made, inbox / f"part{k}.libsvm")
        time.sleep(0.3)
    code, out, err = ended(job)
    told = [json.loads(text) for text in audit.read_text().splitlines()]
    assert code == 0, err
    assert {e.get("ranks") for e in told if e["event"] in ("recovery", "relaunch")}, (told, err)
    np.testing.assert_array_equal(learned(folder, total), np.ones(total))
    assert json.loads(out.splitlines()[-1])["rows"] == total


@pytest.mark.long
@pytest.mark.parametrize("plan", [(2, 3, 1)])
def test_a_retraining_reads_the_rows_of_a_socket_again_from_disk_over_kills(tmp_path, plan):
    """A new model every 1 000 rows of all rows so far: each is in the last one once, whoever had taken it."""
    folder, spool, total = tmp_path / "saved", tmp_path / "spool", 4500
    address = f"unix://{tmp_path}/door"

    def send():
        with Sender(address, "solver", timeout_s=LIMIT_S, window_bytes=1 << 14) as out:
            for i in range(0, total, 10):
                out.lines("".join(line(j) for j in range(i, i + 10)).encode())
                if i % 100 == 0:
                    time.sleep(0.02)
            out.flush()

    more = ("--spool", spool.as_posix(), "update.strategy=retrain", "update.every=1000")
    sender = threading.Thread(target=send)
    sender.start()
    for place, n in enumerate(plan[:-1]):
        kill_at(start(n, address, folder, *more), folder, 1200 * (place + 1))
    code, out, err = ended(start(plan[-1], address, folder, *more, "data.idle=4"))
    sender.join(LIMIT_S)
    assert code == 0, err
    assert json.loads(out)["rows"] == total
    state, _ = store.load(store.latest(folder))
    since = int(state["tactic/counts"].data[0])
    assert since >= 4000
    np.testing.assert_array_equal(learned(folder, total), (np.arange(total) < since).astype(int))
    for place in spool.glob("held-*"):  # what is gone is told: the rows are with nobody else
        for path in place.glob("*.rows"):
            path.unlink()

    def more_rows():
        with contextlib.suppress(PeerError, OSError), Sender(address, "other", timeout_s=10) as late:
            for i in range(0, 1200, 10):
                late.lines("".join(line(j) for j in range(i, i + 10)).encode())

    late = threading.Thread(target=more_rows)
    late.start()
    code, _, err = ended(start(1, address, folder, *more, "data.idle=2"))
    late.join(LIMIT_S)
    assert code == 65 and "neither the source can be read twice" in err
