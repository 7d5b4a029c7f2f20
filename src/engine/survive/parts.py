"""The parts of a recovered state made one, its digest, and the folders it leaves behind."""
from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.kernels import _native
from engine.source import stream as streams
from engine.source.live import together
from engine.store.differ import packed, put
from engine.types import Array, Block, State

DIGEST_ROWS = 1 << 13


def _joined(blocks: Sequence[Array], room: Array | None) -> Array:
    """The blocks one after another, in `room` where they fill it."""
    if room is None or room.shape[1:] != blocks[0].shape[1:] or len(room) != sum(map(len, blocks)) or any(
            block.dtype != room.dtype for block in blocks):
        return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    low = 0
    for block in blocks:
        put(room[low : low + len(block)], block)
        low += len(block)
    return room


def assembled(parts: Sequence[tuple[int, State, dict[str, Any]]], shards: int,
               room: State) -> tuple[State, dict[str, Any]]:
    """The state of all shards as one, and the meta of the step. `room`: where a block may be put, by path."""
    state: State = {}
    for path in sorted({path for _, part, _ in parts for path in part}):
        blocks = [part[path] for _, part, _ in parts if path in part]
        data = _joined([block.data for block in blocks], room[path].data if path in room else None)
        shape = next((meta["shapes"][path] for _, _, meta in parts if path in meta["shapes"]), None)
        state[path] = Block(data.reshape(shape) if shape else data, blocks[0].columns)
    meta = dict(parts[0][2])
    if "mark" in meta:
        marks = [part["mark"] for _, _, part in parts]
        meta["position"] = streams.merged(marks, meta["clock"][1], float(meta["label"])).dump()
    if "live" in meta:
        live = together([part["live"] for _, _, part in parts], meta["began"])
        meta["position"] = streams.Position(order=meta["clock"][1], label=float(meta["label"]), live=live).dump()
    return state, meta | {"ranks": shards}


def digest(state: Mapping[str, Block]) -> int:
    """crc32c of names and rows, by name; in pieces that stay in the cache."""
    crc = 0
    for path, block in sorted(state.items()):
        crc = _native.crc32c(path.encode(), crc)
        data = block.data if block.data.ndim else block.data[None]
        for low in range(0, len(data), DIGEST_ROWS):
            rows = packed(data[low : low + DIGEST_ROWS])
            crc = _native.crc32c(rows.reshape(-1).view(np.uint8), crc)
    return crc


def removed(folders: Sequence[Path]) -> None:
    """Deletes folders, as far as they can be."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
