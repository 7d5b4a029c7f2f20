"""Survival: supervised runs killed, wiped and frozen; recovery times; restart on any ranks; corruption; the cost of protection.

Every kill is a real SIGKILL of a real rank at a named point of the step (store/crash.py); the end of each run is compared,
byte for byte, with that of a run that nothing happens to.
"""
from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from bench.launch import environment
from bench.registry import Setting, case
from bench.row import Row, row
from bench.timing import spread

POINTS = ("learned", "voted", "commit", "own", "kept", "torn", "advance", "seal")
RANKS, ROWS = 3, 9600
KILLS = 10  # of one run; drawn kills may all fall before its next step, so it is not given up for that


@contextmanager
def folder(base: str | None = None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench fault ", dir=base) as name:
        yield Path(name)


def supervised(place: Path, ranks: int, source: str, *settings: str, on_loss: str = "same", stuck: int = 3,
               limit_s: float = 200, **env: str) -> tuple[int, list[dict[str, Any]], str]:
    """(exit code, audit log, what was said) of `engine run --supervise`; its whole session is killed at the limit."""
    audit = place / "audit.jsonl"
    line = [sys.executable, "-m", "engine", "run", "--supervise", "-n", str(ranks), "--on-loss", on_loss,
            "--stuck", str(stuck), "train", source,
            "--threads", "1", "--run-dir", "-", "--checkpoint", str(place / "ck"), "--json", "fault.ranks_per_node=1",
            *settings]
    job = subprocess.Popen(line, env=environment() | {"ENGINE_AUDIT": str(audit), **env}, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        said, _ = job.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGTERM)
        time.sleep(2)
        os.killpg(job.pid, signal.SIGKILL)
        said, _ = job.communicate()
    told = [json.loads(text) for text in audit.read_text().splitlines()] if audit.exists() else []
    return job.returncode, told, said


def digest(place: Path) -> list[str]:
    last = sorted((place / "ck").glob("step-*"))[-1]
    return [last.name, *(hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(last.glob("part-*")))]


def small(place: Path, *settings: str, ranks: int = RANKS, **env: str) -> tuple[int, list[dict[str, Any]], str]:
    return supervised(place, ranks, f"make:sea?rows={ROWS}", "exchange.every=64", "checkpoint.every=1000000rows",
                      "fault.seal=3000", *settings, stuck=KILLS, **env)


def campaign(setting: Setting, name: str, action: str, count: int, *settings: str, ranks: int = RANKS,
             nodes: int = 1) -> Iterator[Row]:
    """`count` kills, ten a run, at drawn points of drawn ranks; the later ones of a run fall while it recovers, or after.

    `nodes`: whose memory a wipe takes at most, the victim's and drawn others.
    """
    draw = random.Random(f"campaign {name}")
    kills = lost = doubled = exact = runs = 0
    ends = time.monotonic() + (3600 if setting.long else max(setting.seconds * 5, 60))
    with folder() as clean:
        code, _, said = small(clean, *settings, ranks=ranks)
        if code:
            raise RuntimeError(f"the unharmed run failed: {said[-400:]}")
        want = digest(clean)
    while kills < count and time.monotonic() < ends:
        crashes = []
        for attempt in range(KILLS):
            point = draw.choice([*POINTS, "begin", "began"])
            turn = 1 if point in ("begin", "began") else draw.randint(1, 3)
            victim = draw.randrange(ranks)
            others = draw.sample([node for node in range(ranks) if node != victim], draw.randrange(nodes)) if nodes > 1 else []
            crashes.append(":".join(map(str, [point, victim, turn, attempt, action, *others])))
        with folder() as place:
            code, told, said = small(place, *settings, ranks=ranks, ENGINE_CRASH=",".join(crashes))
            if code:
                raise RuntimeError(f"{','.join(crashes)}: exit {code}: {said[-400:]}")
            kills += sum(event["event"] == "relaunch" for event in told)
            exact += digest(place) == want
            summary = json.loads([line for line in said.splitlines() if line.startswith("{")][-1])
            doubled += summary["rows"] != ROWS
            held = 0
            for event in told:
                if event["event"] == "isolate":
                    held = max(held, event["step"])
                elif event["event"] == "recovered":
                    lost += max(0, held - event["step"])
        runs += 1
    yield row(name, kills, "kills", "none", bars={"steps_lost": "<= 0", "rows_lost": "<= 0", "not_exact": "<= 0"}, runs=runs,
              steps_lost=lost, rows_lost=doubled, not_exact=runs - exact, asked=count, given_up_after=KILLS)


@case("fault", "kill")
def kill(setting: Setting) -> Iterator[Row]:
    yield from campaign(setting, "kill", "kill", 500 if setting.long else 50)


@case("fault", "kill.wiped")
def wiped(setting: Setting) -> Iterator[Row]:
    """The victim's node memory is wiped with it: its shard comes back from the partner."""
    yield from campaign(setting, "kill.wiped", "wipe", 500 if setting.long else 50)


@case("fault", "kill.wiped.parity")
def wiped_parity(setting: Setting) -> Iterator[Row]:
    """The memory of every set of m of the k + m nodes is lost, one set a run, in the middle of a step; one more is said."""
    yield from campaign(setting, "kill.wiped.parity", "wipe", 500 if setting.long else 30, "fault.parity=2+2", ranks=4, nodes=2)
    for k, m in ((2, 1), (2, 2), (3, 2)) if setting.long else ((2, 1), (2, 2)):
        exact = lost = doubled = 0
        sets = list(combinations(range(k + m), m))
        draw = random.Random(f"parity {k} {m}")
        with folder() as clean:
            code, _, said = small(clean, f"fault.parity={k}+{m}", ranks=k + m)
            if code:
                raise RuntimeError(f"the unharmed run failed: {said[-400:]}")
            want = digest(clean)
        for victim, *others in sets:
            crash = ":".join(map(str, [draw.choice(POINTS), victim, draw.randint(2, 4), 0, "wipe", *others]))
            with folder() as place:
                code, told, said = small(place, f"fault.parity={k}+{m}", ranks=k + m, ENGINE_CRASH=crash)
                if code or not any(event["event"] == "recovered" for event in told):
                    raise RuntimeError(f"{crash}: exit {code}: {said[-400:]}")
                exact += digest(place) == want
                held = max(event["step"] for event in told if event["event"] == "isolate")
                lost += sum(max(0, held - event["step"]) for event in told if event["event"] == "recovered")
                doubled += json.loads([line for line in said.splitlines() if line.startswith("{")][-1])["rows"] != ROWS
        yield row(f"kill.wiped.parity {k}+{m}", len(sets), "sets of nodes", "none", bars={
            "steps_lost": "<= 0", "rows_lost": "<= 0", "not_exact": "<= 0"}, steps_lost=lost, rows_lost=doubled,
            not_exact=len(sets) - exact)


def until_step(told: list[dict[str, Any]], mark: Path) -> float:
    """Seconds from the kill to the first step committed after it; from the audit log and the victim's own mark."""
    killed = float(mark.read_text().split()[0])
    after = [event["time"] for event in told if event["event"] == "committed" and event["time"] > killed]
    return min(after) - killed if after else float("nan")


def recovery(setting: Setting, name: str, limit_s: float, *, on_loss: str, action: str, keys: int, ranks: int,
             repeat: int = 3) -> Iterator[Row]:
    times, steps = [], {}
    for turn in range(repeat):
        with folder() as place:
            mark = place / "mark"
            code, told, said = supervised(
                place, ranks, f"make:zipf?rows=6000&keys={keys}&nnz=10", "exchange.every=64", "checkpoint.every=1000000rows",
                on_loss=on_loss, ENGINE_CRASH=f"own:{1 + turn % (ranks - 1)}:8:0:{action}", ENGINE_CRASH_MARK=str(mark))
            if code:
                raise RuntimeError(f"exit {code}: {said[-400:]}")
            times.append(until_step(told, mark))
            steps = next((event["spent"] for event in told if event["event"] == "recovery"), steps)
    megabytes = 2**keys * 12 / 1e6
    yield row(name, sorted(times)[len(times) // 2], "s", "none", spread=spread(times), bars={"value": f"<= {limit_s}"},
              worst=max(times), state_mb=megabytes, ranks=ranks, **{f"{step}_ms": 1e3 * spent for step, spent in steps.items()})


def openmpi() -> bool:
    from engine.comm import probe

    return probe.vendor(probe.launcher()) == "openmpi"


@case("fault", "recover.inplace")
def inplace(setting: Setting) -> Iterator[Row]:
    """Kill -> next committed step, survivors going on: 16.8 MB a rank."""
    yield from recovery(setting, "recover.inplace", 0.1, on_loss="shrink", action="kill", keys=22, ranks=3)


@case("fault", "recover.inplace.nodes")
def inplace_nodes(setting: Setting) -> Iterator[Row]:
    """The same on three hosts (network namespaces), a rank and a node memory each, links of 1 Gb/s: copies at partners."""
    from bench import net

    with net.hosts(3, "1gbit") as names:
        times = [on_nodes(names) for _ in range(3)]
    yield row("recover.inplace.nodes", sorted(times)[1], "s", "none", spread=spread(times), bars={"value": "<= 0.5"},
              worst=max(times), state_mb=2**22 * 12 / 1e6, ranks=3)


def on_nodes(names: list[str]) -> float:
    """Seconds from a kill on the second host to the next step that the other two commit."""
    from bench import net
    from engine.comm import repair

    with tempfile.TemporaryDirectory(prefix="nodes") as made:  # launchers do not quote the agent's path
        place, ulfm = Path(made), openmpi()
        agent, audit, mark = place / "agent", place / "audit", place / "mark"
        agent.write_text(net.PRIVATE)
        agent.chmod(0o755)
        (mpiexec, *options), env = net.line(names, [1] * len(names), str(agent))
        env |= {"ENGINE_AUDIT": str(audit), "ENGINE_CRASH_MARK": str(mark), "ENGINE_CRASH": "own:1:8"}
        before = [mpiexec, *repair.ULFM_FLAGS, *options] if ulfm else [mpiexec, *repair.SHIELD_FLAGS, *options, *repair.SHIELD]
        env |= {} if ulfm else {"ENGINE_TIER": "shield"}
        line = [sys.executable, "-m", "engine", "run", "--supervise", "-n", str(len(names)), "--on-loss", "shrink", "--",
                *before, sys.executable, "-m", "engine", "train", "make:zipf?rows=6000&keys=22&nnz=10", "--run-dir", "-",
                "--quiet", "loop.threads=1", "exchange.every=64", f"checkpoint.dir={place / 'ck'}",
                "checkpoint.every=1000000rows"]
        done = subprocess.run(line, env=environment() | env, capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"exit {done.returncode}: {(done.stdout + done.stderr)[-400:]}")
        return until_step([json.loads(text) for text in audit.read_text().splitlines()], mark)


@case("fault", "recover.relaunch")
def relaunch(setting: Setting) -> Iterator[Row]:
    """Kill -> next committed step, all ranks anew: 50 MB of model, 4 MB of meters; the next launch in reserve, and from cold."""
    for name, reserve in (("recover.relaunch", "on"), ("recover.relaunch.cold", "off")):
        with folder() as place:
            times = list(relaunched(place, reserve, kills=3))
        limit_s = 2.5 if openmpi() else 1.0
        yield row(name, sorted(times)[1], "s", "none", spread=spread(times), bars={"value": f"<= {limit_s}"}, worst=max(times),
                  state_mb=2**22 * 12 / 1e6, ranks=4)


def pulse(place: Path) -> Any:
    """The ranks' lines of the newest epoch of a supervised run, where there are any."""
    from engine.survive.pulse import LINE, home
    from engine.survive.supervise import name_of

    newest = max((home("/dev/shm") / name_of(str(place / "ck"))).glob("pulse-*"), default=None)
    return None if newest is None else np.fromfile(newest, np.int64).reshape(-1, LINE)


def relaunched(place: Path, reserve: str, kills: int) -> Iterator[float]:
    """Seconds from each SIGKILL of a drawn rank of one run to the next committed step; each once the run goes on as before."""
    from engine.survive.pulse import PID, STEP

    audit, draw = place / "audit.jsonl", random.Random("relaunch")
    line = [sys.executable, "-m", "engine", "run", "--supervise", "-n", "4", "train", "make:zipf?rows=8000000&keys=22&nnz=10",
            "--threads", "1", "--exchange", "64", "--run-dir", "-", "--quiet", "--checkpoint", str(place / "ck"), "--every",
            "1000000000rows", "fault.ranks_per_node=1", f"fault.standby={reserve}"]
    job = subprocess.Popen(line, env=environment() | {"ENGINE_AUDIT": str(audit)}, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, start_new_session=True)

    def seen(event: str) -> list[float]:
        told = audit.read_text().splitlines() if audit.exists() else []
        return [found["time"] for found in map(json.loads, told) if found["event"] == event]

    def until(what: Any, named: str) -> None:
        end = time.monotonic() + 60
        while not what():
            if job.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the supervised run: {named} did not come")
            time.sleep(0.02)

    try:
        for turn in range(kills):
            until(lambda: (lines := pulse(place)) is not None and lines[:, STEP].min() > 0, "the first step")
            if reserve == "on":
                until(lambda turn=turn: len(seen("standby")) > turn, "the launch in reserve")
            time.sleep(1)
            victim = int(pulse(place)[draw.randrange(4), PID])
            killed = time.time()
            os.kill(victim, signal.SIGKILL)
            until(lambda killed=killed: max(seen("committed"), default=0) > killed, "a step after the loss")
            yield seen("committed")[-1] - killed
    finally:
        job.send_signal(signal.SIGTERM)
        try:
            job.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)


@case("fault", "recover.frozen")
def frozen(setting: Setting) -> Iterator[Row]:
    """SIGSTOP -> next committed step, limit 0.5 s; survivors going on."""
    yield from recovery(setting, "recover.frozen", 1.1, on_loss="shrink", action="stop", keys=18, ranks=3)


@case("fault", "end")
def end(setting: Setting) -> Iterator[Row]:
    """A rank that exits by itself, an exception, a dead launcher: a restart or a clean error, never a hang."""
    for name, action, codes in (("exit", "exit", (0,)), ("exception", "raise", (70,))):
        with folder() as place:
            began = time.monotonic()
            code, told, _ = small(place, ENGINE_CRASH=f"own:1:8:0:{action}")
            yield row(f"end.{name}", time.monotonic() - began, "s", "none", bars={"value": "<= 20", "good": ">= 1"},
                      good=int(code in codes), restarts=sum(e["event"] == "relaunch" for e in told))
    with folder() as place:
        yield launcher(place)


def launcher(place: Path) -> Row:
    """The mpiexec of a supervised run is killed: seconds until a step is committed again."""
    audit = place / "audit.jsonl"
    line = [sys.executable, "-m", "engine", "run", "--supervise", "-n", "3", "train", "make:sea?rows=2000000", "--threads", "1",
            "--exchange", "64", "--run-dir", "-", "--quiet", "--stop-after", "200000", "fault.ranks_per_node=1"]
    job = subprocess.Popen(line, env=environment() | {"ENGINE_AUDIT": str(audit)}, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 20
        while not Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split() and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(1.5)  # ranks are up and learn
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        killed = time.time()
        os.kill(int(children[0]), signal.SIGKILL)
        code = job.wait(120)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    told = [json.loads(text) for text in audit.read_text().splitlines()] if audit.exists() else []
    after = [event["time"] - killed for event in told if event["event"] == "committed" and event["time"] > killed]
    return row("end.launcher", min(after, default=None), "s", "none", bars={"value": "<= 10", "good": ">= 1"},
               good=int(code == 0))


@case("fault", "restart.n-to-m")
def any_to_any(setting: Setting) -> Iterator[Row]:
    """N ranks stop after some steps, M go on: the state found is the one left, and at the end every row was scored once."""
    exact = tried = 0
    with folder("/dev/shm") as place:
        for n in range(1, 9):
            for m in range(1, 9):
                root = place / f"{n}-{m}"
                left = on_ranks(n, lambda link, root=root: lived(link, root, 1 if link.size == 1 else 5))
                found = on_ranks(m, lambda link, root=root: lived(link, root, None))
                tried += 1
                exact += all(same(state, left[0][1]) for state, _, _ in found) and found[0][2] == 2560
                shutil.rmtree(root)
    yield row("restart.n-to-m", exact, "pairs", "none", bars={"exact": ">= 64"}, exact=exact, tried=tried)


def on_ranks(size: int, work: Any) -> list[Any]:
    from engine.comm.local import group

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, group(size, timeout_s=60)))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


