"""`python -m bench.compare old.json new.json`: how each figure moved between two reports."""
from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.row import Row, shown


def report(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """The machine and the rows of a report written with --json."""
    first, *rest = (json.loads(text) for text in path.read_text().splitlines() if text.strip())
    return first["machine"], rest


def quotient(new: float | None, old: float | None) -> float | None:
    return new / old if new is not None and old else None


def changes(old: Iterable[Row], new: Iterable[Row]) -> Iterator[Row]:
    """For each case and baseline of either report: value and ratio, new over old."""
    before = {(made["case"], made["baseline"]): made for made in old}
    for made in new:
        key = made["case"], made["baseline"]
        past = before.pop(key, None)
        if past is None:
            yield {"case": key[0], "baseline": key[1], "note": "only in the new report"}
            continue
        yield {"case": key[0], "baseline": key[1], "unit": made["unit"], "old": past["value"], "new": made["value"],
               "change": quotient(made["value"], past["value"]), "ratio_change": quotient(made["ratio"], past["ratio"])}
    for name, baseline in before:
        yield {"case": name, "baseline": baseline, "note": "only in the old report"}


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print("usage: python -m bench.compare old.json new.json", file=sys.stderr)
        return 64
    (machine_old, old), (machine_new, new) = (report(Path(name)) for name in argv)
    for name in machine_old:
        if machine_old[name] != machine_new.get(name):
            print(f"{name}: {machine_old[name]} -> {machine_new.get(name)}")
    for made in changes(old, new):
        print("  ".join(f"{key}={shown(value)}" for key, value in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
