"""Vowpal Wabbit by its own driver, in a process of its own a round; the time of a run on one row is subtracted.

Its parser runs in a second thread, so CPU seconds are what compares; wall-clock stands beside them. The start-up
subtracted is the median of all runs on one row so far, at least five, since one run of it is as noisy as it is long.
"""
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path


def drive(arguments):
    """(wall s, cpu s, what it printed) of one run of the driver, start-up included."""
    call = [sys.executable, "-m", "vowpalwabbit", "--no_stdin", *arguments]
    wall = time.perf_counter()
    child = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    text = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - wall
    if child.returncode:
        raise RuntimeError(text[-500:])
    return wall, used.ru_utime + used.ru_stime, text


def source(path, arguments, cached):
    """The arguments that name the input; a cache is written here, outside the clock."""
    if not cached:
        return ["-d", path]
    drive(["-d", path, "-c", "-k", *arguments])
    return ["-d", path, "-c"]


def prepare(path, arguments, cached=True):
    """`path`: VW text; `arguments`: of the learner. A round returns the progressive loss of the whole file."""
    import vowpalwabbit

    short = path + ".one"
    with open(path) as lines:
        Path(short).write_text(lines.readline())
    inputs, start = source(path, arguments, cached), source(short, arguments, cached)
    starts = [drive([*start, *arguments])[:2] for _ in range(5)]

    def run():
        starts.append(drive([*start, *arguments])[:2])
        wall_start, cpu_start = map(statistics.median, zip(*starts, strict=True))
        wall, cpu, text = drive([*inputs, *arguments])
        loss = re.search(r"average loss = (\S+)", text)
        rows = re.search(r"number of examples = (\d+)", text)
        return {"wall": wall - wall_start, "cpu": cpu - cpu_start, "rows": int(rows[1]), "loss": float(loss[1]),
                "version": vowpalwabbit.__version__}

    return run
