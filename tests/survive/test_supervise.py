"""What the supervisor does beside starting jobs: leaks, names, foreign launchers, a request to scale."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from engine.cluster.health import Limits
from engine.errors import ConfigError, PeerError
from engine.survive import pulse
from engine.survive.supervise import foreign, name_of, sweep


def made(folder, name, *, pid=0, born=-1, keeps=False, rank=0):
    root = folder / name
    root.mkdir(parents=True)
    (root / "owner").write_text(json.dumps({"pid": pid, "born": born, "keeps": keeps}))
    lines = np.zeros((2, pulse.LINE), np.int64)
    lines[0, pulse.PID], lines[0, pulse.BORN] = rank, pulse.born(rank) if rank else -1
    lines.tofile(root / "pulse-000001")
    return root


def test_memory_of_dead_runs_is_removed_and_of_living_or_findable_ones_kept(tmp_path):
    me = os.getpid()
    dead = made(tmp_path, "dead", pid=me, born=pulse.born(me) + 1)  # the pid has come again
    kept = [made(tmp_path, "supervised", pid=me, born=pulse.born(me)), made(tmp_path, "ranks", rank=me),
            made(tmp_path, "findable", keeps=True), tmp_path / "foreign"]
    kept[-1].mkdir()
    assert sweep(tmp_path) == [dead]
    assert all(path.exists() for path in kept)
    assert sweep(tmp_path, keep_s=-1.0) == [kept[2], kept[3]]


def test_a_run_has_one_name_for_its_checkpoint_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name_of("ck") == name_of(str(tmp_path / "ck")) != name_of("other")
    assert name_of("") != name_of("")


def test_a_foreign_launcher_has_its_number_of_ranks_filled_in():
    line, _ = foreign(["sh", "-n", "{n}", "x"])(7)
    assert line == ["sh", "-n", "7", "x"]
    with pytest.raises(ConfigError, match="launcher that can be run"):
        foreign(["no-such-launcher"])


def test_ranks_of_an_older_epoch_are_killed_and_may_not_write(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    lines = pulse.table(tmp_path / "pulse-000001", (1, pulse.LINE))
    lines[0, pulse.PID], lines[0, pulse.BORN] = child.pid, pulse.born(child.pid)
    mine = pulse.Pulse(tmp_path, 2, 0, 1, Limits())
    mine.step(1)
    assert pulse.fence(tmp_path, 3, spare=[os.getpid()]) == [child.pid]
    assert child.wait(5) == -signal.SIGKILL
    with pytest.raises(PeerError, match="epoch 3 has taken over"):
        mine.step(2)
    mine.done()


def test_a_frozen_neighbour_is_killed_within_twice_the_limit_and_a_busy_one_is_not(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from engine.cluster.health import Limits
from engine.survive.pulse import Pulse
Pulse(Path({str(tmp_path)!r}), 1, int(sys.argv[1]), 3, Limits(0.4, 60.0))
print("up", flush=True)
while int(sys.argv[1]) == 2:
    pass
time.sleep(60)
"""
    children = [subprocess.Popen([sys.executable, "-c", code, str(rank)], stdout=subprocess.PIPE) for rank in (1, 2)]
    try:
        for child in children:
            assert child.stdout.readline() == b"up\n"
        mine = pulse.Pulse(tmp_path, 1, 0, 3, Limits(0.4, 60.0))
        time.sleep(0.5)
        os.kill(children[0].pid, signal.SIGSTOP)
        began = time.monotonic()
        assert children[0].wait(10) == -signal.SIGKILL
        assert 0.3 < time.monotonic() - began < 3.0
        time.sleep(0.2)
        assert mine.lost == {1} and "rank 1 died" in mine.why() and children[1].poll() is None
        mine.done()
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_a_run_is_scaled_while_it_learns(tmp_path):
    audit = tmp_path / "audit.jsonl"
    line = [sys.executable, "-m", "engine", "run", "--supervise", "-n", "2", "train", "make:sea?rows=400000", "--threads", "1",
            "--exchange", "64", "--run-dir", "-", "--checkpoint", str(tmp_path / "ck"), "--json", "--every", "1000000rows",
            "--stop-after", "100000", "fault.ranks_per_node=1"]
    job = subprocess.Popen(line, env={**os.environ, "ENGINE_AUDIT": str(audit)}, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, start_new_session=True)
    root = pulse_root(tmp_path / "ck")
    end = time.monotonic() + 60
    while not committed(root) and time.monotonic() < end:
        time.sleep(0.02)
    asked = subprocess.run([sys.executable, "-m", "engine", "scale", str(tmp_path / "ck"), "3"], capture_output=True, text=True,
                           timeout=60)
    out, err = job.communicate(timeout=90)
    assert job.returncode == 0 and asked.returncode == 0, err + asked.stderr
    told = [json.loads(text) for text in audit.read_text().splitlines()]
    assert any("scaled to 3 ranks" in event.get("why", "") for event in told), told
    summary = json.loads(out.splitlines()[-1])
    assert summary["ranks"] == 3 and summary["rows"] >= 100_000
    assert not root.exists()


def pulse_root(checkpoint):
    from engine.survive.pulse import home

    return home("/dev/shm") / name_of(str(checkpoint))


def committed(root):
    paths = sorted(root.glob("pulse-*"))
    return bool(paths) and np.fromfile(paths[-1], np.int64).reshape(-1, pulse.LINE)[:, pulse.STEP].max() > 2
