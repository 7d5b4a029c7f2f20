"""Checkpoints: a directory a step, a part file a writer, the manifest last; read by any number of ranks.

    DIR/step-000000001200/part-0000-of-0002.bin   frames of one rank's rows
                          manifest.json           written when every part is synced; its crc closes the checkpoint

Everything is built in DIR/.step-000000001200.tmp and renamed, so a checkpoint is there whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..codec.frame import numpy_dtype
from ..errors import FrameError, StoreError
from ..kernels import _native
from ..types import Array, Block, State
from .atomic import make_dir, move_dir, remove_dir, write_file
from .bulk import file_crc
from .chain import Ranges, grown, overlay, write_delta
from .piece import Pack, Piece, Unpack, frames, read_pieces, saved_bytes
from .record import Record

FORMAT = 1
Range = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What a writer tells the committer: file, size and crc, its pieces, and the layout of each of its blocks.
    Picklable.
    """

    file: str
    size: int
    crc: int
    pieces: tuple[Piece, ...]
    layout: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint; `problems` names each newer one that was refused, and why."""

    path: Path
    step: int
    manifest: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def meta(self) -> dict[str, Any]:
        return self.manifest["meta"]

    @property
    def rows(self) -> dict[str, int]:
        """Global rows of every block."""
        return {path: layout["shape"][0] for path, layout in self.manifest["layout"].items()}


def split(total: int, rank: int, size: int) -> tuple[int, int]:
    """Rows [start, stop) of `total` that rank holds when they are dealt evenly; empty where ranks outnumber rows."""
    return total * rank // size, total * (rank + 1) // size


def step_dir(root: Path | str, step: int) -> Path:
    return Path(root) / f"step-{step:012d}"


def _scratch(root: Path | str, step: int) -> Path:
    return Path(root) / f".step-{step:012d}.tmp"


def save_part(
    root: Path | str,
    step: int,
    rank: int,
    size: int,
    state: Mapping[str, Block],
    ranges: Mapping[str, Range] | None = None,
    *,
    pack: Pack | None = None,
) -> PartInfo:
    """Write this rank's rows of every block; all ranks call it, then one calls `commit` with all the results.

    `ranges[path]` = (start, stop, total) in global rows; a block holds either those rows or all `total` rows.  A path
    that is missing there is a block every rank has whole, and is dealt evenly.  Columns that merge by `none` are not
    saved. `pack(array) -> bytes` compresses a frame.  StoreError where the disk refuses; ValueError where rows and
    range disagree.
    """
    folder = _scratch(root, step)
    make_dir(folder)
    file = f"part-{rank:04d}-of-{size:04d}.bin"
    jobs, layout = [], {}
    for path in sorted(state):
        block = state[path]
        if block.data.ndim == 0:
            raise ValueError(f"checkpoint: block {path} has no rows axis; save it as one row")
        start, stop, total = (ranges or {}).get(path) or (*split(len(block.data), rank, size), len(block.data))
        jobs.append((path, block, start, stop, _rows(path, block, start, stop, total)))
        layout[path] = _layout(block, total)
    pieces: list[Piece] = []
    need = 0 if pack else sum(saved_bytes(block, rows) for _, block, _, _, rows in jobs)
    length, crc = write_file(folder / file, frames(jobs, step, pieces, pack), need=need)
    return PartInfo(file, length, crc, tuple(pieces), layout)


def _rows(path: str, block: Block, start: int, stop: int, total: int) -> Array:
    if not 0 <= start <= stop <= total or len(block.data) not in (total, stop - start):
        raise ValueError(
            f"checkpoint: block {path} has {len(block.data)} rows, "
            f"expected {stop - start} or {total} for [{start}, {stop})"
        )
    return block.data[start:stop] if len(block.data) == total else block.data


def _layout(block: Block, total: int) -> dict[str, Any]:
    return {
        "dtype": block.data.dtype.name,
        "shape": [total, *block.data.shape[1:]],
        "columns": [list(c) for c in block.columns],
        "version": block.version,
    }


def save_delta(root: Path | str, record: Record, ranges: Ranges, layout: Mapping[str, Any], *, small: bool = True) -> PartInfo:
    """Write what changed since the checkpoint of step `record.base`; `layout[path]` describes every block as it now is.
    `small`: row numbers are coded.
    """
    file = f"part-{record.shard:04d}-of-{record.shards:04d}.bin"
    size, crc, _ = write_delta(_scratch(root, record.version), file, record, ranges, small)
    return PartInfo(file, size, crc, (), dict(layout))


def commit(root: Path | str, step: int, parts: Sequence[PartInfo], meta: Mapping[str, Any], *, keep: int = 2,
           base: int | None = None) -> Path:
    """Close the checkpoint: check that the parts hold every row once, write the manifest, rename, remove what is older.

    `meta` is JSON: engine version, rows, cursors, seed, the config that must match under "match".  One rank calls it,
    after all parts are written.  Returns the directory.  StoreError where rows are missing or the disk refuses; then
    the older checkpoints are as they were.
    """
    folder, target = _scratch(root, step), step_dir(root, step)
    layout: dict[str, Any] = {}
    for part in parts:
        for path, shape in part.layout.items():
            if layout.setdefault(path, shape) != shape:
                raise StoreError(f"ranks disagree on block {path}: {layout[path]} and {shape}", where=str(folder))
    if base is None:
        _tile(layout, parts, folder)
    elif (found := problem_of(step_dir(root, base), deep=False)) is not None:
        raise StoreError(f"the checkpoint of step {base} that this one goes on from is damaged: {found}", where=str(folder))
    body = {
        "format": FORMAT,
        "step": step,
        "layout": layout,
        "parts": [asdict(part) | {"layout": None} for part in parts],
        "meta": dict(meta),
    } | ({} if base is None else {"base": base})
    _sweep(folder, {part.file for part in parts})
    write_file(folder / "manifest.json", [_manifest_bytes(body)])
    if target.exists():
        remove_dir(target)
    move_dir(folder, target)
    _prune(Path(root), step, keep)
    return target


def _sweep(folder: Path, files: set[str]) -> None:
    """Remove what a killed attempt at the same step left in the folder, maybe of another number of ranks."""
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink(missing_ok=True)


def _tile(layout: Mapping[str, Any], parts: Sequence[PartInfo], folder: Path) -> None:
    for path, shape in layout.items():
        end = 0
        for start, stop in sorted(
            (p.start, p.stop) for part in parts for p in part.pieces if p.path == path and p.stop > p.start
        ):
            if start != end:
                raise StoreError(
                    f"block {path}: rows expected from {end}, found from {start}",
                    where=str(folder),
                    fix="every row must be saved by exactly one rank",
                )
            end = stop
        if end != shape["shape"][0]:
            raise StoreError(f"block {path}: {shape['shape'][0]} rows expected, {end} saved", where=str(folder))


def _manifest_bytes(body: Mapping[str, Any]) -> bytes:
    """Canonical JSON with its own crc last: there is one way to write it, so any other byte is damage."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return f'{text[:-1]},"~crc32c":"{_native.crc32c(text.encode()):08x}"}}\n'.encode()


