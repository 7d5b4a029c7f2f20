"""The main job as a user starts it: real launcher, real ranks, killed, stopped, misled and starved."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

LIMIT_S = 90


def start(*args, **env):
    return subprocess.Popen([sys.executable, "-m", "engine", *map(str, args)], env={**os.environ, **env},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(job, limit_s=LIMIT_S):
    """(exit code, stdout, stderr); everything the job started is killed at the limit."""
    try:
        out, err = job.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        out, err = job.communicate()
        pytest.fail(f"no end within {limit_s} s\n{out}\n{err}")
    return job.returncode, out, err


def engine(*args, **env):
    return finish(start(*args, **env))


def on_ranks(n, *args, **env):
    return engine("run", "-n", n, *args, **env)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """20 000 rows of 4 columns, the label a noisy linear rule."""
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20_000, 4)).round(4)
    y = (x @ [1.0, -2.0, 0.5, 0.0] + rng.normal(size=len(x)) > 0).astype(int)
    lines = [",".join(map(str, [*row, label])) for row, label in zip(x.tolist(), y, strict=True)]
    path.write_text("a,b,c,d,class\n" + "\n".join(lines) + "\n")
    return path


def digest(folder):
    """Hash of the part files of the newest checkpoint."""
    last = sorted(Path(folder).glob("step-*"))[-1]
    return last.name, [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(last.glob("part-*"))]


COMMON = ("--threads", 1, "--exchange", 1, "--run-dir", "-", "--every", "1000rows")


@pytest.mark.smoke
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_every_row_is_learned_once_on_any_number_of_ranks(rows, tmp_path, n):
    code, out, err = on_ranks(n, "train", rows, "--threads", 1, "--exchange", 16, "--run-dir", tmp_path / "run", "--json")
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["rows"] == 20_000
    assert summary["ranks"] == n
    assert summary["accuracy"] > 0.80 > summary["majority"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert (tmp_path / "run" / "config.toml").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) > 3


def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(rows, tmp_path):
    code, _, err = on_ranks(2, "train", rows, *COMMON, "--checkpoint", tmp_path / "whole")
    assert code == 0, err
    job = start("run", "-n", 2, "train", rows, *COMMON, "--checkpoint", tmp_path / "cut")
    until = time.monotonic() + 60
    while not list(tmp_path.glob("cut/step-*")) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGKILL)
    subprocess.run(["pkill", "-9", "-f", str(tmp_path / "cut")], check=False)
    job.communicate()
    code, _, err = on_ranks(2, "train", rows, *COMMON, "--checkpoint", tmp_path / "cut", "--resume")
    assert code == 0, err
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_sigterm_saves_at_an_agreed_step_and_resumes_on_other_ranks(rows, tmp_path):
    job = start("run", "-n", 2, "train", rows, *COMMON, "--checkpoint", tmp_path / "ck")
    while not list(tmp_path.glob("ck/step-*")):
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    code, _, err = finish(job)
    assert code == 75, err
    assert "stopped by SIGTERM" in err
    code, out, err = on_ranks(3, "train", rows, *COMMON, "--checkpoint", tmp_path / "ck", "--resume", "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["rows"] == 20_000


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(rows, tmp_path):
    code, _, err = engine("train", rows, *COMMON, "--checkpoint", tmp_path / "ck", "--stop-after", 9000)
    assert code == 0, err
    newest = sorted((tmp_path / "ck").glob("step-*"))[-1]
    part = next(newest.glob("part-*"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    code, out, err = engine("train", rows, *COMMON, "--checkpoint", tmp_path / "ck", "--resume")
    assert code == 0, err
    assert newest.name in out and "passed over" in out


def test_a_directory_that_holds_a_run_is_not_overwritten(rows, tmp_path):
    args = ("train", rows, *COMMON, "--checkpoint", tmp_path / "ck")
    assert engine(*args)[0] == 0
    code, _, err = engine(*args)
    assert code == 74 and "--resume" in err


def test_another_model_is_refused_by_name(rows, tmp_path):
    args = ("train", rows, *COMMON, "--checkpoint", tmp_path / "ck")
    assert engine(*args)[0] == 0
    code, _, err = engine(*args, "--resume", "--learner", "nag")
    assert code == 74 and "model.learner" in err and "'ftrl'" in err and "'nag'" in err


BAD = {
    "few": ("1,2,3,4,0\n" * 40 + "1,2,0\n", "column", 41),
    "number": ("1,2,3,4,0\n1,2,3,4,1\n" * 20 + "1,two,3,4,0\n", "number", 41),
    "label": ("1,2,3,4,yes\n1,2,3,4,no\n" * 60_000 + "1,2,3,4,maybe\n", "label", 120_001),
    "infinite": ("1,2,3,4,0\n1,2,3,4,1\n" * 20 + "1,inf,3,4,0\n", "", 41),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_row_is_named_by_file_and_line_once(kind, tmp_path):
    text, word, line = BAD[kind]
    path = tmp_path / "bad.csv"
    path.write_text(text)
    args = ("train", path, "--threads", 1, "--run-dir", "-", "data.header=no")
    code, _, err = on_ranks(2, *args, "--json")
    assert code == 65, err
    assert f"bad.csv:{line}" in err and word in err and "on_bad_rows" in err
    assert err.count("engine: error") == 1 and "Traceback" not in err
    code, out, err = on_ranks(2, *args, "--json", "--on-bad-rows", "skip")
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert (summary["rows"], summary["bad_rows"]) == (line - 1, 1)


@pytest.mark.parametrize(("make", "word"), [
    (lambda p: None, "none"), (lambda p: p.write_text(""), "empty"), (lambda p: p.mkdir(), "file"),
])
def test_a_missing_or_empty_source_is_a_data_error(make, word, tmp_path):
    path = tmp_path / "source.csv"
    make(path)
    code, _, err = on_ranks(2, "train", path, "--run-dir", "-")
    assert code == 65 and word in err and str(path) in err and "fix:" in err


def test_usage_errors_come_before_mpi(rows, tmp_path):
    for args, word in ((["train", rows, "model.lerner=ftrl"], "model.learner"), (["train"], "no source"),
                       (["train", rows, "--learner", "ftlr"], "ftrl"), (["tarin"], "invalid choice")):
        began = time.monotonic()
        code, _, err = engine(*args)
        assert code == 64 and word in err, (code, err)
        assert time.monotonic() - began < 5


def test_a_checkpoint_that_cannot_be_written_is_an_io_error(rows):
    code, _, err = on_ranks(2, "train", rows, *COMMON, "--checkpoint", "/proc/engine-checkpoints")
    assert code == 74 and "/proc" in err


def test_the_wrong_launcher_is_an_error_with_both_paths(rows):
    code, _, err = engine("train", rows, "--run-dir", "-", OMPI_COMM_WORLD_SIZE="4")
    assert code == 64 and "MPI sees 1" in err and "libmpi" in err


def test_fewer_rows_than_ranks_never_hangs(tmp_path):
    path = tmp_path / "three.csv"
    path.write_text("1,2,0\n3,4,1\n5,6,0\n")
    code, out, err = on_ranks(5, "train", path, "--threads", 1, "--run-dir", "-", "--json", "data.header=no")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["rows"] == 3


@pytest.mark.parametrize("rule", ["deal", "hash", "range", "random", "part"])
def test_every_rule_learns_every_row_once(rows, rule):
    code, out, err = on_ranks(3, "train", rows, "--threads", 1, "--rule", rule, "--run-dir", "-", "--json",
                              "data.piece_bytes=64Ki", "data.key=b")
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["rows"] == 20_000 and summary["accuracy"] > 0.80


def test_threads_are_workers_like_ranks(rows):
    found = [json.loads(on_ranks(n, "train", rows, "--threads", t, "--exchange", 8, "--run-dir", "-", "--json")[1]
                        .splitlines()[-1]) for n, t in ((1, 4), (2, 2))]
    assert found[0]["rows"] == found[1]["rows"] == 20_000
    assert abs(found[0]["logloss"] - found[1]["logloss"]) < 1e-4


PROGRAM = """
import sys, threading, time
from engine.guard import Guard
from engine.config import resolve
from engine.train import link_up

