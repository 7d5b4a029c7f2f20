"""Strategies by name: what each sets of chain, batch and relearning, and which one a budget allows. Plans only, no I/O."""
from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a job learns. `chain`: policies of a model that gives gradients; `batch`: rows a step (None = the kind's own).

    `every` > 0: rows between two relearnings, over the last `window` rows (0 = all, -1 = those since the last one),
    `epochs` times, by a new model where `fresh`; between them the live model learns too only where `live`.
    `gossip`: replicas average with neighbours instead of all together.
    """

    chain: str = ""
    batch: int | None = None
    every: int = 0
    window: int = 0
    epochs: int = 1
    fresh: bool = False
    live: bool = True
    gossip: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """The settings a strategy is made from: those of `[update]`."""

    chain: str = ""
    batch: int | None = None
    every: int = 1000
    window: int = 0
    epochs: int = 1
    parts: tuple[str, ...] = ()


Maker = Callable[[Wish], Recipe]
STRATEGIES: dict[str, Maker] = {}


def strategy(maker: Maker) -> Maker:
    """Registers a strategy under its function's name."""
    STRATEGIES[maker.__name__.rstrip("_")] = maker
    return maker


def recipe(name: str, wish: Wish) -> Recipe:
    """What the strategy sets; ConfigError names the nearest where there is none of this name."""
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, 1)
        raise ConfigError(f"update.strategy: expected one of auto, {', '.join(STRATEGIES)}, found {name!r}",
                          fix=f"did you mean {near[0]!r}?" if near else "")
    return STRATEGIES[name](wish)


def batch(name: str, asked: int | None) -> int | None:
    """Rows a step under the strategy of this name; None = the kind's own."""
    return 1 if name == "stream" else asked


@strategy
def incremental(wish: Wish) -> Recipe:
    """Every row once, as it comes, in mini-batches."""
    return Recipe(wish.chain, wish.batch)


@strategy
def stream(wish: Wish) -> Recipe:
    """Every row once, alone: a step a row."""
    return Recipe(wish.chain, batch("stream", None))


@strategy
def partition(wish: Wish) -> Recipe:
    """Rows wait until `every` are there, then are learned together, `epochs` times."""
    return Recipe(wish.chain, wish.batch, every=wish.every, window=-1, epochs=wish.epochs, live=False)


@strategy
def retrain(wish: Wish) -> Recipe:
    """A new model every `every` rows, from the last `window` rows or from all; it stands still between."""
    return Recipe(wish.chain, wish.batch, every=wish.every, window=wish.window, epochs=wish.epochs, fresh=True, live=False)


@strategy
def partial(wish: Wish) -> Recipe:
    """Only the named parts learn (`update.parts`: spans or layers), the others stay."""
    if not wish.parts:
        raise ConfigError("strategy partial: expected the parts that learn, found none", fix="update.parts=1 or w1,b1")
    return Recipe(f"{wish.chain or 'adam'} | only({', '.join(map(repr, wish.parts))})", wish.batch)


@strategy
def distil(wish: Wish) -> Recipe:
    """As incremental, the labels' gradient mixed with a teacher's (`update.teacher`: a checkpoint)."""
    return Recipe(wish.chain, wish.batch)


@strategy
def decentralised(wish: Wish) -> Recipe:
    """As incremental; replicas average with neighbours in turn, without a sum over all."""
    return Recipe(wish.chain, wish.batch, gossip=True)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a choice is made from: rows to come, parameters, bytes a row, measured rows a second over all ranks."""

    rows: float
    parameters: int
    row_bytes: float
    rows_s: float


def budget(text: str) -> tuple[float, float]:
    """Seconds and bytes of `60s`, `5m`, `512MB`, or both with a comma; infinity where one is not given."""
    seconds = size = float("inf")
    units = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
    sizes = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
    for part in filter(None, (p.strip().lower() for p in text.split(","))):
        digits = part.rstrip("abcdefghijklmnopqrstuvwxyz ")
        unit = part[len(digits):].strip()
        try:
            if unit in units:
                seconds = float(digits) * units[unit]
            else:
                size = float(digits) * sizes[unit]
        except (ValueError, KeyError):
            raise ConfigError(f"update.budget: expected a duration or a size (60s, 512MB), found {part!r}") from None
    return seconds, size


def choose(facts: Facts, limits: tuple[float, float], wish: Wish) -> tuple[str, Wish, str]:
    """The strategy that learns from most rows within the limits, its settings, and why.

    Costs in row-learnings: incremental takes R; retraining every E rows on all rows so far R^2 / 2E, on a window W about
    R W / E.  Memory: rows held, two models.
    """
    seconds, size = limits
    base = facts.rows / max(facts.rows_s, 1e-9)
    spare = seconds - base
    models = 8.0 * facts.parameters
    held = max(0.0, (size - models) / max(facts.row_bytes, 1.0))
    whole = facts.rows ** 2 / (2 * wish.every) / max(facts.rows_s, 1e-9)
    said = f"{facts.rows:.0f} rows at {facts.rows_s:.0f} rows/s, {facts.parameters} parameters"
    if spare <= 0:
        return "incremental", wish, f"{said}: one pass alone takes {base:.3g} s of {seconds:.3g} s"
    if whole <= spare and facts.rows <= held:
        why = f"{said}: retraining on all rows takes {whole:.3g} s of the {spare:.3g} s left"
        return "retrain", replace(wish, window=0), why
    window = int(min(spare * facts.rows_s * wish.every / max(facts.rows, 1), held))
    if window >= 4 * wish.every:
        cost = facts.rows * window / wish.every / facts.rows_s
        why = f"{said}: a window of {window} rows fits ({cost:.3g} s of {spare:.3g} s)"
        return "retrain", replace(wish, window=window), why
    why = f"{said}: neither all rows nor a window of {4 * wish.every} fits in {spare:.3g} s and {held:.3g} rows"
    return "incremental", wish, why
