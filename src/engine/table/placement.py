"""`engine shard plan`: what to cut a data set by, and who should own what, before anything runs."""
from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import numpy as np

from engine.config import Config
from engine.errors import ConfigError
from engine.job import interval, source_options
from engine.shard import balance
from engine.shard.advise import Advice, Sample, advise
from engine.shard.heavy import Heavy
from engine.shard.ledger import Ledger, bits_for
from engine.source.read import open_source
from engine.types import Array

ACCESSES = 4_000_000


def main(config: Config, *, ranks: int, per_node: int, per_rack: int, rows: int, as_json: bool) -> int:
    """Prints the advice and the plan with their reasons."""
    if ranks < 1 or per_node < 1 or per_rack < 0 or rows < 1:
        raise ConfigError(f"shard plan: expected ranks, per-node and rows of at least 1, found {ranks}, {per_node}, {rows}")
    cap = float(config.shard.memory or 8 << 30)
    sample = simulated(config.data.source) if config.data.source.startswith("zipf:") else looked_at(config, rows)
    advice = advise(sample, ranks, cap)
    cluster = balance.Cluster.even(ranks, per_node=per_node, per_rack=per_rack, memory=cap)
    load = measured(sample, ranks, config.shard.slots_bits)
    made = balance.plan(load, cluster)
    if as_json:
        print(json.dumps({"advice": asdict(advice), "plan": summary(made, load)}))
    else:
        print("\n".join(shown(advice, made, load, ranks)))
    return 0


def looked_at(config: Config, rows: int) -> Sample:
    """The first `rows` rows of the source, spread over its pieces where it has several."""
    source = open_source(config.data.source, **source_options(config))
    try:
        keys: list[Array] = []
        count = values = 0
        known = source.pieces
        order = range(known) if known else iter(range(1 << 30))
        for piece in order:
            empty = True
            for batch in source.read(piece):
                empty = False
                batch = batch.slice(0, min(len(batch), rows - count))
                count += len(batch)
                if batch.sparse and batch.keys is not None:
                    keys.append(batch.keys.astype(np.uint64))
                    values += len(batch.keys)
                elif batch.x is not None:
                    values += batch.x.size
                if count >= rows:
                    break
            if count >= rows or (empty and not known):
                break
    finally:
        source.close()
    if not count:
        raise ConfigError("shard plan: the source has no rows", where=config.data.source)
    schema = source.schema
    if not schema.sparse:
        keys = [np.tile(np.arange(schema.width, dtype=np.uint64), min(count, 64))]
    return Sample(count, schema.width, schema.sparse, np.concatenate(keys) if keys else np.empty(0, np.uint64),
                  values / count, interval(config))


def simulated(text: str) -> Sample:
    """`zipf:POWER:KEYS`: sparse accesses of a Zipf law."""
    match = re.fullmatch(r"zipf:([\d.]+):(\d+)", text)
    if not match or not 1 <= int(match[2]) <= 10**8:
        raise ConfigError(f"shard plan: expected zipf:POWER:KEYS, found {text!r}", fix="for example zipf:1.0:10000000")
    draw, keys = np.random.default_rng(0), int(match[2])
    weight = np.arange(1, keys + 1, dtype=np.float64) ** -float(match[1])
    edge = np.cumsum(weight)
    rank = np.searchsorted(edge, draw.random(ACCESSES) * edge[-1])
    key = (np.minimum(rank, keys - 1).astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95) >> np.uint64(1)
    return Sample(ACCESSES, keys, True, key, 1.0, 256)


def measured(sample: Sample, ranks: int, bits: int | None) -> balance.Load:
    """The sample's accesses as slot counters and a sketch of hot keys, on a ledger dealt evenly."""
    ledger = Ledger(bits_for(ranks) if bits is None else bits, ranks)
    slots = 1 << ledger.bits
    slot = ledger.slots(sample.keys)
    sketch = Heavy(1 << min(20, max(10, (16 * ranks - 1).bit_length())))
    sketch.count(sample.keys)
    hot, share, error = sketch.top(balance.REPLICATE / ranks * 0.8)
    sure = share - error > 8 / max(1, len(sample.keys))  # seen more than a few times
    distinct = ledger.slots(np.unique(sample.keys))
    size = np.bincount(distinct, minlength=slots) * 256.0
    owner = ledger.owner[:slots].astype(np.int64)
    return balance.Load(np.bincount(slot, minlength=slots).astype(float), owner, size, hot[sure],
                        ledger.slots(hot[sure]).astype(np.int64), share[sure] * len(sample.keys))


def summary(made: balance.Plan, load: balance.Load) -> dict[str, Any]:
    return {"before": made.before, "after": made.after, "replicate": len(made.replicate), "split": len(made.split),
            "moves": len(made.moves), "moved_bytes": made.moved_bytes, "moved_share": made.moved_share, "cost_s": made.cost_s,
            "slots": len(load.slot), "reasons": list(made.reasons)}


def shown(advice: Advice, made: balance.Plan, load: balance.Load, ranks: int) -> list[str]:
    lines = [f"rule         {advice.rule} by {advice.by}, {advice.pieces} pieces a rank"]
    lines += [f"  - {one}" for one in advice.reasons]
    lines.append("pieces a rank   imbalance   overhead")
    lines += [f"{n:13}   {even:9.3f}   {lost:8.2%}" for n, even, lost in advice.estimates]
    lines.append(f"placement    {len(load.slot)} slots over {ranks} ranks")
    lines += [f"  - {one}" for one in made.reasons]
    lines.append(f"fullest rank {made.before:.3f} -> {made.after:.3f} times its share, "
                 f"{made.moved_bytes / 2**20:,.2f} MiB moved, about {made.cost_s:.3g} s")
    for move in made.moves[:5]:
        part = f" part {move.part + 1} of {1 << move.bits}" if move.bits else ""
        lines.append(f"  slot {move.slot}{part}: rank {move.source} -> {move.target} ({balance.TIERS[move.tier]})")
    if len(made.moves) > 5:
        lines.append(f"  and {len(made.moves) - 5} more")
    return lines