guard = Guard()
guard.install()
link = link_up(resolve(overrides=["loop.stall_timeout=2"], env={}), guard)
link.barrier(name="start")
def work():
    %s
if link.rank == 1:
    thread = threading.Thread(target=work) if %d else None
    thread.start() if thread else work()
for step in range(1000):
    link.barrier(name=f"step {step}")
    time.sleep(0.02)
"""


@pytest.mark.smoke
@pytest.mark.parametrize(("act", "thread", "code", "word"), [
    ("raise ValueError('seven is odd')", 0, 70, "seven is odd"),
    ("raise ValueError('seven is odd')", 1, 70, "seven is odd"),
    ("time.sleep(60)", 0, 75, "rank 1"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", 0, 75, "rank 1"),
])
def test_one_rank_that_fails_or_stalls_ends_the_job_and_is_named(act, thread, code, word, tmp_path):
    from engine.comm import probe

    program = tmp_path / "program.py"
    program.write_text(PROGRAM % (act, thread))
    mpiexec = probe.launcher()
    options, env = probe.flags(mpiexec, 3)
    record = tmp_path / "error.json"
    began = time.monotonic()
    job = subprocess.Popen([mpiexec, *options, "-n", "3", sys.executable, str(program)], text=True, start_new_session=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           env={**os.environ, **env, "ENGINE_ERROR_FILE": str(record)})
    _, out, err = finish(job, 60)
    assert word in err, err
    assert err.count("engine: error") == 1
    assert json.loads(record.read_text())["code"] == code
    assert time.monotonic() - began < (9 if code == 70 else 15), out
