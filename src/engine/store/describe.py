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


def told(found: dict[str, Any]) -> list[str]:
    """What `inspect` gave, as lines for people: what is learned, from what, and what lies where."""
    meta = found["meta"]
    config = meta.get("config", {})
    lines = [f"{name:12} {value}" for name, value in (
        ("path", found["path"]),
        ("step", f"{found['step']:,}" + (f" on top of step {found['base']}" if found["base"] else "")),
        ("saved by", f"engine {meta.get('engine', '?')}, {meta.get('ranks', len(found['parts']))} ranks"),
        ("learned", f"{meta['clock'][1]:,} rows in {meta['clock'][0]:,} steps" if "clock" in meta else "?"),
        ("source", config.get("data", {}).get("source", "") or "rows handed over"),
        ("model", f"{config.get('model', {}).get('kind', '?')}, {_task(meta)}"),
        ("size", f"{sum(part['size_bytes'] for part in found['parts']):,} bytes in {len(found['parts'])} parts"),
    )]
    own = [(path, block) for path, block in found["blocks"].items() if not path.startswith(("meter/", "time/"))]
    wide = max((len(path) for path, _ in own), default=0)
    lines.append("blocks")
    lines += [f"  {path:{wide}}  {block['dtype']} {tuple(block['shape'])}  {block['size_bytes']:,} bytes"
              + "".join(f"  {name}" for name, _ in block["columns"]) for path, block in own]
    for head, what in (("meter/", "scores"), ("time/", "ids, held rows, windows")):
        sizes = [block["size_bytes"] for path, block in found["blocks"].items() if path.startswith(head)]
        if sizes:
            lines.append(f"  {head + '*':{wide}}  {len(sizes)} blocks of {what}  {sum(sizes):,} bytes")
    return lines + [f"problem      {problem}" for problem in found["problems"]] + ["(--json gives everything)"]


def _task(meta: dict[str, Any]) -> str:
    if "schema" not in meta:
        return "?"
    width, sparse, task = meta["schema"]
    labels = [str(label) for label in meta.get("labels", [])]
    named = f" ({', '.join(labels[:8])}{', …' * (len(labels) > 8)})" if labels else ""
    return f"{task}{named}, {width:,} {'keys' if sparse else 'columns'}"
