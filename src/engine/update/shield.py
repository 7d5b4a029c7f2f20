"""Against forgetting, by parameters: what mattered to earlier tasks is held where it is.

Sources: online EWC (Kirkpatrick et al. 2017; Schwarz et al. 2018), synaptic intelligence (Zenke, Poole and Ganguli
2017).  A task begins when `step.task` rises: by the caller, or by an agreed drift.
"""
from __future__ import annotations

import numpy as np

from engine.types import Array, Block, Policy, State, Step
from engine.update.policy import counter, need, policy


def _turned(step: Step, state: State) -> bool:
    """True at the first step of a new task."""
    task = state["own/task"].data
    if not len(task):
        state["own/task"].data = np.array([step.task], np.float32)
        return False
    if step.task == task[0]:
        return False
    task[0] = step.task
    return True


def _task() -> Block:
    return Block(np.zeros(0, np.float32))


@policy
def ewc(strength: float = 100.0, decay: float = 1.0, limit: float = 10.0) -> Policy:
    """Adds strength * F * (theta - anchor): F is the mean of squared gradients over the rows of the tasks before.

    At the turn of a task F becomes `decay` times the F before plus the new one, and the anchor moves to theta.
    Ranks add their sums of squares, so F is the one of all rows.  strength * F is held below `limit`: an explicit step
    of rate r is stable only while r * strength * F < 1.
    """
    need(strength >= 0 and 0 <= decay <= 1, "ewc: expected strength >= 0 and 0 <= decay <= 1")

    def init(theta: Array) -> State:
        return {"mean/fisher": Block(np.zeros_like(theta)), "mean/anchor": Block(theta.copy()),
                "sum/squares": Block(np.zeros_like(theta)), "sum/count": counter(), "own/task": _task()}

    def update(step: Step, state: State) -> None:
        fisher, anchor, squares, count = (
            state[path].data for path in ("mean/fisher", "mean/anchor", "sum/squares", "sum/count"))
        if _turned(step, state) and count[0]:
            fisher *= np.float32(decay)
            fisher += squares / count[0]
            anchor[:] = step.theta
            squares[:], count[:] = 0, 0
        g = step.g
        # The square of a mini-batch's mean gradient underestimates the mean square by the number of rows in it.
        squares += np.float32(len(step.rows)) * g * g
        count += 1
        if fisher.any():
            g += np.minimum(np.float32(strength) * fisher, np.float32(limit)) * (step.theta - anchor)

    return Policy(init, update)


@policy
def si(strength: float = 1.0, damping: float = 0.1) -> Policy:
    """Adds strength * Omega * (theta - anchor): Omega is each parameter's share in the fall of the loss, a task at a time."""
    need(strength >= 0 and damping > 0, "si: expected strength >= 0 and damping > 0")

    def init(theta: Array) -> State:
        zero = np.zeros_like(theta)
        return {"mean/omega": Block(zero), "mean/anchor": Block(theta.copy()), "mean/path": Block(zero.copy()),
                "own/before": Block(np.zeros((2, 0), np.float32)), "own/task": _task()}

    def update(step: Step, state: State) -> None:
        omega, anchor, path = (state[f"mean/{name}"].data for name in ("omega", "anchor", "path"))
        before = state["own/before"]
        if before.data.shape[1]:
            path -= before.data[0] * (step.theta - before.data[1])
        if _turned(step, state):
            omega += np.maximum(path, 0) / ((step.theta - anchor) ** 2 + np.float32(damping))
            anchor[:], path[:] = step.theta, 0
        before.data = np.stack([step.g, step.theta])
        if omega.any():
            step.g += np.float32(strength) * omega * (step.theta - anchor)

    return Policy(init, update)
