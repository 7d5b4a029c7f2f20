"""What survivors of a death hold in their own memory and need not read: replicas that all stand at one committed step.

A replica keeps what it had at the last merge of each row that it has learned since, so it can go back there by itself. Where
all survivors then stand at the step that node memory gives, only what each rank has alone (meters, cursors) is read; the rows
that the journals have of late are compared with those in memory, bit for bit.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from engine import loop
from engine.cluster.recover import Choice, Held
from engine.store.checkpoint import split
from engine.store.keeper import Copy
from engine.types import Array, Link, State

Stand = tuple[int, int, int]  # epoch, step, digest of the step


def stand(job: loop.Job, at: Stand) -> Stand | None:
    """`at`, with what the replicas have learned since dropped; None where they cannot say what they held."""
    models: Sequence[Any] = job.team.models
    plain = job.exchange in (loop.synchronous, loop.ordered) and job.stage is None and job.tactic is None
    if not plain or at[1] != job.clock.step or not all(hasattr(model, "drop") for model in models):
        return None
    for model in models:
        model.drop()
    return at


def held(job: loop.Job, stands: Sequence[Stand | None], choice: Choice, known: Sequence[Held]) -> State:
    """Blocks that are right where they are on every rank, for the step that is chosen; none where they must be read."""
    if not isinstance(job.team, loop.Team) or not all(choice.sources):
        return {}
    digest = known[choice.sources[0][0]].versions[choice.version]
    if any(one != (choice.epoch, choice.version, digest) for one in stands):
        return {}
    return job.team.models[0].room() if hasattr(job.team.models[0], "room") else {}


def confirmed(link: Link, mine: State, copies: Iterable[Copy], version: int, notes: list[str]) -> bool:
    """Whether what every rank has in its memory is what the journals say of it (collective)."""
    odd = differs(mine, copies, version)
    notes += [f"memory of rank {link.rank}: {odd}: all of it is read again"] if odd else []
    return not link.vote(np.array([bool(odd)]), name="memory as committed").any()


def differs(mine: State, copies: Iterable[Copy], version: int) -> str:
    """Which block differs from what a journal says of it as of step `version`; "" where none does."""
    for copy in copies:
        for path, block in mine.items():
            rows, data = copy.changed(path, version)
            low, high = split(len(block.data), copy.shard, copy.shards)
            if len(rows) and (rows[-1] >= high - low or not same(block.data[low:high][rows], data)):
                return f"{path} differs from the journal of shard {copy.shard}"
    return ""


def same(a: Array, b: Array) -> bool:
    """Equal bit for bit: a NaN is itself."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))

def hints(job: loop.Job) -> dict[str, Array]:
    """Rows that the last exchange changed, by path, as far as the model can name them."""
    if job.merged is None:
        return {}
    changed = getattr(job.team.models[0], "changed", None)
    return {} if changed is None else dict(changed(job.merged))
