"""Supervised runs that are killed, wiped, frozen and torn at every point: the end is bit for bit that of the unharmed run."""
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

LIMIT_S = 100
ROWS = 8000
POINTS = ("learned", "voted", "commit", "own", "kept", "torn", "advance", "seal", "begin", "began")


def supervised(n, folder, *more, rows=ROWS, limit_s=LIMIT_S, **env):
    """(exit code, what was said, audit log, seconds) of `engine run --supervise` in a session of its own."""
    Path(folder).mkdir(exist_ok=True)
    audit = Path(folder) / "audit.jsonl"
    line = [sys.executable, "-m", "engine", "run", "--supervise", "-n", n, *[w for w in more if str(w).startswith("--on-loss")],
            "train", f"make:sea?rows={rows}", "--threads", 1, "--exchange", 64, "--run-dir", "-", "--checkpoint",
            Path(folder) / "ck", "--every", "1000000rows", "--json", "fault.ranks_per_node=1", "fault.seal=3000",
            *[w for w in more if not str(w).startswith("--on-loss")]]
    job = subprocess.Popen([str(w) for w in line], env={**os.environ, "ENGINE_AUDIT": str(audit), **env},
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    began = time.monotonic()
    try:
        out, err = job.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGTERM)
        time.sleep(1)
        os.killpg(job.pid, signal.SIGKILL)
        out, err = job.communicate()
        pytest.fail(f"no end within {limit_s} s\n{out[-3000:]}\n{err[-3000:]}")
    told = [json.loads(text) for text in audit.read_text().splitlines()] if audit.exists() else []
    return job.returncode, out + err, told, time.monotonic() - began


def digest(folder):
    last = sorted((Path(folder) / "ck").glob("step-*"))[-1]
    return last.name, [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(last.glob("part-*"))]


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory):
    """The digest of the run on 3 ranks that nothing happens to."""
    folder = tmp_path_factory.mktemp("unharmed")
    code, said, told, _ = supervised(3, folder)
    assert code == 0, said
    assert [e["event"] for e in told] == ["done"]
    return digest(folder)


def harmed(tmp_path, unharmed, crashes, *, times=1, **options):
    code, said, told, _ = supervised(3, tmp_path, ENGINE_CRASH=crashes, **options)
    assert code == 0, said
    assert sum(e["event"] == "relaunch" for e in told) == times, (told, said)
    assert digest(tmp_path) == unharmed, said
    return said, told


@pytest.mark.smoke
@pytest.mark.parametrize("crashes", ["own:1:7", "torn:2:3:0:wipe", "kept:0:9:0:wipe,began:1:1:1,seal:2:2:2"])
def test_killed_wiped_and_killed_again_is_bit_for_bit_the_unharmed_run(tmp_path, unharmed, crashes):
    harmed(tmp_path, unharmed, crashes, times=crashes.count(",") + 1)
    left = Path("/dev/shm") / f"engine-{os.getuid()}"
    name = hashlib.blake2b(os.path.realpath(tmp_path / "ck").encode(), digest_size=6).hexdigest()
    assert not (left / name).exists()


@pytest.mark.smoke
def test_a_launch_in_reserve_takes_over_and_ends_with_the_bits_of_the_unharmed_run(tmp_path, unharmed):
    """Rank 1 is stopped at its seventh step until the next launch waits at its gate; then it is killed."""
    audit = tmp_path / "audit.jsonl"

    def kill_when_ready():
        end = time.monotonic() + LIMIT_S
        while not (audit.exists() and '"standby"' in audit.read_text()) and time.monotonic() < end:
            time.sleep(0.02)
        found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if state(path) == "T" and str(tmp_path) in words(path)]
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return found

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_when_ready)
        code, said, told, _ = supervised(3, tmp_path, "fault.standby=on", "fault.frozen=100", ENGINE_CRASH="own:1:7:0:stop")
    assert code == 0 and len(killed.result()) == 1, said
    events = [e["event"] for e in told]
    assert events.index("standby") < events.index("called") < events.index("recovered") < events.index("committed"), events
    assert events.count("relaunch") == 1 and digest(tmp_path) == unharmed, said
    assert not [path for path in Path("/proc").glob("[0-9]*") if str(tmp_path) in words(path)]  # no reserve is left behind


def words(path):
    try:
        return (path / "cmdline").read_text()
    except OSError:
        return ""


def state(path):
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


@pytest.mark.long
@pytest.mark.parametrize("action", ["kill", "wipe"])
@pytest.mark.parametrize("point", POINTS)
def test_every_point_on_a_drawn_rank(tmp_path, unharmed, point, action):
    draw = random.Random(f"{point}{action}")
    count = 1 if point in ("begin", "began") else draw.randint(1, 3)
    harmed(tmp_path, unharmed, f"{point}:{draw.randrange(3)}:{count}:0:{action}")


