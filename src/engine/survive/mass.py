"""Gossip kept in node memory: a rank's state, its mass, and what it has given and taken in all.

What a rank gives is in its record before it leaves, so any set of newest records of one lap is worth the mass that all ranks
had (`comm/mass.py`). Ranks settle together, lap after lap; while some have settled and others have not, the records of the lap
before count, and none of them is forgotten.
"""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine import loop
from engine.comm.mass import Pair, under_way, worth
from engine.errors import PeerError
from engine.modes.gossip import Gossip
from engine.store.keeper import Copy
from engine.store.record import Change
from engine.survive import protect
from engine.survive.apart import Apart, Part
from engine.types import Array, Block, Link, State


class Mass(Apart):
    """The keeper of a rank that gossips."""

    modes = ("gossip",)

    def base(self, job: loop.Job) -> tuple[State, dict[str, Any]]:
        return _own(job.team.models[0]), {"mass": 1.0, "lap": 0}

    def keep(self, run: Gossip, *, seal: bool = True) -> None:
        super().keep(run, seal=run.before is None)

    def changed(self, run: Gossip) -> tuple[list[Change], dict[str, Any]]:
        account = run.sum.account
        blocks = _own(run.model)
        for name, sums in (("given", account.given), ("taken", account.taken)):
            blocks |= {f"{name}/{a:06d}/{b:06d}": Block(total) for (a, b), total in sums.items()}
        settled = [path for path in self._seen if path.startswith(("given/", "taken/")) and path not in blocks]
        blocks |= {path: Block(np.zeros_like(self._seen[path].data)) for path in settled}
        found = [self._compared(path, block) for path, block in blocks.items()]
        own = {"mass": account.mass, "lap": run.lap, "rows": run.rows}
        return [change for change in found if change is not None], own

    def inherit(self, run: Gossip, part: Part) -> None:
        state, meta = part
        said = meta["apart"]
        run.inherit(_estimate(state, run.model), said["mass"], _sums(state, "given"), _sums(state, "taken"), said["rows"])

    def meet(self, run: Gossip, link: Link, members: list[int], heirs: dict[int, int]) -> None:
        """All go on in the lap of whoever has settled least, the dead among them."""
        said = protect._all(link, (run.lap, run.before is not None), "laps")
        laps = [lap for lap, _ in said]
        if any(between for _, between in said):
            mine = [max(_laps(Copy(path)) for path in self._files(m)) for m, heir in heirs.items() if heir == self.me]
            laps += [lap for part in protect._all(link, mine, "laps of the dead") for lap in part]
        self._lap = min(laps)
        run.regroup(link, members, heirs, self._lap)

    def wait(self, run: Gossip) -> None:
        """Until all that the dead held is here."""
        until = time.monotonic() + self.config.loop.stall_timeout
        while self.awaited:
            run.look()
            if time.monotonic() > until:
                raise PeerError(f"member {self.me} waited {self.config.loop.stall_timeout:g} s for what ranks "
                                f"{sorted(self.awaited)} kept", fix="the supervisor starts the run again")
            time.sleep(0.001)


def _own(model: Any) -> State:
    """The model's blocks, flat."""
    return {f"mine/{path}": Block(np.array(block.data).reshape(-1)) for path, block in model.state().items()}


def _laps(copy: Copy) -> int:
    return int(copy.meta["apart"]["lap"])


def _estimate(state: State, model: Any) -> Array:
    """The floats of a member's model, in the order of `Gossip.read`."""
    blocks = [state[f"mine/{path}"].data for path, block in model.state().items() if block.data.dtype.kind == "f"]
    return np.concatenate([data.astype(np.float64) for data in blocks])


def _sums(state: Mapping[str, Block], name: str) -> dict[Pair, Array]:
    found: dict[Pair, Array] = {}
    for path, block in state.items():
        if path.startswith(f"{name}/"):
            _, a, b = path.split("/")
            found[int(a), int(b)] = np.array(block.data)
    return found


def assembled(parts: Sequence[Part], model: Any) -> tuple[State, int]:
    """The average of all members and of all that was under way, as settling gives it; rows learned."""
    taken: dict[Pair, Array] = {}
    for state, _ in parts:
        taken |= _sums(state, "taken")
    total = np.zeros(len(_estimate(parts[0][0], model)) + 1)
    for state, meta in parts:
        total += worth(_estimate(state, model), meta["apart"]["mass"]) + under_way(_sums(state, "given").items(), taken)
    x, at, found = total[:-1] / total[-1], 0, {}
    for path, block in model.state().items():
        data = parts[0][0][f"mine/{path}"].data
        if block.data.dtype.kind == "f":
            data = x[at : at + block.data.size]
            at += block.data.size
        found[path] = Block(data.astype(block.data.dtype).reshape(block.data.shape), block.columns)
    return found, int(parts[0][1]["clock"][1]) + sum(int(meta["apart"]["rows"]) for _, meta in parts)
