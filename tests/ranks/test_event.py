"""Event time on real ranks: a row meets its duplicate and its label whatever rank read them, over kills and other ranks."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

LIMIT_S = 90


def start(*args):
    return subprocess.Popen([sys.executable, "-m", "engine", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, start_new_session=True)


def finish(job):
    try:
        out, err = job.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        out, err = job.communicate()
        pytest.fail(f"no end within {LIMIT_S} s\n{out}\n{err}")
    return job.returncode, out, err


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """20 000 rows whose label comes 300 rows later, 1 in 50 never; 1 in 9 rows and labels come twice."""
    path, rng, n = tmp_path_factory.mktemp("events") / "rows.csv", np.random.default_rng(5), 20_000
    x = rng.normal(size=(n, 3)).round(4)
    y = (x[:, 0] - x[:, 1] > 0).astype(int)
    lines = ["ts,id,a,b,c,y"]
    for i in range(n):
        lines += [f"{1_700_000_000 + i},u{i},{x[i, 0]},{x[i, 1]},{x[i, 2]},"] * (1 + (i % 9 == 0))
        if i >= 300 and i % 50:
            j = i - 300
            lines += [f"{1_700_000_000 + i},u{j},,,,{y[j]}"] * (1 + (i % 9 == 3))
    path.write_text("\n".join(lines) + "\n")
    return path


SETTINGS = ("--time", "ts", "--id", "id", "--lateness", "2m", "--labels", "later", "--threads", 1, "--exchange", 32)


@pytest.mark.parametrize("n", [1, 3])
def test_rows_meet_their_labels_on_any_rank(rows, tmp_path, n):
    code, out, err = finish(start("run", "-n", n, "train", rows, *SETTINGS, "--window", "30m", "--json",
                                  "--run-dir", tmp_path / "run", "data.piece_bytes=50000"))
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    joined = sum(1 for i in range(300, 20_000) if i % 50)
    assert found["rows"] == found["time"]["joined"] == joined
    assert found["time"]["waiting"] + found["time"]["expired"] == 20_000 - joined
    twice = sum(i % 9 == 0 for i in range(20_000)) + sum(i % 9 == 3 and i % 50 > 0 for i in range(300, 20_000))
    assert found["time"]["duplicates"] == twice
    assert found["accuracy"] > 0.9
    windows = [json.loads(line) for line in (tmp_path / "run" / "windows.jsonl").read_text().splitlines()]
    assert sum(w["rows"] for w in windows) == joined


def test_killed_and_resumed_on_other_ranks_nothing_is_lost_or_doubled(rows, tmp_path):
    ck = tmp_path / "ck"
    job = start("run", "-n", 2, "train", rows, *SETTINGS, "--checkpoint", ck, "--every", "1000rows", "--run-dir", "-")
    end = time.monotonic() + LIMIT_S
    while not any(ck.glob("step-*/manifest.json")) and time.monotonic() < end and job.poll() is None:
        time.sleep(0.002)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    code, out, err = finish(start("run", "-n", 3, "train", rows, *SETTINGS, "--checkpoint", ck, "--resume", "--json",
                                  "--run-dir", "-"))
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found["rows"] == found["time"]["joined"] == sum(1 for i in range(300, 20_000) if i % 50)
    assert found["time"]["rows"] == len(rows.read_text().splitlines()) - 1
    assert found["time"]["waiting"] + found["time"]["expired"] == 20_000 - found["rows"]
