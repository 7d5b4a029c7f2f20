"""Second destinations: checkpoints copied to a mirror, and damaged or missing files put right from one another.

A file is believed only where its checksum is the manifest's; nothing is overwritten by anything worse. What was found and
what was done is told in full: never silently older, never silently repaired.
"""
from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import EngineError, FrameError, StoreError
from .atomic import make_dir, move_dir, refused, remove_dir, write_file
from .bulk import file_crc
from .checkpoint import bases, manifest_of, problem_of, step_dir, steps
from .piece import CHUNK_BYTES

HEADROOM = 1 << 20


def mirror_step(root: Path | str, step: int, mirror: Path | str) -> None:
    """Copies the checkpoint of `step`, and those it goes on from, to the other directory, whole or not at all; steps that
    are no longer in `root` go there too.
    """
    root, mirror = Path(root), Path(mirror)
    for number in sorted({step, *bases(root, step)}):
        if problem_of(step_dir(mirror, number), deep=False) is not None:
            _copy_step(root, number, mirror)
    for number in set(steps(mirror)) - set(steps(root)):
        remove_dir(step_dir(mirror, number))


def _copy_step(source: Path, step: int, target: Path) -> None:
    folder, scratch = step_dir(source, step), Path(target) / f".step-{step:012d}.mirror"
    remove_dir(scratch)
    make_dir(scratch)
    manifest = manifest_of(folder)
    for part in manifest["parts"]:
        _copy_file(folder / part["file"], scratch / part["file"], part["size"], part["crc"])
    write_file(scratch / "manifest.json", [(folder / "manifest.json").read_bytes()])
    final = step_dir(target, step)
    if final.exists():
        remove_dir(final)
    move_dir(scratch, final)


def _copy_file(source: Path, target: Path, size: int, crc: int) -> None:
    """Copies through bounded memory; StoreError where what was read is not what the manifest says."""
    def read() -> Any:
        with open(source, "rb", buffering=0) as file:
            while data := file.read(CHUNK_BYTES):
                yield data

    try:
        wrote = write_file(target, read(), need=size)
    except FileNotFoundError as error:
        raise refused(error, source, 0) from error
    if wrote != (size, crc):
        target.unlink(missing_ok=True)
        raise StoreError(f"expected {size} bytes with checksum {crc:08x}, found {wrote[0]} with {wrote[1]:08x}",
                         where=str(source), fix="take it from a copy")


def heal(root: Path | str, mirror: Path | str) -> list[str]:
    """Puts right what is damaged or missing in either directory from the other; what was done, a line a file."""
    told: list[str] = []
    places = [Path(root), Path(mirror)]
    for step in sorted({step for place in places for step in steps(place)}):
        good = _good_manifest(places, step)
        if good is None:
            continue
        for here, there in (places, places[::-1]):
            if problem_of(step_dir(here, step), deep=True, alone=True) is None:
                continue
            told += _heal_step(here, there, step, good)
    return told


def _good_manifest(places: list[Path], step: int) -> bytes | None:
    """A manifest of this very step: of a side that is whole, else of any."""
    whole = [place for place in places if problem_of(step_dir(place, step), deep=True, alone=True) is None]
    for place in [*whole, *places]:
        with suppress(EngineError, OSError):
            if manifest_of(step_dir(place, step))["step"] == step:
                return (step_dir(place, step) / "manifest.json").read_bytes()
    return None


def _heal_step(here: Path, there: Path, step: int, manifest: bytes) -> list[str]:
    folder, other, told = step_dir(here, step), step_dir(there, step), []
    make_dir(folder)
    for part in json.loads(manifest)["parts"]:
        path = folder / part["file"]
        if _file_is(path, part["size"], part["crc"]):
            continue
        try:
            _copy_file(other / part["file"], path, part["size"], part["crc"])
            told.append(f"{path}: was damaged or missing and is repaired from {other}")
        except (StoreError, FrameError) as error:
            told.append(f"{path}: is damaged or missing, and so is its copy: {error.message}")
    path = folder / "manifest.json"
    if not path.exists() or path.read_bytes() != manifest:
        write_file(path, [manifest])
        told.append(f"{path}: was damaged or missing and is repaired from {other}")
    return told


def _file_is(path: Path, size: int, crc: int) -> bool:
    try:
        return path.stat().st_size == size and file_crc(path) == crc
    except OSError:
        return False
