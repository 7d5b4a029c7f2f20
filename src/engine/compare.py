"""`engine compare A.toml B.toml …`: several configurations on one stream, one after the other; one table, one picture.

Each runs as `engine train` would, in a run directory of its own below OUT; rank 0 writes OUT/compare.json, compare.html
and compare.svg. Costs are each run's own: seconds of its clock, bytes all ranks sent.
"""
from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config import resolve
from engine.errors import ConfigError, StoreError
from engine.guard import Guard
from engine.watch.log import count, real, size
from engine.watch.page import chart, picture, write_comparison

COLUMNS = ("accuracy", "logloss", "kappa_temporal", "rmse", "mae", "seconds", "bytes_sent", "rows_s")


def compare(files: Sequence[str], words: Sequence[str], guard: Guard, out: str) -> list[dict[str, Any]]:
    """Runs every configuration; the rows of the table, the same on every rank. `words`: settings that hold for all."""
    from engine.train import train

    if len(files) < 2:
        raise ConfigError(f"compare: expected two configurations or more, found {len(files)}",
                          fix="engine compare A.toml B.toml")
    names = named(files)
    folder = Path(out)
    configs = [resolve(path, overrides=[*words, f"run.dir={folder / name}", "run.quiet=true", "checkpoint.dir="])
               for path, name in zip(files, names, strict=True)]
    sources = {config.data.source for config in configs}
    if len(sources) != 1:
        raise ConfigError(f"compare: expected one stream, found {', '.join(sorted(map(repr, sources)))}",
                          fix="name the source on the command line: it holds for all")
    found = []
    for config, name in zip(configs, names, strict=True):
        summary = train(config, guard, title=name)
        found.append({"name": name, **{key: summary[key] for key in (*COLUMNS, "rows", "no_change") if key in summary}})
    if guard.rank == 0:
        write(folder, names, found, configs[0].data.source)
    return found


def named(files: Sequence[str]) -> list[str]:
    """A name a file: its stem, numbered where two are the same."""
    stems = [Path(path).stem for path in files]
    return [stem if stems.count(stem) == 1 else f"{stem}-{i + 1}" for i, stem in enumerate(stems)]


def write(folder: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]], source: str) -> None:
    """The table as JSON and as a page with the picture; the picture alone as SVG."""
    curves = {name: json.loads((folder / name / "curve.json").read_text()) for name in names}
    key = "accuracy" if all("accuracy" in curve for curve in curves.values()) else "rmse"
    x = max((curve["rows"] for curve in curves.values()), key=len)
    at = {name: dict(zip(curve["rows"], curve[key], strict=True)) for name, curve in curves.items()}
    series: dict[str, list[float | None]] = {name: [at[name].get(row) for row in x] for name in names}
    title = f"{'Accuracy' if key == 'accuracy' else 'RMSE'} in a window: {source}"
    events: list[dict[str, Any]] = []
    try:
        for name in names:
            lines = folder / name / "events.jsonl"
            if lines.exists():
                events += [e for e in map(json.loads, lines.read_text().splitlines()) if e["event"] == "drift"]
        (folder / "compare.json").write_text(json.dumps(list(rows)) + "\n")
        (folder / "compare.svg").write_text(picture(title, x, series, events))
        cells = [[row["name"], *(shown(column, row.get(column)) for column in used(rows))] for row in rows]
        write_comparison(folder / "compare.html", title, [["", *used(rows)], *cells], chart(title, x, series, events))
    except OSError as error:
        raise StoreError(f"cannot write the comparison: {error.strerror}", where=str(folder)) from error


def used(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that some row has."""
    return [column for column in COLUMNS if any(column in row for row in rows)]


def shown(column: str, value: Any) -> str:
    """A cell as people read it."""
    if value is None:
        return "-"
    if column == "bytes_sent":
        return size(value)
    return count(value) if column == "rows_s" else f"{value:.2f}" if column == "seconds" else real(value)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as text."""
    lines = [["", *used(rows)], *([row["name"], *(shown(c, row.get(c)) for c in used(rows))] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return os.linesep.join("  ".join(cell.rjust(w) if i else cell.ljust(w)
                                     for i, (cell, w) in enumerate(zip(line, widths, strict=True))) for line in lines)
