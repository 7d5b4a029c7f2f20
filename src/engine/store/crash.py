"""Named crash points for tests and for the bench: `ENGINE_CRASH=point:rank:count[:attempt[:action]]`, several with commas.

The rank kills itself the count-th time it passes the point in that attempt (default 0); `action`: kill (SIGKILL), wipe
(its node's memory is lost too; `wipe:2:5`: that of nodes 2 and 5 with it), stop (SIGSTOP), exit (status 3), raise. Without the
variable a point costs one comparison.
"""
from __future__ import annotations

import os
import shutil
import signal
import time

RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
_asked = os.environ.get("ENGINE_CRASH", "")
_passed: dict[str, int] = {}
node_folder = ""  # what `wipe` removes; set by the job


def point(name: str) -> None:
    """Passes, unless the environment says that this rank ends here."""
    if _asked:
        _consider(name)


def _consider(name: str) -> None:
    _passed[name] = _passed.get(name, 0) + 1
    attempt = int(os.environ.get("ENGINE_ATTEMPT", "0"))
    for word in _asked.split(","):
        where, rank, count, *rest = [*word.split(":"), *["0", "kill"][len(word.split(":")) - 3:]]
        if (where, int(rank), int(count), int(rest[0])) == (name, _rank(), _passed[name], attempt):
            _act(rest[1], rest[2:])


def _rank() -> int:
    return next((int(os.environ[name]) for name in RANKS if os.environ.get(name, "").isdigit()), 0)


def _act(action: str, nodes: list[str]) -> None:
    if mark := os.environ.get("ENGINE_CRASH_MARK"):  # when it happened, for the bench
        with open(mark, "a") as file:
            file.write(f"{time.time()!r}\n")
    if action == "wipe" and node_folder:
        for folder in (node_folder, *(os.path.join(os.path.dirname(node_folder), f"node-{node}") for node in nodes)):
            shutil.rmtree(folder, ignore_errors=True)
    if action == "exit":
        os._exit(3)
    if action == "raise":
        raise RuntimeError("a made-up failure at a crash point")
    os.kill(os.getpid(), signal.SIGSTOP if action == "stop" else signal.SIGKILL)
    time.sleep(3600 if action == "stop" else 1)