@pytest.mark.smoke
def test_a_frozen_rank_is_fenced_and_the_run_goes_on(tmp_path, unharmed):
    said, told = harmed(tmp_path, unharmed, "commit:1:6:0:stop")
    assert "stopped, no heartbeat" in str(told), (said, told)


def test_an_exception_ends_the_run_with_one_message(tmp_path):
    began = time.monotonic()
    code, said, told, _ = supervised(3, tmp_path, ENGINE_CRASH="commit:1:6:0:raise")
    assert code == 70 and "a made-up failure" in said and said.count("engine: error") == 1, (code, said)
    assert [e["event"] for e in told] == ["isolate"]
    assert time.monotonic() - began < 15


def test_a_rank_that_exits_with_a_code_of_its_own_is_a_loss(tmp_path, unharmed):
    harmed(tmp_path, unharmed, "own:2:5:0:exit")


@pytest.mark.parametrize(("on_loss", "after"), [("shrink", 2), ("grow", 4)])
def test_the_run_goes_on_with_one_rank_less_or_more_and_learns_each_row_once(tmp_path, on_loss, after):
    code, said, _, _ = supervised(3, tmp_path, f"--on-loss={on_loss}", "fault.inplace=false", ENGINE_CRASH="own:1:7:0:wipe")
    assert code == 0, said
    summary = json.loads([line for line in said.splitlines() if line.startswith("{")][-1])
    assert summary["rows"] == ROWS and summary["ranks"] == after, summary


@pytest.mark.smoke
@pytest.mark.parametrize(("action", "kept"), [
    ("kill", ["model/linear"]),  # survivors stand at the step that is taken: only what is not theirs is read
    pytest.param("wipe", [], marks=pytest.mark.long)])  # and here they are one step beyond it
def test_survivors_go_on_in_place_to_the_same_bits_as_after_a_relaunch(tmp_path, action, kept):
    options = ("--on-loss=shrink", "fault.seal=3000")
    code, said, told, _ = supervised(4, tmp_path / "a", *options, ENGINE_CRASH=f"own:1:7:0:{action}")
    assert code == 0, said
    assert {e["event"] for e in told} == {"recovered", "recovery", "committed", "done"}, said
    assert {e["ranks"] for e in told if e["event"] == "recovery"} == {3}
    assert [e["kept"] for e in told if e["event"] == "recovered"] == [kept]
    assert all(set(e["spent"]) == {"isolate", "recover", "repair", "synchronise", "verify"} for e in told if "spent" in e)
    code, said, told, _ = supervised(4, tmp_path / "b", *options, "fault.inplace=false",
                                     ENGINE_CRASH=f"own:1:7:0:{action}")
    assert code == 0 and sum(e["event"] == "relaunch" for e in told) == 1, said
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


@pytest.mark.long
def test_survivors_go_on_in_place_from_parity_to_the_same_bits_as_from_copies(tmp_path):
    """One rank dies, and the memory of its node and of another is gone; beside a run that loses one node and has a copy."""
    runs = []
    for name, setting, crash in (("parity", "fault.parity=2+2", "own:1:7:0:wipe:2"),
                                 ("copies", "fault.copies=1", "own:1:7:0:wipe")):
        code, said, told, _ = supervised(4, tmp_path / name, "--on-loss=shrink", setting, ENGINE_CRASH=crash)
        assert code == 0 and {e["ranks"] for e in told if e["event"] == "recovery"} == {3}, (told, said)
        assert said.count("made again from parity") == (2 if name == "parity" else 0), said
        assert ("over 3 nodes: any 2 of them may be lost" in said) == (name == "parity")
        runs.append(digest(tmp_path / name))
    assert runs[0] == runs[1]


@pytest.mark.smoke
def test_two_deaths_one_after_the_other_are_survived_in_place(tmp_path):
    code, said, told, _ = supervised(4, tmp_path, "--on-loss=shrink", ENGINE_CRASH="own:1:7,kept:3:11")
    assert code == 0, said
    assert {e["ranks"] for e in told if e["event"] == "recovery"} == {3, 2} and told[-1] | {"time": 0} == {
        "event": "done", "time": 0, "attempts": 1}
    assert json.loads([line for line in said.splitlines() if line.startswith("{")][-1])["rows"] == ROWS


ASP = ("exchange.mode=asp", "data.rule=part")
GOSSIP = ("exchange.mode=gossip",)


