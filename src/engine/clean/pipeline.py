"""Stages in a row, fitted as the rows pass, with one exchange over ranks for all of them.

A pipeline is itself a stage. Names of state: `clean/<place>/<array>`. Every stage keeps to the law that after `merge`
all ranks hold the same bits, so a checkpoint may take the state of any rank.
"""
from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from engine.errors import ConfigError, StoreError
from engine.types import Array, Batch, Block, Link, Schema, Stage, State

Make = Callable[..., Stage]
STAGES: dict[str, Make] = {}
SPARSE = 4096  # arrays longer than this travel as places and values


def stage(name: str) -> Callable[[Make], Make]:
    """Registers a class of stages under the name that a configuration uses."""
    def enter(make: Make) -> Make:
        STAGES[name] = make
        return make
    return enter


class Pipeline:
    """Stages applied in order; see `engine.types.Stage`.

    >>> pipeline = open_pipeline(["impute?how=mean", "scale"], Schema(8, False, "binary"))
    >>> model.learn(pipeline.learn(batch))
    """

    def __init__(self, stages: Sequence[Stage], schema: Schema) -> None:
        self.stages = list(stages)
        self.source = self.schema = schema
        for one in self.stages:
            self.schema = one.bind(self.schema)

    def bind(self, schema: Schema) -> Schema:
        return self.schema

    def transform(self, batch: Batch) -> Batch:
        """Rows as the model sees them; changes nothing."""
        for one in self.stages:
            batch = one.transform(batch)
        return batch

    def fit(self, batch: Batch) -> None:
        self.learn(batch)

    def learn(self, batch: Batch) -> Batch:
        """Transforms every row with what the rows before it taught, and fits it."""
        for one in self.stages:
            batch = one.learn(batch)
        return batch

    def state(self) -> State:
        return self._named([one.state() for one in self.stages])

    def load(self, state: Mapping[str, Block]) -> None:
        for place, one in enumerate(self.stages):
            one.load(under(state, f"clean/{place}/"))

    def update(self) -> State:
        return self._named([one.update() for one in self.stages])

    def merge(self, total: Mapping[str, Block], ranks: int) -> None:
        for place, one in enumerate(self.stages):
            one.merge(under(total, f"clean/{place}/"), ranks)

    def exchange(self, link: Link) -> None:
        """Update and merge over all ranks (collective)."""
        if link.size > 1:
            self.merge(summed(link, self.update()), link.size)

    def stats(self) -> dict[str, float]:
        """Counters of the stages, named `stage.counter`."""
        found: dict[str, float] = {}
        for one in self.stages:
            for name, value in getattr(one, "stats", dict)().items():
                key = f"{type(one).__name__.lower()}.{name}"
                found[key] = found.get(key, 0) + value
        return found

    def _named(self, parts: Sequence[State]) -> State:
        return {f"clean/{place}/{name}": block for place, part in enumerate(parts) for name, block in part.items()}


def under(state: Mapping[str, Block], head: str) -> State:
    """The blocks below `head`, their names without it."""
    return {name.removeprefix(head): block for name, block in state.items() if name.startswith(head)}


def held(state: Mapping[str, Block], arrays: Mapping[str, Array]) -> None:
    """Copies blocks into `arrays` of the same names; StoreError where one is absent or of another shape."""
    for name, array in arrays.items():
        found = state[name].data.shape if name in state else None
        if found != array.shape:
            raise StoreError(f"stage {name}: expected shape {array.shape}, found {found}",
                             fix="resume with the same clean.stages")
        array[...] = state[name].data


def rule(block: Block) -> str:
    return block.columns[0][1] if block.columns else "add"


def added(data: Array) -> Block:
    """A block that adds up over ranks."""
    return Block(data, (("", "add"),))


def largest(data: Array) -> Block:
    """A block whose elementwise maximum over ranks is the total."""
    return Block(data, (("", "max"),))


def summed(link: Link, update: State) -> State:
    """Totals over ranks, float64, by each block's rule: short blocks in one reduction a rule, long ones by places."""
    total: State = {}
    short = {name: block for name, block in update.items() if block.data.size <= SPARSE and rule(block) != "owner"}
    for op, word in (("add", "sum"), ("max", "max")):
        names = [name for name, block in short.items() if rule(block) == op]
        if not names:
            continue
        flat = np.concatenate([np.asarray(short[name].data, np.float64).ravel() for name in names])
        flat = link.allreduce(flat, op=word, name="clean: totals")  # type: ignore[arg-type]
        at = 0
        for name in names:
            size, shape = short[name].data.size, short[name].data.shape
            total[name] = Block(flat[at : at + size].reshape(shape), short[name].columns)
            at += size
    for name in [name for name, block in update.items() if rule(block) == "owner"]:
        parts = link.allgather(np.asarray(update[name].data, np.float64), name="clean: newest")
        total[name] = Block(_newest(parts), update[name].columns)
    for name in sorted(set(update) - set(total)):
        total[name] = Block(_by_places(link, update[name]), update[name].columns)
    return total


