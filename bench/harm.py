"""Harm done to what was kept, one harm at a time, and what the engine makes of it: (tried, detected, repaired, silent)."""
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.errors import EngineError
from engine.store import checkpoint as store
from engine.store.heal import heal, mirror_step
from engine.store.keeper import Copy, Keeper
from engine.store.record import Change, Record
from engine.types import Array, Block

Tally = tuple[int, int, int, int]
PAGE = 4096


def state_of(rows: int, seed: int) -> dict[str, Block]:
    rng = np.random.default_rng(seed)
    return {"m": Block(rng.standard_normal((rows, 3), np.float32)), "c": Block(np.arange(4.0))}


def harms(good: bytes, others: list[bytes], flips: int, rng: np.random.Generator) -> Iterator[bytes | None]:
    """The file with one harm each; None = it is gone. `flips` bytes are drawn, all of them where they are no more."""
    places = range(len(good)) if flips >= len(good) else rng.choice(len(good), flips).tolist()
    for at in places:
        yield good[:at] + bytes([good[at] ^ 1 << int(rng.integers(8))]) + good[at + 1 :]
    for end in {0, 1, len(good) // 2, len(good) - 1}:
        yield good[:end]
    for page in range(0, len(good), PAGE):
        part = good[page : page + PAGE]
        for other in (bytes(len(part)), good[: len(part)], *(o[page : page + len(part)] for o in others)):
            if other != part and len(other) == len(part):
                yield good[:page] + other + good[page + PAGE :]
    yield from (other for other in others if other != good)
    yield None


def on_disk(long: bool) -> Tally:
    """A whole checkpoint and an incremental one with a mirror."""
    rng = np.random.default_rng(11)
    tried = detected = repaired = silent = 0
    with tempfile.TemporaryDirectory(prefix="harm ") as name:
        root, mirror = Path(name) / "a", Path(name) / "b"
        rows = 40
        state = state_of(rows, 1)
        store.commit(root, 1, [store.save_part(root, 1, rank, 2, state) for rank in range(2)], {"n": 1}, keep=9)
        keys = np.arange(0, rows, 7, dtype=np.uint32)
        state["m"].data[keys] += 1
        parts = []
        for rank in range(2):
            low, high = store.split(rows, rank, 2)
            mine = keys[(keys >= low) & (keys < high)]
            change = Change("m", (mine - low).astype(np.uint32), state["m"].data[mine], high - low)
            layout = {p: {"dtype": b.data.dtype.name, "shape": list(b.data.shape), "columns": [], "version": 0}
                      for p, b in state.items()}
            parts.append(store.save_delta(root, Record(2, 1, (change,), shard=rank, shards=2), {"m": (low, rows)}, layout))
        store.commit(root, 2, parts, {"n": 2}, keep=9, base=1)
        mirror_step(root, 2, mirror)
        files = sorted(root.glob("step-*/*"))
        contents = {file: file.read_bytes() for file in files}
        for file, good in contents.items():
            flips = len(good) if long or len(good) < 1200 else 300
            for bad in harms(good, [c for f, c in contents.items() if f.name == file.name and f != file], flips, rng):
                file.unlink() if bad is None else file.write_bytes(bad)
                tried += 1
                detected += any(store.problem_of(store.step_dir(root, step), deep=True, alone=True) for step in (1, 2))
                heal(root, mirror)
                healed = file.read_bytes() == good
                repaired += healed
                found = store.latest(root)
                right = found is not None and found.step == 2
                silent += not right or not np.array_equal(store.load(found)[0]["m"].data, state["m"].data)  # type: ignore[arg-type]
                if not healed:
                    file.write_bytes(good)
    return tried, detected, repaired, silent


def in_memory(long: bool) -> Tally:
    """A shard's two images and journal, with a partner's copy: every harm is done to the owner's files."""
    rng = np.random.default_rng(12)
    tried = detected = repaired = silent = 0
    with tempfile.TemporaryDirectory(prefix="harm ", dir="/dev/shm") as name:
        place = Path(name)
        rows = 40_000
        state = state_of(rows, 2)
        keepers = [Keeper(place / "own-000000"), Keeper(place / "copy-000000")]
        first = Record(0, 0, (), {"n": 0}, 1, 0, 0, 1)
        for keeper in keepers:
            keeper.begin({p: Block(b.data.copy()) for p, b in state.items()}, first)
        for step in range(1, 13):
            keys = np.flatnonzero(rng.random(rows) < 0.01).astype(np.uint32)
            state["m"].data[keys] += 1
            record = Record(step, step - 1, (Change("m", keys, state["m"].data[keys], rows),), {"n": step}, 1, step, 0, 1)
            for keeper in keepers:
                keeper.append(record)
                if step in (4, 8):
                    keeper.seal()
        for keeper in keepers:
            keeper.close()
        folder, other = place / "own-000000", place / "copy-000000"
        contents = {file: file.read_bytes() for file in sorted(folder.iterdir())}
        for file, good in contents.items():
            stale = [c for f, c in contents.items() if f != file and f.name[:5] == file.name[:5]]
            flips = {"tip": len(good)}.get(file.name, 3000 if long else 150)
            for bad in drawn(harms(good, stale, flips, rng), 4000 if long else 250, rng):
                file.unlink() if bad is None else file.write_bytes(bad)
                tried += 1
                seen, state_found = judged(folder, other)
                detected += seen
                right = state_found is not None and np.array_equal(state_found, state["m"].data)
                repaired += right
                silent += state_found is not None and not right
                file.write_bytes(good)
    return tried, detected, repaired, silent


def drawn(found: Iterator[bytes | None], limit: int, rng: np.random.Generator) -> Iterator[bytes | None]:
    """All, or a drawn part where they are many."""
    kept = list(found)
    if len(kept) > limit:
        kept = [kept[at] for at in sorted(rng.choice(len(kept), limit, replace=False).tolist())]
    yield from kept


def judged(folder: Path, other: Path) -> tuple[bool, Array | None]:
    """Whether the harm was noticed or without effect on any byte that is used, and the rows of step 12 that were found."""
    own = Copy(folder)
    try:
        state, _ = own.state_at(12, [other])
        return True, state["m"].data
    except EngineError:
        partner = Copy(other)
        state, _ = partner.state_at(12)
        return bool(own.problems), state["m"].data
