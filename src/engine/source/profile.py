"""What is in a stream: types, missing values, ranges, how many values, drift; and a configuration to start from.

One pass; the rows looked at (`limit_rows`) are held. Moments and sketches of each column (bins of float32's own order), values
counted by linear counting in 2^16 bits (Whang and others 1990, within 2 % to about 100 000 values), drift between the halves.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.kernels import _native
from engine.source.make import mixed
from engine.source.schema import TARGET, TARGET_TEXT, number, records
from engine.types import NO_TIME, Array, Batch, Schema

BITS = 1 << 16
BINS = 16384


class Columns:
    """Running figures of dense columns; NaN is missing."""

    def __init__(self, width: int) -> None:
        self.rows, self.stats, self.edges = 0, np.zeros((3, width)), np.stack([np.full(width, np.inf), np.full(width, -np.inf)])
        self.sketch, self.seen = np.zeros((width, BINS)), np.zeros((width, BITS), bool)
        self.whole = np.ones(width, bool)

    def add(self, x: Array) -> None:
        x = np.ascontiguousarray(x, np.float32)
        out = np.empty_like(x)
        _native.clean_standard(x, self.stats, True, out)
        _native.clean_minmax(x, self.edges, True, out)
        _native.clean_sketch(x, self.sketch)
        bits = mixed((x + np.float32(0)).view(np.uint32).astype(np.uint64)) >> np.uint64(48)
        for column in range(x.shape[1]):
            there = ~np.isnan(x[:, column])
            self.seen[column, bits[there, column]] = True
        self.whole &= ((x == np.round(x)) | np.isnan(x)).all(0)
        self.rows += len(x)

    def distinct(self) -> Array:
        empty = np.maximum(BITS - self.seen.sum(1), 1)
        return np.rint(-BITS * np.log(empty / BITS)).astype(int)

    @property
    def sd(self) -> Array:
        return np.sqrt(np.divide(self.stats[2], self.stats[0], out=np.zeros_like(self.stats[2]), where=self.stats[0] > 0))


def drift(early: Array, late: Array) -> float:
    """Population stability index of two histograms of a column over deciles of the early one: above .25 it has moved."""
    if not early.sum() or not late.sum():
        return 0.0
    at = np.searchsorted(np.cumsum(early) / early.sum(), np.arange(0.1, 1.0, 0.1))
    cuts = [0, *np.unique(at + 1).tolist(), BINS]
    a, b = (np.add.reduceat(h, cuts[:-1])[: len(cuts) - 1] / h.sum() + 1e-6 for h in (early, late))
    return float(((b - a) * np.log(b / a)).sum())


def profile(source: Any, limit_rows: int = 200_000) -> dict[str, Any]:
    """Figures of the first `limit_rows` rows, by column; both halves are of what is read."""
    schema: Schema = source.schema
    halves = [Columns(schema.width), Columns(schema.width)] if not schema.sparse else []
    y: list[Array] = []
    keys, entries, rows, blocks = np.zeros(BITS, np.int64), 0, 0, list[Array]()
    for batch in batches(source, limit_rows):
        rows += len(batch)
        y.append(batch.y)
        if schema.sparse:
            assert batch.keys is not None
            entries += len(batch.keys)
            keys += np.bincount(batch.keys % BITS, minlength=BITS)
        elif batch.x is not None:
            blocks += [batch.x[start : start + 4096] for start in range(0, len(batch), 4096)]
    _spread(halves, blocks)
    labels = np.concatenate(y) if y else np.empty(0, np.float32)
    found: dict[str, Any] = {"rows": rows, "task": schema.task, "bad_rows": source.stats["bad"],
                             "target": _target(labels, schema)}
    if schema.sparse:
        touched = int((keys > 0).sum())
        distinct = int(np.rint(-BITS * np.log(max(BITS - touched, 1) / BITS)))
        found["sparse"] = {"entries_a_row": entries / max(rows, 1), "keys": distinct, "width": schema.width,
                           "top_share": float(np.sort(keys)[-10:].sum() / max(entries, 1))}
    else:
        found["columns"] = _columns(halves, schema)
    return found


def _spread(halves: list[Columns], blocks: list[Array]) -> None:
    """The blocks read so far: the first half of them to the early figures, the rest to the late ones."""
    for place, block in enumerate(blocks):
        halves[2 * place >= len(blocks)].add(block)
    blocks.clear()


def marks(plan: Any, head: bytes) -> tuple[str, str]:
    """Names of the columns of CSV text that look like an event time (dates, or epoch times that mostly rise) and like an id
    (named so, or words that are all different); "" where there is none."""
    rows = records(head.decode("utf-8", "replace"), plan.delimiter)[plan.header:]
    rows = [row for row in rows if len(row) == len(plan.names)]
    time = name = ""
    for place, column in enumerate(plan.names):
        cells = [row[place].strip() for row in rows[:2000]]
        if plan.kinds[place] in (TARGET, TARGET_TEXT) or not any(cells):
            continue
        text = "".join(f"{cell.replace(chr(10), ' ')}\n" for cell in cells).encode()
        at = np.cumsum([0, *(len(cell) for cell in text.split(b"\n")[:-2])], dtype=np.int64) + np.arange(len(cells))
        stamps = np.empty(len(cells), np.int64)
        _native.parse_times(text, at, 0, 1, True, 1.0, stamps)
        known, numbers = stamps[stamps != NO_TIME], [number(cell) for cell in cells]
        dates = len(known) > 0.9 * len(cells) and sum(v is None for v in numbers) > 0.9 * len(cells)
        epoch = len(known) > 0.9 * len(cells) and 1e9 <= known.min() < 1e20 and np.mean(np.diff(known) >= 0) > 0.8
        if not time and (dates or epoch):
            time = column
        elif not name and len(set(cells)) == len(cells) > 20 and (
                column.lower() in ("id", "key", "uuid", "guid") or column.lower().endswith(("_id", "-id"))
                or all(v is None for v in numbers)):
            name = column
    return time, name


def batches(source: Any, limit_rows: int) -> Iterator[Batch]:
    piece = rows = 0
    while (source.pieces is None or piece < source.pieces) and rows < limit_rows:
        for batch in source.read(piece):
            yield batch.slice(0, min(len(batch), limit_rows - rows))
            rows += len(batch)
            if rows >= limit_rows:
                return
        piece += 1


def _target(y: Array, schema: Schema) -> dict[str, Any]:
    known = y[~np.isnan(y)]
    found: dict[str, Any] = {"missing": 1 - len(known) / max(len(y), 1)}
    if schema.task == "regression":
        return found | {"min": float(known.min(initial=np.inf)), "max": float(known.max(initial=-np.inf)),
                        "mean": float(known.mean()) if len(known) else 0.0}
    counts = np.bincount(known.astype(int), minlength=len(schema.labels)) / max(len(known), 1)
    return found | {"classes": dict(zip(schema.labels, counts.round(4).tolist(), strict=False))}


def _columns(halves: list[Columns], schema: Schema) -> list[dict[str, Any]]:
    names = schema.columns if len(schema.columns) == schema.width else tuple(map(str, range(schema.width)))
    whole = Columns(schema.width)
    whole.seen = halves[0].seen | halves[1].seen
    distinct, rows = whole.distinct(), halves[0].rows + halves[1].rows
    found = []
    for i, name in enumerate(names):
        count = halves[0].stats[0, i] + halves[1].stats[0, i]
        sd = max(halves[0].sd[i], halves[1].sd[i])
        found.append({
            "name": name, "type": "integer" if halves[0].whole[i] and halves[1].whole[i] else "number",
            "missing": 1 - count / max(rows, 1),
            "min": min(h.edges[0, i] for h in halves), "max": max(h.edges[1, i] for h in halves),
            "mean": sum(h.stats[0, i] * h.stats[1, i] for h in halves) / max(count, 1), "sd": float(sd),
            "distinct": int(distinct[i]), "drift": drift(halves[0].sketch[i], halves[1].sketch[i])})
    return found


def starter(found: dict[str, Any], spec: str, target: str | None) -> str:
    """A commented TOML configuration for what was found."""
    lines = [f"# {found['rows']} rows looked at, {found['bad_rows']} bad", "[data]", f"source = {json.dumps(spec)}",
             f'task = "{found["task"]}"']
    if target is not None:
        lines.append(f"target = {json.dumps(target)}")
    classes = found["target"].get("classes")
    if classes:
        lines.append(f"labels = {json.dumps(list(classes))}  # shares {', '.join(f'{v:.3g}' for v in classes.values())}")
    if found.get("time"):
        lines += ["", "[time]", f"column = {json.dumps(found['time'])}", '# lateness = "10s"']
    if found.get("id"):
        lines += [*([] if found.get("time") else ["", "[time]"]),
                  f"id = {json.dumps(found['id'])}  # a row of an id that was there is dropped"]
    stages = []
    columns = found.get("columns", [])
    gaps = [c for c in columns if c["missing"] > 0]
    if gaps:
        flag = "&flag=true" if any(c["missing"] > 0.05 for c in gaps) else ""
        stages.append(f"impute?how=mean{flag}")
    far = [c for c in columns if c["sd"] > 0 and max(abs(c["max"] - c["mean"]), abs(c["min"] - c["mean"])) > 12 * c["sd"]]
    if far:
        stages.append(f"outliers?z=6&columns={'+'.join(c['name'] for c in far)}")
    moved = [c["name"] for c in columns if c["drift"] > 0.25]
    lines += ["", "[clean]", f"stages = {json.dumps(stages)}"]
    if moved:
        lines.append(f"# moved between the halves of the stream: {', '.join(moved)}")
    constant = [c["name"] for c in columns if c["distinct"] <= 1]
    if constant:
        lines.append(f"# never change: {', '.join(constant)}")
    learner = "nag" if moved else "ftrl"
    lines += ["", "[model]", f'learner = "{learner}"', "", "[checkpoint]", '# dir = "checkpoints"', '# every = "60s"', ""]
    return "\n".join(lines)


def table(found: dict[str, Any]) -> str:
    """The figures for a reader."""
    target = {k: v for k, v in found["target"].items() if k != "missing" or v}
    lines = [f"{found['rows']} rows, {found['bad_rows']} bad, {found['task']}; target {target}"]
    lines += [f"{what} in column {found[name]}" for name, what in (("time", "event times"), ("id", "names of rows"))
              if found.get(name)]
    if "sparse" in found:
        return "\n".join([*lines, " ".join(f"{k}={v:.4g}" for k, v in found["sparse"].items())])
    lines.append(f"{'column':20} {'type':8} {'missing':>8} {'min':>11} {'max':>11} {'mean':>11} {'sd':>11} {'distinct':>9} "
                 f"{'drift':>6}")
    lines += [f"{c['name'][:20]:20} {c['type']:8} {c['missing']:8.2%} {c['min']:11.4g} {c['max']:11.4g} {c['mean']:11.4g} "
              f"{c['sd']:11.4g} {c['distinct']:9} {c['drift']:6.2f}" for c in found["columns"]]
    return "\n".join(lines)