def _prune(root: Path, step: int, keep: int) -> None:
    """Keep `step`, the `keep - 1` newest intact before it and any intact after it; remove the others and what kills
    left behind.
    """
    older, needed = 0, bases(root, step)
    for number in reversed(steps(root)):
        folder = step_dir(root, number)
        if number == step:
            continue
        intact = not problem_of(folder, deep=False)
        older += intact and number < step
        if not intact or (number < step and older >= keep and number not in needed):
            remove_dir(folder)
        elif intact:
            needed |= bases(root, number)
    for stale in root.glob(".step-*"):
        remove_dir(stale)


def bases(root: Path | str, step: int) -> set[int]:
    """Steps of the checkpoints that this one goes on from."""
    found: set[int] = set()
    while (base := manifest_of(step_dir(root, step)).get("base")) is not None and base not in found:
        found.add(base)
        step = base
    return found


def steps(root: Path | str) -> list[int]:
    """Steps with a checkpoint directory, ascending, whatever their condition."""
    names = (path.name[5:] for path in Path(root).glob("step-*"))
    return sorted(int(name) for name in names if name.isdigit() and len(name) == 12)


def latest(root: Path | str, *, deep: bool = True) -> Checkpoint | None:
    """The newest intact checkpoint, None where there is none at all.

    Each damaged one is named in `problems` and passed over.  `deep` reads every byte; else sizes and the manifest are
    checked now and each chunk when it is loaded.  StoreError where there are some and none is intact, or where one
    was written by another format version.
    """
    problems: list[str] = []
    for step in reversed(steps(root)):
        folder = step_dir(root, step)
        found = problem_of(folder, deep=deep)
        if found is None:
            return Checkpoint(folder, step, manifest_of(folder), problems)
        problems.append(f"{folder}: {found}")
    if problems:
        raise _none_intact(root, problems)
    return None


