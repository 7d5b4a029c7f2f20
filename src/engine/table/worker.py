"""A worker over a parameter table (`exchange.place=table`): rows lie at the owners of their keys, a rank holds a batch's.

    keys of a batch ─► get their rows ─► score, then learn on them ─► inc: what changed, to the owners ─► clock

A row of the table is what the linear family keeps of a key, w, a and n for each class, and the sum of the gradients that came,
by which the owner tells how far a push agrees with others that its sender had not seen when it read the row. Rows are made
at a key's first touch; the bias is the key after the last. The owner merges each push by the learner's own rule
(csrc/learn/merge.h), and no rank ever holds the whole model. What a rank learns from is what the owners had when the
batch's rows were read; how many pushes of others a read missed is counted by the versions of the bias's row.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from engine import grid
from engine import job as jobs
from engine.comm.world import World
from engine.config import Config
from engine.errors import ConfigError, DataError, StoreError
from engine.kernels import _native
from engine.models import sparse
from engine.settings import Fault
from engine.store.checkpoint import split
from engine.store.table import buckets_for
from engine.table.shards import RANKS_A_NODE, Store, open_table
from engine.types import Array, Batch, Block, Counts, Link, Schema, State, Update

LEARNERS = ("ftrl", "adagrad", "sgd", "pa1", "pa2")
FIRST = 1 << 12  # keys of a batch that there is room for at first
SPARE = 1.06  # room beside a rank's share of the keys: shares by hash are not quite equal
LOAD = 0.8  # of the places, full


class Worker:
    """This rank's side; what `loop.Team` is to replicas. `make(keys)` builds a linear model of so many keys, tracked."""

    def __init__(self, link: Link, store: Store, make: Callable[[int], Any], width: int) -> None:
        self._link, self.store, self.table, self._make, self.width = link, store, store.table, make, width
        self._model = make(FIRST)
        options = self._model.options
        self.classes, self._bias = options["classes"], bool(options["bias"])
        self.table.node.merges(options["learner"], options["merge"], [options[name] for name in ("rate", "beta", "l1", "l2")])
        link.barrier(name="rule of the table")
        self._waiting: Callable[[str], Any] = nullcontext
        if isinstance(link, World):
            link.serve = self.table.poll  # who waits for others answers them
            self._waiting = link.waiting
        self._g = 0 if (options["learner"], options["merge"]) == ("ftrl", "owner") else 3  # column of the sum of gradients
        self.models = [self]
        self.counts = Counts()
        self._base = np.zeros(2)  # the clock of what was loaded
        self._bad = 0
        self._scratch = np.empty(1 << 10, np.uint64)

    @property
    def bad(self) -> int:
        return self._bad + int(self._model.bad)

    # Learning

    def learn(self, batch: Batch, k: int) -> tuple[Batch, Array]:
        """The rows and their scores before they were learned, `k` at a time."""
        cuts = range(0, len(batch), k)
        scores = [self._learn(batch if len(cuts) == 1 else batch.slice(at, min(at + k, len(batch)))) for at in cuts]
        return batch, scores[0] if len(scores) == 1 else np.concatenate(scores)

    def _learn(self, batch: Batch) -> Array:
        keys, versions, sums, local = self._fetch(batch)
        scores: Array = self._model.learn(local)
        self._push(self._model.update(), keys, versions, sums)
        with self._waiting("clock of the table"):
            self.table.clock()
        return scores

    def _fetch(self, batch: Batch) -> tuple[Array, Array, Array, Batch]:
        """Keys of the batch (the bias last), their rows' versions and sums, and the batch with places for keys."""
        if batch.keys is None:
            raise DataError("exchange.place=table: expected sparse rows, found dense ones", fix="exchange.place=replica")
        given = np.ascontiguousarray(batch.keys)
        if len(given) and given.max() >= self.width:
            raise DataError(f"key {given.max()} outside the key space of {self.width}", fix="hash the keys: data.hash_bits")
        if 2 * len(given) > len(self._scratch):
            self._scratch = np.empty(1 << (2 * len(given) - 1).bit_length(), np.uint64)
        each, places = np.empty(len(given) + 1, np.uint64), np.empty(len(given), np.uint32)
        count = _native.distinct(given, each, places, self._scratch)
        each[count] = self.width
        keys = each[: count + self._bias]
        versions = np.empty(len(keys), np.uint32)
        with self._waiting("rows of the table"):
            rows = self.table.get(keys, versions=versions).reshape(-1, 4)
        if count > self._model.options["width"]:
            self._grow(count)
        self._model.fill(rows[:, :3])
        local = Batch(batch.y, batch.order, batch.previous, weight=batch.weight,
                      indptr=batch.indptr, keys=places, values=batch.values)
        return keys, versions, rows[:, 3], local

    def _grow(self, keys: int) -> None:
        old, self._model = self._model, self._make(1 << (keys - 1).bit_length())
        self._model._clock[:] = old._clock
        self._bad += old.bad

    def _push(self, update: Update, keys: Array, versions: Array, sums: Array) -> None:
        """What was learned of each row, to its owner."""
        assert update.keys is not None
        if not len(update.keys):
            return
        count = len(keys) - self._bias
        label = update.keys % self.classes if self.classes > 1 else 0
        rows = np.minimum(update.keys // self.classes if self.classes > 1 else update.keys, count).astype(np.int64)
        sent = np.empty((len(rows), 7), np.float32)  # the bias is the block's last row, and the last of the keys
        sent[:, :6] = update.values
        np.multiply(update.values[:, self._g], sums[rows * self.classes + label], out=sent[:, 6])
        items = sent
        if self.classes > 1:
            rows, at = np.unique(rows, return_inverse=True)
            items = np.zeros((len(rows), self.classes, 7), np.float32)
            items[at, label] = sent
        with self._waiting("push to the table"):
            after = self.table.inc(keys[rows], items.reshape(len(rows), -1), op="merge")
        if self._bias and after[-1]:
            self._missed((int(after[-1]) - int(versions[-1])) // 2 - 1)

    def _missed(self, pushes: int) -> None:
        """Pushes of others between a read and the push that came of it, as rounds of every other rank."""
        age = max(0, pushes) / max(1, self._link.size - 1)
        self.counts.add("stale_sum", age)
        self.counts.add("stale_reads")
        self.counts.values["stale_most"] = max(self.counts.values.get("stale_most", 0), age)

    def predict(self, batch: Batch) -> Array:
        """Scores by the rows as their owners have them now; changes nothing."""
        *_, local = self._fetch(batch)
        scores: Array = self._model.predict(local)
        return scores

    def link(self, scores: Array) -> Array:
        found: Array = self._model.link(scores)
        return found

    def update(self) -> Update | None:
        """Nothing: there is one model."""
        return None

    def merge(self, total: Update, workers: int) -> None:
        """Never called: where there is no update nothing is merged."""
        raise AssertionError("a table's rows are merged by their owners")

    # Whole model: checkpoints

    def settle_own(self) -> None:
        """All that this rank has pushed is at its owner."""
        if hasattr(self.table, "flush"):
            self.table.flush()

    def settle(self) -> None:
        """All that any rank has pushed is at its owner (collective)."""
        self.settle_own()
        self._link.barrier(name="pushes applied")

    def state(self) -> State:
        """This rank's rows, by key, the clock of all, and the shape of the whole (collective)."""
        self.settle()
        found = [(rows.keys, rows.values) for rows in self.table.rows()]
        keys = np.concatenate([k for k, _ in found] or [np.empty(0, np.uint64)])
        values = np.concatenate([v for _, v in found] or [np.empty((0, self.table.width), np.float32)])
        order = np.argsort(keys)
        values = values.reshape(len(keys), self.classes, 4)[..., :3].reshape(len(keys), -1)
        clocks = self._link.vote(self._model._clock, name="clocks of the model").sum(0)
        return sparse.state(keys[order], values[order], self.width + self._bias, self.classes, self._base + clocks)

    def parts(self, state: State) -> dict[str, tuple[int, int, int]]:
        """The global rows of what `state` gave of this rank alone (collective)."""
        counts = self._link.vote(np.array([len(state[sparse.KEYS].data)], np.int64), name="rows of the table")[:, 0]
        start, total = int(counts[: self._link.rank].sum()), int(counts.sum())
        return {path: (start, start + int(counts[self._link.rank]), total) for path in (sparse.KEYS, sparse.ROWS)}

    def share(self, rows: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """What this rank is to read of a checkpoint with so many rows of each block."""
        rank, size = self._link.rank, self._link.size
        mine = {path: split(rows[path], rank, size) for path in (sparse.KEYS, sparse.ROWS) if path in rows}
        if sparse.DENSE in rows:
            low, high = split(rows[sparse.DENSE] // self.classes, rank, size)
            mine[sparse.DENSE] = low * self.classes, high * self.classes
            self._low = low
        return mine

    _low = 0

    def load(self, state: Mapping[str, Block]) -> None:
        """Takes a checkpoint's rows, of which each rank was given a share, to their owners (collective)."""
        self.settle()
        self.table.slab.drop(None, None, 0xFFFFFFFF)
        self.table.rebuild()
        self._link.barrier(name="rows dropped")
        if sparse.KEYS in state:
            keys, rows = state[sparse.KEYS].data, state[sparse.ROWS].data
        else:
            dense = state[sparse.DENSE].data.reshape(-1, 3 * self.classes)
            there = np.flatnonzero(dense.any(1))
            keys, rows = there + self._low, dense[there]
        if rows.shape[1:] != (3 * self.classes,):
            raise StoreError(f"{sparse.ROWS}: expected rows of {3 * self.classes} floats, found {rows.shape}",
                             fix="load into a model made with the same options")
        whole = np.zeros((len(keys), self.classes, 4), np.float32)
        whole[..., :3] = rows.reshape(len(keys), self.classes, 3)
        self.table.inc(keys.astype(np.uint64), whole, op="assign")
        self._model._clock[:] = 0
        self._base = state["model/clock"].data.astype(np.float64)
        self._link.barrier(name="rows at their owners")

    def close(self) -> None:
        """Collective."""
        if isinstance(self._link, World):
            self._link.serve = bool
        self.store.close()


def hire(config: Config, link: Link, schema: Schema) -> Worker:
    """The worker of this rank, and the table it works on (collective)."""
    check(config, link, schema)
    classes = jobs.classes(config, schema) if schema.task == "multiclass" else 1
    shard = config.shard
    share = int((schema.width + 1) / link.size * SPARE) + 4096
    rows = int(min(share, shard.rows) / (2 * LOAD))
    held = _native.slab_bytes(buckets_for(rows), 4 * classes, 2 * RANKS_A_NODE)
    if shard.memory and held > shard.memory:
        raise ConfigError(f"shard.memory: expected {held} bytes or more for {rows} rows a rank, found {shard.memory}",
                          fix=f"more ranks, a lower shard.rows, or shard.memory={held}")
    each = config.fault.ranks_per_node  # nodes that are told, for trying
    store = open_table(link, width=4 * classes, rows=rows, onesided=shard.onesided, service_mode=shard.service,
                       slots_bits=shard.slots_bits, timeout_s=config.loop.stall_timeout, combine=shard.combine,
                       combine_op="merge", node=np.arange(link.size, dtype=np.int32) // each if each else None)
    return Worker(link, store, lambda keys: jobs.build(config, replace(schema, width=keys), tracked=True), schema.width)


def check(config: Config, link: Link, schema: Schema) -> None:
    """ConfigError where a table cannot be learned like this."""
    model, exchange = config.model, config.exchange
    mode = exchange.mode.partition(":")[0]
    for bad, expected, found, fix in (
            (model.kind != "linear", "a linear model", f"model.kind={model.kind}", "model.kind=linear"),
            (not schema.sparse, "sparse rows", "dense columns", "data.hash_bits=22, or a libsvm source"),
            (model.learner not in LEARNERS, f"a learner of {', '.join(LEARNERS)}", model.learner, "model.learner=ftrl"),
            (model.interactions, "keys that are in the rows", "model.interactions", "model.interactions=false"),
            (bool(model.scale), "no scaler", "model.scale", "model.scale=false"),
            (mode not in ("bsp", "asp", "ssp"), "mode bsp, ssp:N or asp", exchange.mode, "exchange.mode=asp"),
            (exchange.codec != "exact", "codec exact", exchange.codec, "exchange.codec=exact"),
            (exchange.virtual > 0, "real ranks", f"exchange.virtual={exchange.virtual}", "leave out --reproducible"),
            (exchange.split == "keys", "split rows", "exchange.split=keys", "exchange.split=rows"),
            (grid.named(config.data.rule), "a rule by rows", config.data.rule, "data.rule=part"),
            (exchange.damp > 0, "no damping", f"exchange.damp={exchange.damp:g}", "exchange.damp=0"),
            (exchange.balance, "each rank's own pace", "exchange.balance", "exchange.balance=false"),
            (exchange.ease, "fixed steps", "exchange.ease", "exchange.ease=false"),
            (jobs.looked_at(replace(config, fault=Fault(memory="off"))), "checkpoints alone to read the model",
             "a strategy, drift detection, a gate or publishing", "update.strategy=incremental without them"),
            (jobs.looked_at(config), "checkpoints alone to keep the model", "copies in node memory (--supervise)",
             "fault.memory=off and --checkpoint"),
            (link.size > 1 and not isinstance(link, World), "messages over the MPI", f"a {type(link).__name__}",
             "transport.between=mpi")):
        if bad:
            raise ConfigError(f"exchange.place=table: expected {expected}, found {found}",
                              fix=f"{fix}, or exchange.place=replica")
