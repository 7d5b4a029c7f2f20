"""Policies: pairs of `init` and `update` that turn a gradient into a change, link by link; every number of state explicit.

A chain is written as text, `replay(2000) | clip(1) | adam(0.001) | cosine(10000)`: names and arguments of registered
makers.  Links before an optimiser see the gradient, links behind it the change.
"""
from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.types import Array, Block, Policy, State, Step

Maker = Callable[..., Policy]
MAKERS: dict[str, Maker] = {}
HOMES = ("descent", "rate", "shield", "replay", "distill", "augment")


def policy(maker: Maker) -> Maker:
    """Registers a maker of policies under its name."""
    MAKERS[maker.__name__.rstrip("_")] = maker
    return maker


def nothing(theta: Array) -> State:
    """The state of a policy that has none."""
    return {}


def chain(*links: Policy) -> Policy:
    """The links one after another; the state of link i is under `i/`."""
    def init(theta: Array) -> State:
        return {f"{i}/{path}": block for i, link in enumerate(links) for path, block in link.init(theta).items()}

    def update(step: Step, state: State) -> None:
        for i, link in enumerate(links):
            head = f"{i}/"
            link.update(step, {path[len(head):]: block for path, block in state.items() if path.startswith(head)})

    return Policy(init, update)


def parse(text: str) -> Policy:
    """The chain that `text` writes; ConfigError names what is wrong and the nearest known policy.

    >>> parse("clip(5) | momentum(0.01, beta=0.9)")
    """
    return chain(*[_link(part.strip(), text) for part in text.split("|")]) if text.strip() else chain()


def makers() -> dict[str, Maker]:
    """All makers by name."""
    import importlib

    for home in HOMES:
        importlib.import_module(f"engine.update.{home}")
    return MAKERS


def _link(part: str, whole: str) -> Policy:
    try:
        call = ast.parse(part, mode="eval").body
        call = ast.Call(call, [], []) if isinstance(call, ast.Name) else call
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        values = [_word(a) for a in call.args]
        named = {k.arg: _word(k.value) for k in call.keywords if k.arg}
    except (SyntaxError, ValueError):
        raise ConfigError(f"policy: expected name(arguments), found {part!r}", where=whole,
                          fix="for example: clip(1) | adam(0.001)") from None
    known = makers()
    if call.func.id not in known:
        near = difflib.get_close_matches(call.func.id, known, 1)
        raise ConfigError(f"policy: expected one of {', '.join(sorted(known))}, found {call.func.id!r}", where=whole,
                          fix=f"did you mean {near[0]!r}?" if near else "")
    maker = known[call.func.id]
    try:
        return maker(*values, **named)
    except TypeError as error:
        raise ConfigError(f"policy {part}: {error}", where=whole,
                          fix=f"{call.func.id}{inspect.signature(maker)}".replace(" -> 'Policy'", "")) from None


def _word(node: ast.expr) -> Any:
    """A literal, or a bare word as text."""
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def need(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(f"policy {message}")


def generator(step: Step, salt: int) -> np.random.Generator:
    """Random numbers of this step alone: the same for the same seed and step, whatever happened before."""
    return np.random.Generator(np.random.Philox(key=(step.seed << 16) + salt, counter=step.number))


def counter() -> Block:
    """A number that replicas add up."""
    return Block(np.zeros(1, np.float32))


@policy
def clip(norm: float) -> Policy:
    """Scales the gradient down to this 2-norm where it is longer; one that is not finite becomes 0."""
    need(norm > 0, f"clip: expected norm > 0, found {norm}")

    def update(step: Step, state: State) -> None:
        size = float(np.sqrt(np.dot(step.g, step.g)))
        if not np.isfinite(size):
            step.g = np.zeros_like(step.g)
        elif size > norm:
            step.g *= np.float32(norm / size)

    return Policy(nothing, update)


@policy
def l2(strength: float) -> Policy:
    """Adds the gradient of strength / 2 * |theta|^2."""
    def update(step: Step, state: State) -> None:
        step.g += np.float32(strength) * step.theta

    return Policy(nothing, update)


@policy
def l1(strength: float) -> Policy:
    """Truncation (Langford, Li and Zhang 2009), behind the optimiser: weights end nearer to 0 by `strength`, never past."""
    def update(step: Step, state: State) -> None:
        after = step.theta + step.g
        step.g = np.sign(after) * np.maximum(np.abs(after) - np.float32(strength), 0) - step.theta

    return Policy(nothing, update)


@policy
def decay(strength: float) -> Policy:
    """Decoupled weight decay (Loshchilov and Hutter 2019), behind the optimiser: theta shrinks by this share a step."""
    need(0 <= strength < 1, f"decay: expected 0 <= strength < 1, found {strength}")

    def update(step: Step, state: State) -> None:
        step.g -= np.float32(strength) * step.theta

    return Policy(nothing, update)


@policy
def freeze(*names: str) -> Policy:
    """Keeps the named parts as they are (last link): a span (`w0`), or a layer by number (`0` = w0 and b0)."""
    need(bool(names), "freeze: expected at least one name")

    def update(step: Step, state: State) -> None:
        for span in _spans(step, names):
            step.g[span] = 0

    return Policy(nothing, update)


@policy
def only(*names: str) -> Policy:
    """Changes the named parts alone (last link): the partial update of chosen blocks or layers."""
    need(bool(names), "only: expected at least one name")

    def update(step: Step, state: State) -> None:
        kept = [(span, step.g[span].copy()) for span in _spans(step, names)]
        step.g[:] = 0
        for span, values in kept:
            step.g[span] = values

    return Policy(nothing, update)


def _spans(step: Step, names: tuple[str, ...]) -> list[slice]:
    wanted = [str(name) for name in names]
    known = {**step.spans}
    found = [span for name, span in known.items() if name in wanted or name.lstrip("wb") in wanted]
    if not found:
        raise ConfigError(f"policy freeze or only: expected parts of {', '.join(known)}, found {', '.join(wanted)}")
    return found


@policy
def mask(share: float, seed: int = 0) -> Policy:
    """A fixed random share of the parameters learns, the others stay (last link)."""
    need(0 < share <= 1, f"mask: expected 0 < share <= 1, found {share}")

    def init(theta: Array) -> State:
        chosen = np.random.default_rng(seed).random(len(theta)) < share
        return {"own/mask": Block(chosen.astype(np.float32))}

    def update(step: Step, state: State) -> None:
        step.g *= state["own/mask"].data

    return Policy(init, update)


@policy
def features(*columns: int) -> Policy:
    """Only the weights of these input columns learn in the first layer (last link); other layers learn as they do."""
    def update(step: Step, state: State) -> None:
        first = next(iter(step.spans.values()))
        width = step.rows.x.shape[1] if step.rows.x is not None else 0
        need(bool(width), "features: expected dense rows")
        table = step.g[first].reshape(width, -1)
        kept = table[list(columns)].copy()
        table[:] = 0
        table[list(columns)] = kept

    return Policy(nothing, update)
