"""What event time costs: rows learned with times, ids and a watermark, and the same rows without. Cases of `source`."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.learn import folder
from bench.registry import Setting, case, versus
from bench.row import Row

ROWS = 400_000


def written(path: Path, *, timed: bool) -> Path:
    """A CSV of 8 columns of numbers and a label, behind a time and an id or not."""
    x = np.random.default_rng(2).normal(size=(ROWS, 8)).round(4)
    with path.open("w") as out:
        out.write(",".join([*(["ts", "id"] if timed else []), *(f"c{i}" for i in range(8)), "y"]) + "\n")
        for i, values in enumerate(x.tolist()):
            head = f"{1_700_000_000 + i // 50}.{i % 50 * 2:02d},u{i}," if timed else ""
            out.write(f"{head}{','.join(map(str, values))},{int(values[0] > 0)}\n")
    return path


def learned(path: Path, *settings: str) -> int:
    from engine.config import resolve
    from engine.guard import Guard
    from engine.train import train

    config = resolve(env={}, overrides=[f"data.source={path}", "run.dir=-", "run.quiet=true", "loop.threads=1",
                                        "exchange.every=2048", "data.labels=0,1", *settings])
    found = int(train(config, Guard())["rows"])
    if found != ROWS:
        raise ValueError(f"{found} rows of {ROWS}")
    return found


@case("source", "event")
def event(setting: Setting) -> Iterator[Row]:
    """A rank from CSV to the learner: a time and a watermark, then ids too (duplicates looked for), over the rows alone."""
    with folder() as at:
        bare, timed = written(at / "bare.csv", timed=False), written(at / "timed.csv", timed=True)
        for name, settings in (("event.time", ("time.column=ts", "time.lateness=10s")),
                               ("event.id", ("time.column=ts", "time.lateness=10s", "time.id=id"))):
            yield versus(setting, name, "without time and id", lambda s=settings: learned(timed, *s), lambda: learned(bare),
                         work=ROWS, unit="rows/cpu-s", clock="cpu")
