"""Training over the parameter table beside replicas: rows a second of two ranks, and the log loss, by how wide the model is."""
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from statistics import median
from typing import Any

from bench.machine import ROOT
from bench.registry import Setting, case
from bench.row import Row, row
from engine.comm import probe

WAYS = {"table": ("exchange.place=table", "exchange.mode=asp"), "replica": ("exchange.mode=asp",),
        "table_steps": ("exchange.place=table",), "replica_steps": (),
        "table_256": ("exchange.place=table", "exchange.mode=asp", "exchange.every=256")}


def learned(spec: str, *settings: str) -> dict[str, Any]:
    line = [sys.executable, "-m", "engine", "run", "-n", "2", "train", spec, "loop.threads=1", "run.dir=-", "run.quiet=true",
            "--json", *settings]
    done = subprocess.run(line, capture_output=True, text=True, timeout=110, cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@case("shard", "table.train")
def table_train(setting: Setting) -> Iterator[Row]:
    """Rows a second (40 Zipf keys each) of two ranks of a node, asynchronous; beside replicas, and both in steps."""
    for bits in (18, 22, 24):
        spec = f"make:zipf?rows={60000 if setting.long else 30000}&keys={bits}"
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(3):
            for way, settings in WAYS.items():
                runs[way].append(learned(spec, *settings))
        rate = {way: median(float(r["rows_s"]) for r in found) for way, found in runs.items()}
        mine = sorted(float(r["rows_s"]) for r in runs["table"])
        loss = {f"loss_{way}": round(float(found[0]["logloss"]), 5) for way, found in runs.items()}
        yield row("table.train", rate.pop("table"), "rows/s", "replicas, asp", rate.pop("replica"),
                  spread=(mine[-1] - mine[0]) / mine[1], keys=1 << bits, **rate, **loss, mpi=probe.vendor(probe.launcher()))