def _newest(parts: Sequence[Array]) -> Array:
    """Column by column the part whose stamp (row 0) is the highest; the first rank's among equals."""
    whole = np.stack(parts)
    best = whole[:, 0].argmax(0)
    return whole[best, :, np.arange(whole.shape[2])].T.copy()


def _by_places(link: Link, block: Block) -> Array:
    flat = np.asarray(block.data, np.float64).ravel()
    places = np.flatnonzero(flat)
    pairs = np.empty((len(places), 2))
    pairs[:, 0], pairs[:, 1] = places, flat[places]
    out = np.zeros(flat.shape)
    fold = np.maximum if rule(block) == "max" else np.add
    for part in link.allgather(pairs, name="clean: places"):
        at = part[:, 0].astype(np.int64)
        out[at] = fold(out[at], part[:, 1])
    return out.reshape(block.data.shape)


class Custom:
    """A user's own class as a stage. Three methods: `transform(batch)`, `fit(batch)`, `arrays()`.

    `arrays()` gives the live arrays it has fitted, by name, float64 or int64: sums over the rows seen, so that they add
    up over ranks. Checkpoints and merging need nothing else. Optional: `bind(schema)`, where columns change.
    """

    def __init__(self, subject: Any, block_rows: int = 1) -> None:
        self.subject, self.block_rows = subject, block_rows
        self._base: dict[str, Array] = {}

    def bind(self, schema: Schema) -> Schema:
        bound = self.subject.bind(schema) if hasattr(self.subject, "bind") else schema
        self._base = {name: array.copy() for name, array in self.subject.arrays().items()}
        return bound

    def transform(self, batch: Batch) -> Batch:
        return self.subject.transform(batch)

    def fit(self, batch: Batch) -> None:
        self.subject.fit(batch)

    def learn(self, batch: Batch) -> Batch:
        """Blocks of `block_rows`: a row is transformed with what the blocks before its own taught."""
        from engine.types import join

        parts = []
        for start in range(0, len(batch), self.block_rows):
            part = batch.slice(start, min(len(batch), start + self.block_rows))
            parts.append(self.subject.transform(part))
            self.subject.fit(part)
        return join(parts) if parts else self.subject.transform(batch)

    def state(self) -> State:
        return {name: Block(array.copy()) for name, array in self.subject.arrays().items()}

    def load(self, state: Mapping[str, Block]) -> None:
        held(state, self.subject.arrays())
        self._base = {name: array.copy() for name, array in self.subject.arrays().items()}

    def update(self) -> State:
        return {name: added(array - self._base[name]) for name, array in self.subject.arrays().items()}

    def merge(self, total: Mapping[str, Block], ranks: int) -> None:
        for name, array in self.subject.arrays().items():
            array[...] = self._base[name] + total[name].data.astype(array.dtype)
            self._base[name] = array.copy()


def open_pipeline(specs: Sequence[str], schema: Schema) -> Pipeline | None:
    """The stages that `specs` name, in order, bound to `schema`; None where there are none."""
    importlib.import_module("engine.clean.stages")
    return Pipeline([open_stage(spec) for spec in specs], schema) if specs else None


def open_stage(spec: str) -> Stage:
    """`name?option=value&…` of a registered stage, or `module:Class?…` of the user's own."""
    name, _, query = spec.partition("?")
    options: dict[str, Any] = {
        key: value(text) for key, text in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)}
    if name in STAGES:
        make: Callable[..., Any] = STAGES[name]
    elif ":" in name:
        make = _own(name, int(options.pop("block_rows", 1)))
    else:
        near = difflib.get_close_matches(name, STAGES, 1)
        raise ConfigError(f"clean.stages: expected one of {', '.join(sorted(STAGES))} or module:Class, found {name!r}",
                          where=spec, fix=f"did you mean {near[0]!r}?" if near else "see docs/clean.md")
    try:
        return make(**options)
    except TypeError as error:
        raise ConfigError(f"clean.stages: {error}", where=spec, fix="see docs/clean.md for the options") from None


def _own(name: str, block_rows: int) -> Callable[..., Stage]:
    module, _, kind = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"clean.stages: cannot load {name}: {error}", fix="module:Class on PYTHONPATH") from None
    missing = [m for m in ("transform", "fit", "arrays") if not callable(getattr(found, m, None))]
    if missing:
        raise ConfigError(f"clean.stages: {name} lacks {', '.join(missing)}", fix="transform(batch), fit(batch), arrays()")
    return lambda **options: Custom(found(**options), block_rows)


def value(text: str) -> Any:
    """An option's text as a number where it is one, true or false, else as it is."""
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)