def lived(link: Any, root: Path, steps: int | None) -> tuple[dict[str, Any], dict[str, Any], int]:
    """(state as found, state as left, rows scored) of a rank that goes on for some steps, or to the end."""
    from engine import job as jobs
    from engine import loop, resume
    from engine.config import resolve
    from engine.source.stream import Position
    from engine.survive.protect import Protection

    config = resolve(overrides=["data.source=make:sea?rows=2560", "loop.threads=1", "exchange.every=16",
                                "fault.ranks_per_node=1", "fault.frozen=60", "fault.seal=2000"], env={})
    source = jobs.open_agreed(config, link)
    job = jobs.assemble(config, link, source.schema, None)
    shield = Protection(config, link, root)
    before = shield.recover(job, source.schema)
    found = {path: block.data.copy() for path, block in resume.views(job).items() if not path.startswith("meter/")}
    job.stream = jobs.stream(config, link, source, None if before is None else Position.parse(before["position"]))
    shield.begin(job, source.schema)
    job.keeper = shield
    while steps is None or job.clock.step < steps:
        tick = loop.step(job, job.stream.take(job.k))
        job.clock, _ = loop.advance(job.clock, tick, job.rules)
        if not tick.rows:
            break
        shield.commit(job)
    state = {path: block.data.copy() for path, block in resume.views(job).items() if not path.startswith("meter/")}
    meter = loop.merged_meter(job)
    shield.pulse.done()
    return found, state, -1 if meter is None else meter.summary()["rows"]


