"""The baselines: other people's programs in a virtual environment of their own (`.peers/`), never a dependency.

A peer is a script of this folder with `prepare(**options)`, which returns the function one round calls. It runs in a
child process of that environment and answers JSON lines, so that its rounds interleave with ours.
"""
from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.peers.install import PYTHON
from bench.registry import Missing
from bench.timing import Sample

FOLDER = Path(__file__).resolve().parent


class Peer:
    """A prepared baseline; calling it runs one round in the child and returns the child's Sample."""

    def __init__(self, name: str, **options: Any) -> None:
        """Start `bench/peers/NAME.py` and prepare it; Missing where the environment or a package is not there."""
        if not PYTHON.exists():
            raise Missing(f"{name} not installed; python -m bench peers")
        call = [str(PYTHON), "-I", str(FOLDER / "host.py"), str(FOLDER / f"{name}.py")]
        self.child = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.ask({"op": "prepare", "options": options})
        except BaseException:
            self.close()
            raise

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        text = self.child.stdout.readline()
        if not text:
            raise RuntimeError(f"the peer {self.child.args} ended with exit code {self.child.wait(30)}")
        reply: dict[str, Any] = json.loads(text)
        if "missing" in reply:
            raise Missing(f"{reply['missing']} not installed; python -m bench peers")
        if "error" in reply:
            raise RuntimeError(f"the peer failed: {reply['error']}")
        return reply

    def __call__(self) -> Sample:
        reply = self.ask({"op": "run"})
        return Sample(reply["wall"], reply["cpu"], reply["result"])

    def close(self) -> None:
        """End the child; it leaves when its input closes, and is killed where it does not within 10 s."""
        if self.child.stdin is not None:
            self.child.stdin.close()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait(10)
        if self.child.stdout is not None:
            self.child.stdout.close()


@contextmanager
def peer(name: str, **options: Any) -> Iterator[Peer | Missing]:
    """A running Peer, or the Missing that says why there is none; ended on the way out."""
    try:
        made = Peer(name, **options)
    except Missing as why:
        yield why
        return
    try:
        yield made
    finally:
        made.close()
