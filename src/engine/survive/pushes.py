"""Asynchronous owners (asp) kept in node memory: shards, which pushes they hold, and pushes not known to be applied.

A record of a member has its shards' changed rows, the last push applied of each sender, and every push of its own that the
owner is not known to have applied; a relaunch applies those that no shard holds yet, each once.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine import loop
from engine.errors import ConfigError
from engine.modes.owner import Owner, cuts
from engine.modes.post import Letter, close, open_
from engine.store.differ import taken
from engine.store.record import Change
from engine.survive.apart import Apart, Part
from engine.types import Array, Block, State, Update
from engine.update.merge import distinct

COLUMNS = (("w", "owner"), ("a", "owner"), ("n", "owner"))
Unsent = tuple[int, int, int, Update]  # sender, shard, number (0 = none yet), update


class Pushes(Apart):
    """The keeper of an owner. Shard s is member s's at the start: those a rank plays are those it holds."""

    modes = ("asp",)
    named = ("shard/", "outbox", "model/", "stage/")
    _rows_kept = -1

    def check(self, job: loop.Job) -> None:
        if not hasattr(job.team.models[0], "follow"):
            raise ConfigError("exchange.mode=asp: expected a linear model", fix="exchange.mode=bsp")

    def base(self, job: loop.Job) -> tuple[State, dict[str, Any]]:
        model: Any = job.team.models[0]
        self._fresh = set[int]()
        low, high = cuts(len(model._block), self.link.size)[self.me : self.me + 2]
        state = {_path(self.me): Block(np.array(model._block[low:high, :3]), COLUMNS),  # type: ignore[arg-type]
                 "outbox": Block(_packed([]))}
        return state | (_head(model) if self.me == 0 else {}), {"rows": 0, "applied": []}

    def keep(self, run: Owner, *, seal: bool = True) -> None:
        if run.touched or run.out or self._fresh or run.rows != self._rows_kept:
            super().keep(run, seal=seal)
            self._fresh.clear()
            self._rows_kept = run.rows

    def changed(self, owner: Owner) -> tuple[list[Change], dict[str, Any]]:
        model = owner.kept
        keys = distinct(owner.touched)
        owner.touched.clear()
        changes = []
        for shard in self._plays:
            low, high = owner.cuts[shard : shard + 2]
            block = model._block[low:high, :3]
            if shard in self._fresh:
                changes.append(Change(_path(shard), None, np.array(block), high - low, COLUMNS))
                continue
            rows = keys[np.searchsorted(keys, low) : np.searchsorted(keys, high)] - np.uint32(low)
            if len(rows):
                changes.append(Change(_path(shard), rows, taken(block, rows), high - low, COLUMNS))
        if 0 in self._plays:
            changes += [Change(path, None, np.array(block.data), len(block.data)) for path, block in _head(model).items()]
        unsent = [(sender, shard, number, part) for (sender, shard), flying in owner.flying.items() for number, part in flying]
        unsent += [(self.me, shard, 0, part) for shard, part in enumerate(owner.waiting) if part is not None]
        packed = _packed(unsent)
        changes.append(Change("outbox", None, packed, len(packed)))
        applied = [[*place, n] for place, n in owner.applied.items()]
        return changes, {"rows": owner.rows, "applied": applied}

    def inherit(self, owner: Owner, part: Part) -> None:
        state, meta = part
        said = meta["apart"]
        shards = {shard: state[_path(shard)].data for shard in said["members"]}
        applied = {(sender, shard): n for sender, shard, n in said["applied"]}
        head = (state["model/clock"].data, state["stage/scale"].data if "stage/scale" in state else None) if (
            "model/clock" in state) else None
        owner.inherit(shards, applied, _unpacked(state["outbox"].data), said["rows"], head)
        self._fresh |= set(said["members"])


def _path(shard: int) -> str:
    return f"shard/{shard:06d}"


def _head(model: Any) -> State:
    """What the holder of shard 0 keeps besides: the clock, and the scaler where there is one."""
    scale = {} if model._scale is None else {"stage/scale": Block(model._scale)}
    return {"model/clock": Block(np.array(model._clock)), **scale}


def _packed(unsent: Sequence[Unsent]) -> Array:
    """Pushes as uint8: their number, then the length of each and its letter."""
    parts = [np.array([len(unsent)], np.int64).view(np.uint8)]
    for sender, shard, number, part in unsent:
        data = close(Letter(number, np.array([sender, shard], np.float64), part))
        data = np.concatenate([data, np.zeros(-len(data) % 8, np.uint8)])
        parts += [np.array([len(data)], np.int64).view(np.uint8), data]
    return np.concatenate(parts)


def _unpacked(data: Array) -> list[Unsent]:
    found: list[Unsent] = []
    at = 8
    for _ in range(int(data[:8].view(np.int64)[0])):
        size = int(data[at : at + 8].view(np.int64)[0])
        letter = open_(np.array(data[at + 8 : at + 8 + size]))
        assert letter.update is not None
        found.append((int(letter.ticket[0]), int(letter.ticket[1]), letter.number, letter.update))
        at += 8 + size
    return found


def assembled(parts: Sequence[Part], model: Any) -> tuple[State, int]:
    """The state of the job from every member's, pushes applied that no shard has; rows learned."""
    blocks = {path: block for state, _ in parts for path, block in state.items()}
    state: State = {path: block for path, block in blocks.items() if path in ("model/clock", "stage/scale")}
    shards = sorted(path for path in blocks if path.startswith("shard/"))
    state["model/linear"] = Block(np.concatenate([blocks[path].data for path in shards]), COLUMNS)  # type: ignore[arg-type]
    applied = {(sender, shard): n for _, meta in parts for sender, shard, n in meta["apart"]["applied"]}
    whole = model.fork()
    whole.load(state)
    for part, _ in parts:
        for sender, shard, number, update in _unpacked(part["outbox"].data):
            if not number or number > applied.get((sender, shard), 0):
                whole.merge(update, 1)
    return whole.state(), int(parts[0][1]["apart"]["before"]) + sum(int(meta["apart"]["rows"]) for _, meta in parts)
