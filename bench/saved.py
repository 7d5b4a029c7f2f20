"""A checkpoint of 1 GiB written and synced, and read back verified, beside the file system's own copy and other formats."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.launch import environment
from bench.peers import peer
from bench.registry import Missing, Setting, case
from bench.row import Row, absent, row
from bench.timing import Timed, paired

SIZE = 1 << 30
PEERS = ("torch", "savez", "safetensors")


def place() -> tempfile.TemporaryDirectory[str]:
    made = tempfile.TemporaryDirectory(prefix="bench saved ")
    if (free := shutil.disk_usage(made.name).free) < 6 * SIZE:
        made.cleanup()
        raise Missing(f"{6 * SIZE} bytes of disk are needed, {free} are free")
    return made


def against(setting: Setting, name: str, theirs: str, ours: Timed, call: Timed, bar: bool) -> Row:
    pair = paired(ours, call, 9 if setting.long else 5, setting.seconds, least_s=0)
    return row(name, SIZE / pair.ours.median() / 1e9, "GB/s", theirs, SIZE / pair.theirs.median() / 1e9, 1 / pair.ratio(),
               pair.spread(), {"slower": "<= 1.1"} if bar else None, slower=pair.ratio(), cpu=pair.ratio("cpu"))


def beside(setting: Setting, name: str, ours: Timed, folder: Path, read: bool) -> Iterator[Row]:
    for kind in PEERS:
        with peer("checkpoint", kind=kind, rows=SIZE // 16, path=str(folder / f"peer.{kind}"), read=read) as theirs:
            if isinstance(theirs, Missing):
                yield absent(name, "GB/s", kind, str(theirs))
            else:
                yield against(setting, f"{name}.{kind}", kind, ours, theirs, False)
        (folder / f"peer.{kind}").unlink(missing_ok=True)


@case("fault", "checkpoint.write")
def write(setting: Setting) -> Iterator[Row]:
    """Both sides end with fsync, and copy and checkpoint replace the last one whole. The copy reads from the page cache."""
    from engine.store import checkpoint as store
    from engine.types import Block

    data = np.random.default_rng(2).standard_normal((SIZE // 16, 4), np.float32)
    with place() as name:
        folder = Path(name)
        data.tofile(folder / "plain")

        def ours() -> None:
            store.commit(folder / "ck", 1, [store.save_part(folder / "ck", 1, 0, 1, {"m": Block(data)})], {})

        def copy() -> None:
            with open(folder / "plain", "rb", buffering=0) as source, open(folder / "copy", "wb", buffering=0) as target:
                while part := source.read(2 << 20):
                    target.write(part)
                os.fsync(target.fileno())
            os.replace(folder / "copy", folder / "copied")

        yield against(setting, "checkpoint.write", "copy", ours, copy, True)
        yield from beside(setting, "checkpoint.write", ours, folder, False)


@case("fault", "checkpoint.read")
def read(setting: Setting) -> Iterator[Row]:
    """From the page cache into memory, every byte of ours verified; beside the bytes read as they are."""
    from engine.store import checkpoint as store
    from engine.types import Block

    data = np.random.default_rng(2).standard_normal((SIZE // 16, 4), np.float32)
    with place() as name:
        folder = Path(name)
        data.tofile(folder / "plain")
        store.commit(folder / "ck", 1, [store.save_part(folder / "ck", 1, 0, 1, {"m": Block(data)})], {})
        found, _, _ = store.newest(folder / "ck")
        if not np.array_equal(found["m"].data, data):
            raise RuntimeError("what was read is not what was written")
        del found, data

        def ours() -> float:
            return float(store.newest(folder / "ck")[0]["m"].data[0, 0])

        def plain() -> float:
            return float(np.fromfile(folder / "plain", np.float32)[0])

        yield against(setting, "checkpoint.read", "plain read", ours, plain, True)
        yield from beside(setting, "checkpoint.read", ours, folder, True)


@case("fault", "false-kills")
def false_kills(setting: Setting) -> Iterator[Row]:
    """Four ranks a core, every step kept, nothing harmed, for a minute (half an hour with --long): kills and restarts."""
    ranks, lasting = 4 * len(os.sched_getaffinity(0)), 1800 if setting.long else 60
    with tempfile.TemporaryDirectory(prefix="bench false ") as name:
        audit = Path(name) / "audit.jsonl"
        line = [sys.executable, "-m", "engine", "run", "--supervise", "-n", str(ranks), "train", "make:sea?rows=4000000000",
                "--threads", "1", "--exchange", "64", "--run-dir", "-", "--quiet", "--checkpoint", f"{name}/ck", "--every",
                "1000000000rows", "fault.ranks_per_node=1"]
        job = subprocess.Popen(line, env=environment() | {"ENGINE_AUDIT": str(audit)}, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"the run ended by itself: {job.communicate(timeout=lasting)[1][-300:]}")
            job.send_signal(signal.SIGTERM)
            job.communicate(timeout=60)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
        told = [json.loads(text) for text in audit.read_text().splitlines()] if audit.exists() else []
        saved = [path.name for path in (Path(name) / "ck").glob("step-*")]
    fenced = sum(event["event"] == "fence" for event in told)
    again = sum(event["event"] == "relaunch" for event in told)
    yield row("false-kills", fenced + again, "kills", "none", bars={"value": "<= 0", "saved": ">= 1"}, fenced=fenced,
              restarts=again, ranks=ranks, seconds=lasting, saved=len(saved))
