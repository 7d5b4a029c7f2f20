"""Against forgetting, by rows: a memory of what went by, sharded over the replicas, and what is learned from it.

Sources: reservoir sampling (Vitter 1985), class-balanced reservoir (Chrysakis and Moens 2020, simplified), A-GEM
(Chaudhry et al. 2019), DER and DER++ (Buzzega et al. 2020).  A memory holds dense rows.
"""
from __future__ import annotations

import numpy as np

from engine.errors import DataError
from engine.types import Array, Batch, Block, Policy, State, Step
from engine.update.policy import generator, need, policy


def memory(theta: Array) -> State:
    """An empty memory: rows, labels, the outputs when they were stored, and how many rows of each class went by."""
    return {"items/x": Block(np.zeros((0, 0), np.float32)), "items/y": Block(np.zeros(0, np.float32)),
            "items/outputs": Block(np.zeros((0, 0), np.float32)), "items/seen": Block(np.zeros((0, 2), np.float32))}


def drawn(state: State, rng: np.random.Generator, count: int) -> Array:
    """Places of `count` rows of the memory, without repeats; all of a smaller one."""
    held = len(state["items/y"].data)
    return rng.permutation(held)[:count] if held else np.zeros(0, np.int64)


def recalled(state: State, places: Array) -> Batch:
    """Rows of the memory as a batch."""
    y = state["items/y"].data[places]
    none = np.full(len(y), np.nan, np.float32)
    return Batch(y, np.zeros(len(y), np.int64), none, x=np.ascontiguousarray(state["items/x"].data[places]))


def store(state: State, rows: Batch, outputs: Array | None, size: int, balanced: bool, rng: np.random.Generator) -> None:
    """Takes rows in, one after another: a reservoir of all, or of each class with the places shared evenly."""
    if rows.x is None:
        raise DataError("replay: expected dense rows, found sparse ones", fix="use ewc or si, or dense columns")
    _room(state, rows.x.shape[1], 0 if outputs is None else outputs.shape[1], size)
    luck = rng.random((len(rows), 2))
    for i, label in enumerate(rows.y.tolist()):
        place = _place(state, label, size, balanced, *luck[i].tolist())
        if place < 0:
            continue
        if place == len(state["items/y"].data):
            for name in ("x", "y", "outputs"):
                state[f"items/{name}"].data = _longer(state[f"items/{name}"].data, size)
        state["items/x"].data[place], state["items/y"].data[place] = rows.x[i], label
        if outputs is not None:
            state["items/outputs"].data[place] = outputs[i]


def _longer(data: Array, size: int) -> Array:
    """One row more; the array behind doubles, so that growing is cheap."""
    count, room = len(data), data.base
    if room is None or room.shape[1:] != data.shape[1:] or len(room) <= count:
        room = np.zeros((min(size, max(16, 2 * count)), *data.shape[1:]), data.dtype)
        room[:count] = data
    return np.asarray(room[: count + 1])


def _room(state: State, columns: int, outputs: int, size: int) -> None:
    """Gives the empty arrays their widths, and cuts a memory that is larger than `size` (after a change of ranks)."""
    for name, width in (("x", columns), ("outputs", outputs)):
        block = state[f"items/{name}"]
        if block.data.shape[1] != width:
            if len(block.data):
                raise DataError(f"replay: expected rows of {block.data.shape[1]} columns, found {width}",
                                fix="give columns as the memory was made for")
            block.data = np.zeros((len(state["items/y"].data), width), np.float32)
    if len(state["items/y"].data) > size:
        for name in ("x", "y", "outputs"):
            state[f"items/{name}"].data = state[f"items/{name}"].data[:size].copy()


