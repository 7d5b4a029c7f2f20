"""Learning from a teacher: a model that is there (distillation), or oneself before the task (learning without forgetting).

Sources: Hinton, Vinyals and Dean (2015); Li and Hoiem (2016).
"""
from __future__ import annotations

import numpy as np

from engine.errors import ConfigError
from engine.types import Array, Batch, Block, Model, Policy, State, Step
from engine.update.policy import need, nothing, policy


def _soft(outputs: Array, temperature: float, live: Array | None) -> Array:
    """Softmax (sigmoid of one output) at a temperature, over the classes in use."""
    z = outputs / np.float32(temperature)
    if z.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -60, 60))), np.float32)
    if live is not None and live.any():
        z = np.where(live, z, np.float32(-np.inf))
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True), np.float32)


def _pull(step: Step, target: Array, temperature: float, live: Array | None) -> Array:
    """Gradient of T^2 times the cross-entropy to `target`, mean over the rows."""
    gap = _soft(step.outputs(step.rows), temperature, live) - target
    return step.pull(step.rows, np.ascontiguousarray(gap * np.float32(temperature / len(gap)), np.float32))


@policy
def lwf(strength: float = 1.0, temperature: float = 2.0) -> Policy:
    """New rows keep the outputs of the model as it stood when the task began, for the classes it then knew."""
    need(strength >= 0 and temperature > 0, "lwf: expected strength >= 0 and temperature > 0")

    def init(theta: Array) -> State:
        return {"mean/teacher": Block(theta.copy()), "own/knew": Block(np.zeros((0, 0), bool)),
                "own/task": Block(np.zeros(0, np.float32))}

    def update(step: Step, state: State) -> None:
        teacher, task = state["mean/teacher"].data, state["own/task"]
        live = step.live if step.live is not None else np.ones(1, bool)
        if not len(task.data) or task.data[0] != step.task:
            first = not len(task.data) and step.number == 0
            task.data = np.array([step.task], np.float32)
            teacher[:] = step.theta
            fresh = np.zeros_like(live)
            if len(live) > 1:
                fresh[np.unique(step.rows.y).astype(np.intp)] = True
            state["own/knew"].data = (live & ~fresh & (not first))[None] if len(live) > 1 else np.array([[not first]])
        knew = state["own/knew"].data[0]
        if knew.any() and strength:
            target = _soft(step.outputs(step.rows, teacher), temperature, knew)
            mask = knew if len(live) > 1 else None
            step.g = step.g + np.float32(strength) * _pull(step, target * knew, temperature, mask)

    return Policy(init, update)


def distill(teacher: Model, share: float = 0.5, temperature: float = 2.0) -> Policy:
    """(1 - share) of the labels' gradient and `share` of the teacher's: its scores are the targets, row by row.

    For classes the teacher gives a score a class (as `Model.predict` does), for the other tasks one. ConfigError where it
    has other outputs than the student.
    """
    need(0 <= share <= 1 and temperature > 0, "distill: expected 0 <= share <= 1 and temperature > 0")

    def target(step: Step, rows: Batch, outputs: int) -> Array:
        scores = np.asarray(teacher.predict(rows), np.float32).reshape(len(rows), -1)
        if scores.shape[1] != outputs:
            raise ConfigError(f"distill: expected a teacher of {outputs} outputs, found {scores.shape[1]}",
                              fix="teacher and student learn the same classes")
        if outputs == 1:
            return scores
        p = 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
        if step.live is not None:
            p *= step.live
        p = p ** np.float32(1 / temperature)
        return np.asarray(p / np.maximum(p.sum(axis=1, keepdims=True), 1e-30), np.float32)

    def update(step: Step, state: State) -> None:
        outputs = step.outputs(step.rows)
        wanted = target(step, step.rows, outputs.shape[1])
        own = step.g * np.float32(1 - share)
        if outputs.shape[1] == 1 and step.live is None and not _binary(step):
            found = step.pull(step.rows, np.ascontiguousarray((outputs - wanted) * np.float32(1 / len(wanted))))
        else:
            if outputs.shape[1] == 1:
                wanted = _soft(wanted, temperature, None)
            found = _pull(step, wanted, temperature, step.live)
        step.g = own + np.float32(share) * found

    return Policy(nothing, update)


def _binary(step: Step) -> bool:
    return bool(np.isin(step.rows.y, (0, 1)).all())
