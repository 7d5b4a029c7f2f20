"""Which cut suits a data set: rule and granularity from a sample of its keys, widths and accesses, with the reasons. Pure."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.shard.balance import REPLICATE
from engine.shard.layout import estimate
from engine.types import Array

ROW_BYTES = 16      # a weight with its learner's state
SENT_BYTES = 28     # of a touched key in an exchange (docs/design.md)
EACH_S = 2e-7       # cost of a piece a pass: its ledger entry, its part of a request
LOAD_S = 3e-8       # cost of an access
COUNTS = (16, 64, 256, 1024)  # pieces a rank
MOST_PIECES = 1 << 19


@dataclass(frozen=True)
class Sample:
    """What was looked at: `rows`, key space or columns `width`, `sparse`, the `keys` of all accesses in order of rows (u64),
    accesses of each row, and the rows between two exchanges."""

    rows: int
    width: int
    sparse: bool
    keys: Array
    per_row: float
    interval: int


@dataclass(frozen=True)
class Advice:
    """`rule`: rows, columns or table; `by`: hash or range; `pieces`: a rank; `estimates`: (pieces, imbalance, overhead)."""

    rule: str
    by: str
    pieces: int
    estimates: tuple[tuple[int, float, float], ...]
    reasons: tuple[str, ...]


def advise(sample: Sample, ranks: int, memory_bytes: float) -> Advice:
    """Rows where the model fits every rank; else columns where rows are dense, a table by key where they are sparse."""
    model = sample.width * ROW_BYTES
    said = [f"{sample.rows} rows looked at: {'sparse' if sample.sparse else 'dense'}, {sample.per_row:.1f} values a row, "
            f"{sample.width} {'keys' if sample.sparse else 'columns'}, a model of {model / 2**20:,.2f} MiB"]
    distinct = len(np.unique(sample.keys)) if sample.sparse else sample.width
    touched = min(float(distinct), sample.interval * sample.per_row)
    by_rows, by_columns = touched * SENT_BYTES / sample.interval, 4.0
    said.append(f"an exchange every {sample.interval} rows sends about {by_rows:,.0f} bytes a row cut by rows; cut by columns, "
                f"{by_columns:,.0f} (one partial score), but every row is read by every rank")
    if model <= memory_bytes / 4:
        rule = "rows"
        said.append(f"rows: the model takes {model / memory_bytes:.2%} of a rank's memory, so each rank can hold all of it")
    elif sample.sparse:
        rule = "table"
        said.append("table: the model does not fit a rank, and a row needs only its own keys from their owners")
    else:
        rule = "columns"
        said.append("columns: the model does not fit a rank, and dense rows need all of it, so each rank keeps its columns")
    key, count = np.unique(sample.keys, return_counts=True)
    share = count / max(1, count.sum())
    hot = int((share > REPLICATE / ranks).sum())
    by = "hash"
    if sample.sparse:
        most = share.max() if len(share) else 0.0
        said.append(f"hash: {len(key)} keys seen, the most asked for takes {most:.2%}; {hot} of them are above {REPLICATE:g}/P "
                    "and better replicated than moved")
    else:
        by = "range"
        said.append("range: dense columns cost alike, neighbours stay together")
    cold = sample.keys[~np.isin(sample.keys, key[share > REPLICATE / ranks])] if sample.sparse else sample.keys
    counts = [n for n in COUNTS if n * ranks <= MOST_PIECES] or COUNTS[:1]
    estimates = [(n, *estimate(_loads(sample, cold, n * ranks), ranks, overhead_s=EACH_S, seconds_a_load=LOAD_S))
                 for n in counts]
    good = [one for one in estimates if one[1] <= 1.05] or [min(estimates, key=lambda one: one[1])]
    pieces = good[0][0]
    said.append(f"{pieces} pieces a rank: the fewest with at most 1.05 times the mean on the fullest rank"
                if good[0][1] <= 1.05 else
                f"{pieces} pieces a rank come nearest to even ({good[0][1]:.2f} times the mean): too few keys to spread")
    return Advice(rule, by, pieces, tuple(estimates), tuple(said))


def _loads(sample: Sample, keys: Array, pieces: int) -> Array:
    """Accesses of each of so many pieces."""
    if sample.sparse:
        at = (keys ^ keys >> np.uint64(32)) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
        return np.bincount((at % np.uint64(pieces)).astype(np.int64), minlength=pieces)
    return np.bincount(np.arange(sample.width) * pieces // max(1, sample.width), minlength=pieces) * float(sample.rows)