def kept(ranks: int, share: float, steps: int, *settings: str) -> dict[str, Any]:
    """What bench/keep.py measures, 16 MiB a rank."""
    from engine.comm import probe

    with folder("/dev/shm") as place:
        mpiexec = probe.launcher()
        options, env = probe.flags(mpiexec, ranks)
        line = [mpiexec, *options, "-n", str(ranks), sys.executable, "-m", "bench.keep", "16", str(share), str(steps), str(place),
                *settings]
        paths = f"{environment()['PYTHONPATH']}{os.pathsep}{Path(__file__).resolve().parent.parent}"
        done = subprocess.run(line, env=environment() | env | {"PYTHONPATH": paths}, capture_output=True, text=True,
                              timeout=150, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
        return json.loads(done.stdout.splitlines()[-1])


@case("fault", "protect")
def protect(setting: Setting) -> Iterator[Row]:
    """The cost of a step's safety in memory and at a partner, 16 MiB a rank, as a share of a step of 100 ms."""
    for share, name, bar in ((0.05, "protect", 3.0), (1.0, "protect.alldirty", None)):
        found = kept(2, share, 200 if share < 1 and setting.long else 60 if share < 1 else 12)
        yield row(name, 100 * found["mean_s"] / 0.1, "% of 100 ms", "none", bars={"value": f"<= {bar}"} if bar else None,
                  median=100 * found["commit_s"] / 0.1, cpu=100 * found["cpu_mean_s"] / 0.1, beside_cpu=100 * found["beside_s"] / 0.1,
                  dirty_rows=found["rows"])
        if share < 1:
            yield row("protect.file", 100 * found["stall_s"] / 10, "% of 10 s", "none", bars={"value": "<= 1"},
                      stall_ms=1e3 * found["stall_s"], write_ms=1e3 * found["write_s"])


@case("fault", "protect.parity")
def parity(setting: Setting) -> Iterator[Row]:
    """The same with parity over four nodes of one rank, beside as many whole copies: any one node may be lost, any two."""
    for code, copies in (("3+1", 1), ("2+2", 2)):
        ours, theirs = (kept(4, 0.05, 40, set_) for set_ in (f"fault.parity={code}", f"fault.copies={copies}"))
        yield row(f"protect.parity {code}", 100 * ours["commit_s"] / 0.1, "% of 100 ms", f"{copies} copies",
                  100 * theirs["commit_s"] / 0.1, ours["commit_s"] / theirs["commit_s"],
                  bars={"held_share": f"<= {1.25 * int(code[-1]) / int(code[0]) / copies:.2f}"},
                  held_share=ours["held"] / theirs["held"], held_mb=ours["held"] / 1e6, copies_held_mb=theirs["held"] / 1e6,
                  own_mb=ours["own"] / 1e6, shadow_mb=16 * 1.048576,
                  sent_mb=ours["sent"] / 1e6, copies_sent_mb=theirs["sent"] / 1e6,
                  cpu_ms=1e3 * ours["all_cpu_s"], copies_cpu_ms=1e3 * theirs["all_cpu_s"])


@case("fault", "incremental")
def incremental(setting: Setting) -> Iterator[Row]:
    """Bytes of an incremental checkpoint with 1 % of the rows changed, as a share of a whole one."""
    from engine.store import checkpoint as store
    from engine.store.record import Change, Record
    from engine.types import Block

    rng = np.random.default_rng(4)
    rows = 1 << 20
    data = rng.standard_normal((rows, 3), np.float32)
    columns = (("w", "owner"), ("a", "owner"), ("n", "owner"))
    keys = np.sort(rng.choice(rows, rows // 100, replace=False)).astype(np.uint32)
    with folder() as place:
        whole = store.save_part(place, 1, 0, 1, {"m": Block(data, columns)})  # type: ignore[arg-type]
        store.commit(place, 1, [whole], {})
        change = Change("m", keys, data[keys] + 1, rows, columns)
        part = store.save_delta(place, Record(2, 1, (change,)), {"m": (0, rows)}, whole.layout)
        store.commit(place, 2, [part], {}, base=1)
        state, _ = store.load(store.open_checkpoint(store.step_dir(place, 2)))
        data[keys] += 1
        if not np.array_equal(state["m"].data, data):
            raise RuntimeError("the chain does not give the state")
    yield row("incremental", 100 * part.size / whole.size, "% of full", "none", bars={"value": "<= 1.2"}, full=whole.size)


@case("fault", "corruption")
def corruption(setting: Setting) -> Iterator[Row]:
    """Bytes flipped, files cut, pages zeroed, doubled and stale, files swapped, missing: in a mirrored chain and in memory."""
    from bench.harm import in_memory, on_disk

    for name, made in (("corruption.disk", on_disk(setting.long)), ("corruption.memory", in_memory(setting.long))):
        tried, detected, repaired, silent = made
        yield row(name, tried, "harms", "none", bars={"silent": "<= 0", "detected": ">= 100", "repaired": ">= 99"},
                  detected=100 * detected / tried, repaired=100 * repaired / tried, silent=silent)


@case("fault", "kill.async")
def asynchronous(setting: Setting) -> Iterator[Row]:
    """Rows a second of the survivors from the kill until the dead rank's shards are served again, beside the second before."""
    for repeat in range(3):
        with folder() as place:
            found = async_kill(place, repeat)
        if found:
            break
    else:
        raise RuntimeError("no kill fell into a steady second of the run")
    yield row("kill.async", 100 * found["during"] / found["before"], "% of the rows/s before", "the same ranks before",
              found["before"], found["during"] / found["before"], bars={"value": ">= 80", "rows_lost": "<= 0"}, **found)


def async_kill(place: Path, seed: int) -> dict[str, float]:
    """One SIGKILL of a rank of four in asynchronous mode; survivors' rows are read from their lines in node memory."""
    rows = 400000
    audit, mark = place / "audit.jsonl", place / "mark"
    line = [sys.executable, "-m", "engine", "run", "--supervise", "-n", "4", "--on-loss", "shrink", "train",
            f"make:zipf?rows={rows}&keys=22&nnz=10", "--threads", "1", "--run-dir", "-", "--json", "--exchange", "256",
            "--checkpoint", str(place / "ck"), "--every", "1000000rows", "exchange.mode=asp", "data.rule=part"]
    victim = 1 + seed
    job = subprocess.Popen(line, env=environment() | {"ENGINE_AUDIT": str(audit), "ENGINE_CRASH_MARK": str(mark),
                                                      "ENGINE_CRASH": f"own:{victim}:150:0:kill"},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    seen: list[tuple[float, int]] = []
    try:
        end = time.monotonic() + 100
        while job.poll() is None and time.monotonic() < end:
            if sight := learned(place, victim):
                seen.append((time.time(), sight))
            time.sleep(0.004)
        said = job.communicate(timeout=20)[0]
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    if job.returncode:
        raise RuntimeError(f"exit {job.returncode}: {said[-400:]}")
    summary = json.loads([text for text in said.splitlines() if text.startswith("{")][-1])
    back = [event for event in map(json.loads, audit.read_text().splitlines()) if event["event"] == "returned"]
    killed, returned = float(mark.read_text().split()[0]), float(back[0]["time"])

    def rate(since: float, until: float) -> float:
        times, counts = zip(*seen, strict=True)
        a, b = np.interp([since, until], times, counts)
        return float(b - a) / (until - since)

    # The heir's count takes the dead rank's rows in the record in which they return: look until just before it.
    during = rate(killed, returned - back[0]["spent"]["repair"] - 0.01)
    if seen[0][0] > killed - 0.6:
        return {}
    return {"before": rate(killed - 0.5, killed), "during": during, "after": rate(returned + 0.2, returned + 0.7),
            "away_ms": 1e3 * (returned - killed), "rows_lost": abs(rows - summary["rows"])}


def learned(place: Path, victim: int) -> int:
    """Rows of all ranks but one, as their records count them; 0 before there are any."""
    from engine.survive.pulse import LINE, home
    from engine.survive.pulse import ROWS as COUNT
    from engine.survive.supervise import name_of

    for path in sorted((home("/dev/shm") / name_of(str(place / "ck"))).glob("pulse-*"))[-1:]:
        lines = np.fromfile(path, np.int64).reshape(-1, LINE)
        return int(np.delete(lines[:, COUNT], victim).sum())
    return 0
