"""Whole commands as a user starts them: `engine run -n N train ...`, and the start of the interpreter."""
from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench.machine import ROOT
from bench.timing import Series, alone


@cache
def compiled() -> None:
    """The checkout's bytecode is written, as an installer writes it, whatever this environment says of writing it."""
    compileall.compile_dir(ROOT / "src" / "engine", quiet=2)


def environment() -> dict[str, str]:
    """This environment with the checkout's package first, so that the commit named is the one measured."""
    compiled()
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))}


def python(arguments: Sequence[str], timeout_s: float = 60) -> None:
    """Run the interpreter to its end; RuntimeError with the end of what it said where it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=timeout_s,
                          env=environment(), stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}: {(done.stdout + done.stderr)[-500:]}")


def import_s(arguments: Sequence[str] | str) -> Series:
    """Wall-clock of starting the interpreter with `arguments` (text: code for -c), files in the page cache."""
    words = ["-c", arguments] if isinstance(arguments, str) else arguments
    return alone(lambda: python(words), rounds=9, seconds=6)


def engine(ranks: int, source: str, options: Sequence[str], timeout_s: float = 280) -> dict[str, Any]:
    """Run the main job on `ranks` ranks; its summary (summary.json of the run directory)."""
    with tempfile.TemporaryDirectory(prefix="bench run ") as name:
        words = ["-m", "engine", "run", "-n", str(ranks), "train", source, f"run.dir={name}/run", "run.report=false"]
        python([*words, *options], timeout_s)
        found: dict[str, Any] = json.loads((Path(name) / "run" / "summary.json").read_text())
    return found
