"""The ranks as a grid of row parts by column groups (`data.rule` = columns, grid): a linear model cut by columns.

    rank r holds column group r mod C of row part r // C            columns: one row part, every rank a group

A rank is sent (or reads, where the source keeps columns apart) its columns of its part's rows alone. The ranks of a row part
add up their parts of the scores, one reduction for `shard.lot` rows, and each learns its own columns from the whole score:
with lots of one row, or mini-batches (`model.batch`), what a single rank learns, but for rounding. Row parts merge their
changes of a group every `exchange.every` rows, by `exchange.merge`, as replicas do.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.comm import sync
from engine.comm.local import Alone
from engine.comm.part import part
from engine.errors import ConfigError
from engine.shard.layout import Columns
from engine.source import stream as streams
from engine.types import Array, Batch, Block, Link, Schema, Source, State, Update
from engine.update.merge import combine

RULES = ("columns", "grid")


@dataclass(frozen=True)
class Shape:
    """Row parts by column groups, and this rank's place."""

    parts: int
    columns: Columns
    rank: int

    @property
    def group(self) -> int:
        return self.rank % self.columns.groups

    @property
    def part(self) -> int:
        return self.rank // self.columns.groups


def named(rule: str) -> bool:
    """Whether the rule cuts columns."""
    return rule.partition(":")[0] in RULES


def shape(rule: str, size: int, rank: int, schema: Schema) -> Shape:
    """The grid a rule names: `columns` = 1 x size, `grid:RxC`, `grid` = as square as the ranks allow, wider than high.

    Dense columns are cut in contiguous ranges, keys by their remainder.  ConfigError where R x C is not the ranks.
    """
    parts = 1
    if rule == "grid":
        parts = max(r for r in range(1, int(size ** 0.5) + 1) if size % r == 0)
    elif found := re.fullmatch(r"grid:(\d+)x(\d+)", rule):
        parts = int(found[1])
        asked = parts * int(found[2])
        if asked != size:
            raise ConfigError(f"data.rule={rule}: expected {size} ranks in all, found {found[1]} x {found[2]} = {asked}",
                              fix=f"data.rule=grid:1x{size}, or start {asked} ranks")
    groups = size // parts
    return Shape(parts, Columns(schema.width, groups, by="cyclic" if schema.sparse else "range"), rank)