def newest(root: Path | str) -> tuple[State, dict[str, Any], Checkpoint]:
    """Blocks, meta and place of the newest intact checkpoint of a directory, or of the one checkpoint that `root` is; read
    once, every byte verified as it comes. StoreError where there is none.
    """
    root = Path(root)
    problems: list[str] = []
    alone = (root / "manifest.json").exists()
    for folder in [root] if alone else [step_dir(root, step) for step in reversed(steps(root))]:
        found = problem_of(folder, deep=False)
        if found is None:
            manifest = manifest_of(folder)
            checkpoint = Checkpoint(folder, manifest["step"], manifest, problems)
            try:
                return *load(checkpoint), checkpoint
            except StoreError as error:
                found = f"{error.message} ({error.where})"
        problems.append(f"{folder}: {found}")
    if problems:
        raise _none_intact(root, problems)
    raise StoreError("no checkpoint found", where=str(root), fix="give the directory that --checkpoint wrote")


class Unrepairable(StoreError):
    """There are checkpoints, and none is intact."""


def _none_intact(root: Path | str, problems: list[str]) -> Unrepairable:
    return Unrepairable("no checkpoint is intact: " + "; ".join(problems), where=str(root),
                        fix="restore the directory from a copy, or start anew with another directory")


def open_checkpoint(folder: Path | str) -> Checkpoint:
    """The checkpoint in this directory, verified; StoreError says what is wrong with it."""
    folder = Path(folder)
    if (found := problem_of(folder, deep=True)) is not None:
        raise StoreError(f"checkpoint is damaged: {found}", where=str(folder), fix="use the one before it")
    manifest = manifest_of(folder)
    return Checkpoint(folder, manifest["step"], manifest)


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest; FrameError where it is damaged, StoreError where its format is another."""
    raw = (folder / "manifest.json").read_bytes()
    try:
        body = json.loads(raw)
        del body["~crc32c"]
        same = _manifest_bytes(body) == raw
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        same = False
    if not same:
        raise FrameError("manifest.json: checksum is wrong")
    if body.get("format") != FORMAT:
        raise StoreError(
            f"checkpoint format: expected {FORMAT}, found {body.get('format')}",
            where=str(folder),
            fix="read it with the engine version that wrote it: "
            + str(body.get("meta", {}).get("engine", "not recorded")),
        )
    return body


def problem_of(folder: Path, *, deep: bool, alone: bool = False) -> str | None:
    """What is wrong with a checkpoint, or None; `alone`: without those it goes on from."""
    try:
        manifest = manifest_of(folder)
        if step_dir(folder.parent, manifest["step"]).name != folder.name:
            return f"manifest.json is of step {manifest['step']}"
        if (base := manifest.get("base")) is not None and not alone:
            found = "a later one" if base >= manifest["step"] else problem_of(step_dir(folder.parent, base), deep=deep)
            if found is not None:
                return f"it goes on from step {base}: {found}"
        for part in manifest["parts"]:
            path = folder / part["file"]
            size = path.stat().st_size
            if size != part["size"]:
                return f"{part['file']}: expected {part['size']} bytes, found {size}"
            if deep and (crc := file_crc(path)) != part["crc"]:
                return f"{part['file']}: checksum expected {part['crc']:08x}, found {crc:08x}"
    except FrameError as error:
        return error.message
    except OSError as error:
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    except (KeyError, TypeError, AttributeError):
        return "manifest.json: not a manifest of this engine"
    return None


def load(
    checkpoint: Checkpoint,
    *,
    rows: Mapping[str, tuple[int, int]] | None = None,
    match: Mapping[str, Any] | None = None,
    unpack: Unpack | None = None,
) -> tuple[State, dict[str, Any]]:
    """Blocks and meta, on any number of ranks. `rows[path]` = global rows [start, stop) wanted; all of a block not
    named there.

    `match`: config that must equal `meta["match"]`; StoreError names both where it does not.  Every chunk is
    verified; StoreError names the file and byte of a bad one.  `unpack(bytes, size_bytes) -> buffer` undoes `pack`.
    Columns not saved are zero.
    """
    if match is not None:
        check_match(checkpoint.meta, match, str(checkpoint.path))
    manifest = checkpoint.manifest
    if manifest.get("base") is not None:
        return _forward(checkpoint, rows or {}, unpack), checkpoint.meta
    state: State = {}
    wanted: list[tuple[Path, Mapping[str, Any], Block, int]] = []
    for path, layout in manifest["layout"].items():
        total = layout["shape"][0]
        start, stop = (rows or {}).get(path, (0, total))
        if not 0 <= start <= stop <= total:
            raise ValueError(f"checkpoint: block {path} has rows [0, {total}), asked for [{start}, {stop})")
        out = np.zeros([stop - start, *layout["shape"][1:]], numpy_dtype(layout["dtype"]))
        columns = tuple((name, merge) for name, merge in layout["columns"])
        state[path] = Block(out, columns, layout["version"])
        wanted += [(checkpoint.path / part["file"], piece, state[path], start) for part in manifest["parts"]
                   for piece in part["pieces"] if piece["path"] == path]
    read_pieces(wanted, checkpoint.step, unpack)
    return state, checkpoint.meta


def _forward(checkpoint: Checkpoint, rows: Mapping[str, tuple[int, int]], unpack: Unpack | None) -> State:
    """The base's blocks, brought forward by this checkpoint's rows."""
    manifest, folder = checkpoint.manifest, step_dir(checkpoint.path.parent, checkpoint.manifest["base"])
    base = Checkpoint(folder, manifest["base"], manifest_of(folder))
    known = {path: layout["shape"][0] for path, layout in base.manifest["layout"].items()}
    same = {path: at for path, at in rows.items() if known.get(path) == checkpoint.rows[path]}
    state, _ = load(base, rows=same, unpack=unpack)
    state = grown(state, manifest["layout"], rows)
    for part in manifest["parts"]:
        overlay(state, manifest["layout"], checkpoint.path / part["file"], rows, checkpoint.step)
    return state


def check_match(meta: Mapping[str, Any], match: Mapping[str, Any], where: str) -> None:
    """StoreError where what was saved is of another run: names both values of the first key that differs."""
    saved = meta.get("match", {})
    wanted = json.loads(json.dumps(dict(match)))
    for key in sorted({*saved, *wanted}, key=lambda key: (key != "model.kind", key)):  # other options follow from the kind
        if saved.get(key) != wanted.get(key):
            raise StoreError(
                f"checkpoint is of another run: {key} is {saved.get(key)!r} there and {wanted.get(key)!r} here",
                where=where,
                fix=f"set {key} to {saved.get(key)!r}, or give another checkpoint directory",
            )