@pytest.mark.smoke
@pytest.mark.parametrize(("mode", "crash"), [(ASP, "own:1:12,kept:0:40"), (GOSSIP, "own:1:12,kept:0:30")])
def test_asynchronous_survivors_learn_on_while_what_the_dead_held_is_read(tmp_path, mode, crash):
    """Two deaths one after the other, the second of an heir perhaps: each row is learned once, and no run is started again."""
    code, said, told, _ = supervised(4, tmp_path, "--on-loss=shrink", *mode, ENGINE_CRASH=crash)
    assert code == 0, said
    assert {e["event"] for e in told} == {"regrouped", "returned", "done"} and told[-1]["attempts"] == 1, (told, said)
    assert sum(len(e["dead"]) for e in told if e["event"] == "regrouped" and e["rank"] == 0) == 2
    assert {e["member"] for e in told if e["event"] == "returned"} == {0, 1}
    assert json.loads([line for line in said.splitlines() if line.startswith("{")][-1])["rows"] == ROWS


@pytest.mark.long
@pytest.mark.parametrize(("mode", "crash"), [
    *((ASP, crash) for crash in ("commit:1:9", "own:0:15", "learned:2:1", "torn:1:1", "seal:0:2")),
    *((GOSSIP, crash) for crash in ("commit:1:9", "kept:0:20", "seal:2:1"))])
def test_asynchronous_ranks_are_started_again_each_from_its_own_last_record(tmp_path, mode, crash):
    code, said, told, _ = supervised(3, tmp_path, *mode, ENGINE_CRASH=crash)
    assert code == 0 and sum(e["event"] == "relaunch" for e in told) == 1, (told, said)
    assert json.loads([line for line in said.splitlines() if line.startswith("{")][-1])["rows"] == ROWS


LONG = pytest.mark.long


@pytest.mark.parametrize(("mode", "crash", "on_loss"), [
    ("ssp:3", "own:1:12:0:wipe,kept:2:9:1", "same"),
    pytest.param("ssp:2", "own:1:12:0:wipe,learned:0:30", "shrink", marks=LONG),
    pytest.param("hybrid:2", "seal:1:2:0:wipe,commit:0:30", "shrink", marks=LONG),
    pytest.param("hybrid:3", "torn:0:9:0:wipe,learned:1:2:1", "same", marks=LONG),
    pytest.param("auto", "learned:2:20,own:0:28", "shrink", marks=LONG)])
def test_rounds_in_order_are_kept_as_steps_are(tmp_path, mode, crash, on_loss):
    """Two losses, the first with the node's memory: each row is learned once, from a round that all had committed."""
    code, said, told, _ = supervised(4, tmp_path, f"--on-loss={on_loss}", f"exchange.mode={mode}", ENGINE_CRASH=crash)
    assert code == 0 and "without a new step" not in said, said
    relaunched = sum(e["event"] == "relaunch" for e in told)
    lost = {e["ranks"] for e in told if e["event"] == "recovery"}
    assert (relaunched, lost) == ((2, set()) if on_loss == "same" else (0, {3, 2})), (told, said)
    assert all(e["step"] > 0 for e in told if e["event"] == "recovered")
    assert json.loads([line for line in said.splitlines() if line.startswith("{")][-1])["rows"] == ROWS


def test_with_parity_the_memory_of_any_two_of_four_nodes_may_be_lost(tmp_path):
    """2 + 2 over four nodes of one rank; the memory of the victim's node goes, and that of another with it."""
    runs = []
    for name, crash in (("unharmed", ""), ("harmed", "torn:1:3:0:wipe:2,began:0:1:1,kept:3:9:2:wipe:0")):
        code, said, told, _ = supervised(4, tmp_path / name, "fault.parity=2+2", ENGINE_CRASH=crash)
        assert code == 0, said
        runs.append((digest(tmp_path / name), told, said))
    assert runs[0][0] == runs[1][0] and sum(e["event"] == "relaunch" for e in runs[1][1]) == 3
    assert sum(f"what rank {rank} kept is lost, and made again from parity" in runs[1][2] for rank in range(4)) == 4


@pytest.mark.parametrize("every", ["1500rows", "1000000rows"])
def test_where_node_memory_is_lost_the_file_system_is_next_and_then_the_source(tmp_path, unharmed, every):
    code, said, told, _ = supervised(3, tmp_path, "fault.copies=0", f"checkpoint.every={every}",
                                     ENGINE_CRASH="own:1:33:0:wipe")
    assert code == 0, said
    assert "no step of every shard" in said and ("resumed from" in said) == (every == "1500rows"), said
    assert sum(e["event"] == "relaunch" for e in told) == 1
    assert digest(tmp_path)[1] == unharmed[1]


def test_a_run_that_is_always_lost_is_given_up_with_a_reason(tmp_path):
    crashes = ",".join(f"commit:0:1:{attempt}" for attempt in range(8))
    code, said, told, _ = supervised(2, tmp_path, ENGINE_CRASH=crashes)
    assert code == 75 and "without a new step" in said
    assert sum(e["event"] == "relaunch" for e in told) == 3