def _place(state: State, label: float, size: int, balanced: bool, luck: float, pick: float) -> int:
    """Where a row goes: the end, a row it replaces, or -1 = nowhere. Counts it."""
    seen = state["items/seen"].data
    at = np.flatnonzero(seen[:, 0] == label)
    if not len(at):
        state["items/seen"].data = seen = np.concatenate([seen, np.array([[label, 0]], np.float32)])
        at = np.array([len(seen) - 1])
    seen[at[0], 1] += 1
    own_seen = float(seen[at, 1].sum())
    y = state["items/y"].data
    if len(y) < size:
        return len(y)
    if not balanced:
        return int(pick * size) if luck < size / float(seen[:, 1].sum()) else -1
    labels, counts = np.unique(y, return_counts=True)
    own = int(counts[labels == label].sum())
    if own < counts.max():  # this class has less than the largest: it takes a place of that one
        full = np.flatnonzero(y == labels[counts.argmax()])
        return int(full[int(pick * len(full))])
    mine = np.flatnonzero(y == label)
    return int(mine[int(pick * own)]) if luck < own / own_seen else -1


def _joined(rows: Batch, more: Batch) -> Batch:
    assert rows.x is not None and more.x is not None
    weight = None if rows.weight is None else np.concatenate([rows.weight, np.ones(len(more), np.float32)])
    return Batch(np.concatenate([rows.y, more.y]), np.concatenate([rows.order, more.order]),
                 np.concatenate([rows.previous, more.previous]), x=np.concatenate([rows.x, more.x]), weight=weight)


@policy
def replay(size: int = 1000, per: int = 32, balanced: bool = False) -> Policy:
    """Learns `per` remembered rows with each mini-batch; `size`: rows of this replica's memory. The first link."""
    need(size > 0 and per > 0, "replay: expected size > 0 and per > 0")

    def update(step: Step, state: State) -> None:
        rng, fresh = generator(step, 1), step.rows
        places = drawn(state, rng, per)
        if len(places):
            step.rows = _joined(fresh, recalled(state, places))
        store(state, fresh, None, size, balanced, rng)

    return Policy(memory, update)


@policy
def agem(size: int = 1000, per: int = 64, balanced: bool = False) -> Policy:
    """Turns the gradient, where it would raise the loss of remembered rows, onto the plane where it does not."""
    need(size > 0 and per > 0, "agem: expected size > 0 and per > 0")

    def update(step: Step, state: State) -> None:
        rng = generator(step, 2)
        places = drawn(state, rng, per)
        if len(places):
            held = step.grad(recalled(state, places))
            dot, square = float(np.dot(step.g, held)), float(np.dot(held, held))
            if dot < 0 < square:
                step.g -= np.float32(dot / square) * held
        store(state, step.rows, None, size, balanced, rng)

    return Policy(memory, update)


@policy
def der(size: int = 1000, per: int = 32, alpha: float = 0.3, beta: float = 0.5, balanced: bool = False) -> Policy:
    """Dark experience replay: remembered rows keep their outputs (weight alpha) and, with beta, their labels (DER++)."""
    need(size > 0 and per > 0, "der: expected size > 0 and per > 0")

    def update(step: Step, state: State) -> None:
        rng, fresh = generator(step, 3), step.rows
        now = step.outputs(fresh)
        for weight, draw in ((alpha, _outputs_slope), (beta, None)):
            places = drawn(state, rng, per) if weight else np.zeros(0, np.int64)
            if not len(places):
                continue
            rows = recalled(state, places)
            g = step.grad(rows) if draw is None else step.pull(rows, draw(step, rows, state["items/outputs"].data[places]))
            step.g += np.float32(weight) * g
        store(state, fresh, now, size, balanced, rng)

    return Policy(memory, update)


def _outputs_slope(step: Step, rows: Batch, kept: Array) -> Array:
    """Slope of the mean of |outputs - kept|^2 over the outputs that are in use."""
    gap = (step.outputs(rows) - kept) * np.float32(2 / kept.size)
    if step.live is not None:
        gap *= step.live
    return np.ascontiguousarray(gap, np.float32)


