"""What a checkpoint holds, as JSON-ready values."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..codec.frame import numpy_dtype
from ..errors import StoreError
from .checkpoint import Checkpoint, latest, open_checkpoint, steps


def inspect(path: Path | str) -> dict[str, Any]:
    """What a checkpoint, or a directory of them, holds, as JSON-ready values; StoreError where it holds none."""
    path = Path(path)
    if (path / "manifest.json").exists():
        return _describe(open_checkpoint(path))
    if not steps(path):
        raise StoreError(
            "expected a checkpoint or a directory of them, found neither",
            where=str(path),
            fix="give DIR or DIR/step-NNNNNNNNNNNN of a run with --checkpoint DIR",
        )
    found = latest(path)
    assert found is not None
    return _describe(found) | {"steps": steps(path)}


def _describe(checkpoint: Checkpoint) -> dict[str, Any]:
    manifest = checkpoint.manifest
    blocks = {
        path: layout
        | {"size_bytes": numpy_dtype(layout["dtype"]).itemsize * int(np.prod(layout["shape"], dtype=object))}
        for path, layout in manifest["layout"].items()
    }
    parts = [
        {"file": part["file"], "size_bytes": part["size"], "crc32c": f"{part['crc']:08x}"} for part in manifest["parts"]
    ]
    return {
        "path": str(checkpoint.path),
        "step": checkpoint.step,
        "format": manifest["format"],
        "parts": parts,
        "blocks": blocks,
        "base": manifest.get("base"),
        "meta": manifest["meta"],
        "problems": checkpoint.problems,
    }
