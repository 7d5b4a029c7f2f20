"""Incremental checkpoints: a keyframe, then checkpoints that hold only the rows changed since the one before.

    DIR/step-000000001200/manifest.json     "base": 1000 names the step it goes on from
                          part-0000-of-0002.bin    one record (store/record.py) of this writer's rows

A chain is as long as `checkpoint.chain` says, then comes a keyframe; a checkpoint that another needs is kept. Row numbers are
the writer's own; `ranges[path]` = (first global row, global rows) makes them global, so any number of ranks can read them.
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..codec.frame import numpy_dtype
from ..errors import FrameError, StoreError
from ..types import Block, State
from .atomic import make_dir, refused, write_file
from .record import Record, decode_record, encode_record

Ranges = Mapping[str, tuple[int, int]]


def write_delta(folder: Path, file: str, record: Record, ranges: Ranges, small: bool = True) -> tuple[int, int, dict[str, Any]]:
    """(size, crc, layout of every block named in `ranges`) of the part file with this record."""
    make_dir(folder)
    meta = dict(record.meta) | {"ranges": {path: list(at) for path, at in ranges.items()}}
    whole = Record(record.version, record.base, record.changes, meta, record.epoch, record.state_hash, record.shard,
                   record.shards)
    size, crc = write_file(folder / file, encode_record(whole, small=small))
    return size, crc, meta


def overlay(state: State, layout: Mapping[str, Any], path: Path, rows: Mapping[str, tuple[int, int]], version: int) -> None:
    """Bring `state`, which holds the global rows `rows` (all of a block not named there), forward by one part file."""
    try:
        record = decode_record(path.read_bytes())
    except FrameError as error:
        raise StoreError(f"checkpoint chunk: {error.message}", where=str(path), fix="use the one before it") from error
    except OSError as error:
        raise refused(error, path, 0) from error
    if record.version != version:
        raise StoreError(f"expected the rows of step {version}, found those of {record.version}", where=str(path),
                         fix="use the one before it")
    for change in record.changes:
        first, _ = record.meta["ranges"][change.path]
        block = state[change.path]
        low, high = rows.get(change.path, (0, layout[change.path]["shape"][0]))
        data = block.data
        if data.ndim > change.data.ndim:  # wide rows are kept element by element
            width = int(np.prod(data.shape[1:], dtype=object))
            data, low, high = data.reshape(-1), low * width, high * width
        local = np.arange(len(change.data)) if change.rows is None else change.rows.astype(np.int64)
        inside = (local + first >= low) & (local + first < high)
        data[local[inside] + first - low] = change.data[inside]


def grown(state: State, layout: Mapping[str, Any], rows: Mapping[str, tuple[int, int]]) -> State:
    """The base's blocks in the shapes of the delta's layout; a block of another shape begins as zeros."""
    made: State = {}
    for path, about in layout.items():
        total = about["shape"][0]
        low, high = rows.get(path, (0, total))
        shape = [high - low, *about["shape"][1:]]
        columns = tuple((name, merge) for name, merge in about["columns"])
        old = state.get(path)
        if old is not None and list(old.data.shape) == shape and old.data.dtype == numpy_dtype(about["dtype"]):
            made[path] = Block(old.data, columns, about["version"])
        else:
            made[path] = Block(np.zeros(shape, numpy_dtype(about["dtype"])), columns, about["version"])
    return made