class Grid:
    """This rank's columns; what `loop.Team` is to replicas. `link` is of all ranks; `make(schema, bias)` builds the model."""

    def __init__(self, link: Link, at: Shape, schema: Schema, make: Callable[[Schema, bool], Any], *, lot: int) -> None:
        self._link, self.at, self._lot = link, at, lot
        mine = Schema(len(at.columns.of(at.group)), schema.sparse, schema.task, schema.labels)
        self.models: list[Any] = [make(mine, at.group == 0)]  # the bias belongs to the first group
        self._across = part(link, at.part, name="ranks of a row part")
        self._down = part(link, at.group, name="ranks of a column group") if at.parts > 1 else Alone()

    def learn(self, batch: Batch, k: int) -> tuple[Batch, Array]:
        """Scores and learns rows, of this rank's columns; this rank's share of them, to be counted, and their scores."""
        before, across = self._across.sent, self._across
        scores = self.models[0].learn_apart(batch, self._lot, lambda sums: across.allreduce(sums, name="partial scores"))
        self._link.sent += across.sent - before
        low, high = (len(batch) * (self.at.group + side) // self.at.columns.groups for side in (0, 1))
        return batch.slice(low, high), scores[low:high]

    def update(self) -> Update | None:
        """What was learned of the columns since the last merge; None where nobody else holds them."""
        return self.models[0].update() if self.at.parts > 1 else None

    def merge(self, total: Update, workers: int) -> None:
        """Takes the sum over the row parts."""
        self.models[0].merge(total, self.at.parts)

    def exchange(self, job: Any, update: Update, table: Array) -> None:
        """The `loop.Exchange` of a grid: the row parts that hold the same columns add up what they learned."""
        groups, before = self.at.columns.groups, self._down.sent
        rows = table[:, 0].reshape(self.at.parts, groups).sum(1)  # a part's rows are counted in shares
        counts = table[self.at.group :: groups, 1].astype(int)
        self.merge(sync.total(self._down, update, combine, counts.tolist(), rows.tolist()), self.at.parts)
        self._link.sent += self._down.sent - before

    def state(self) -> State:
        """The whole model's state, in the order of all columns, the same on every rank (collective)."""
        mine, columns = self.models[0].state(), self.at.columns
        state: State = {"model/clock": mine["model/clock"]}
        for path, classes in self._blocks():
            parts = self._across.allgather(mine[path].data, name="columns of all groups")
            bias = len(parts[0]) - len(columns.of(0)) * classes  # rows beside those of columns
            whole = np.zeros((columns.width * classes + bias, *parts[0].shape[1:]), parts[0].dtype)
            for group, rows in enumerate(parts):
                whole[self._rows(group, classes)] = rows[: len(rows) - bias * (group == 0)]
            whole[len(whole) - bias :] = parts[0][len(parts[0]) - bias :]
            state[path] = Block(whole, mine[path].columns)
        return state

    def load(self, state: Mapping[str, Block]) -> None:
        """Takes this rank's columns of what `state` gave, on any number of ranks."""
        mine = dict(state)
        for path, classes in self._blocks():
            if path in state:
                data = state[path].data
                rows = self._rows(self.at.group, classes)
                bias = data[self.at.columns.width * classes :] if self.at.group == 0 else data[:0]
                mine[path] = Block(np.concatenate([data[rows], bias]), state[path].columns)
        self.models[0].load(mine)

    def _blocks(self) -> list[tuple[str, int]]:
        """Paths whose rows follow the columns, and how many rows a column has."""
        options = self.models[0].options
        return [("model/linear", options["classes"]), *([("stage/scale", 1)] if options["scale"] else [])]

    def _rows(self, group: int, classes: int) -> Array:
        return (self.at.columns.of(group)[:, None] * classes + np.arange(classes)).ravel()

    def close(self) -> None:
        """Frees the Links of its row and column (collective)."""
        self._across.close()
        self._down.close()


def stream(at: Shape, source: Source, link: Link, k: int, position: streams.Position | None) -> Any:
    """This rank's columns of its part's rows: read alone where the source keeps columns apart, else sent by the reader."""
    if at.parts == 1 and not source.schema.sparse and hasattr(source, "narrow"):
        mine = source.narrow(at.columns.of(at.group))
        return streams.Dealt(mine, Alone(), lambda rows: rows.order, sync.vote, position)
    groups = at.columns.groups
    last: list[Any] = [None, -1, None]

    def share(rows: Batch, rank: int) -> Batch:
        if last[0] is not rows or last[1] != rank // groups:
            mine = rows.take(np.flatnonzero(rows.order // k % at.parts == rank // groups)) if at.parts > 1 else rows
            last[:] = rows, rank // groups, mine
        return at.columns.take(last[2], rank % groups)

    return streams.Spread(source, link, share, sync.vote, position, parts=at.parts)


def check(kind: str, stages: tuple[str, ...], pairs: bool, lockstep: bool, live: bool, whole: bool) -> None:
    """ConfigError where columns on different ranks cannot learn this."""
    found = (f"model.kind={kind}" if kind != "linear" else "model.interactions" if pairs else
             f"stages {', '.join(stages)}" if stages else "" if lockstep else "another exchange")
    if found:
        raise ConfigError("data.rule by columns: expected a linear model without interactions and stages, its exchange in "
                          f"lock-step (mode bsp, codec exact, split rows), found {found}",
                          fix="use a rule by rows: data.rule=deal")
    if live:
        raise ConfigError("data.rule by columns: expected a source of pieces, found a live one", fix="data.rule=deal")
    if whole:
        raise ConfigError("data.rule by columns: no rank holds the whole model, which copies in node memory, strategies, drift "
                          "and publishing read", fix="fault.memory=off and checkpoints, update.strategy=incremental")
