"""`python -m bench NAME [--json] [--case GLOB] [--long] [--seconds S] [--data DIR]`, `python -m bench peers`."""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.machine import machine
from bench.peers import install
from bench.registry import BENCHES, Setting, rows
from bench.row import table_head, table_line


def options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("name", choices=[*BENCHES, "peers"], help="which bench to run; `peers` installs the baselines")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: the machine, then the rows")
    parser.add_argument("--case", default="*", metavar="GLOB", help="only the cases whose name matches")
    parser.add_argument("--long", action="store_true", help="full sizes and many rounds")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="most time for one comparison")
    parser.add_argument("--data", type=Path, metavar="DIR", help="real data (default $ENGINE_DATA, ../shared/data)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: the codec's kernels on a GPU")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 where a case failed (not where a peer or a data set is absent)."""
    asked = options(argv)
    if asked.name == "peers":
        return install.main()
    seconds = asked.seconds * 5 if asked.long else asked.seconds
    setting = Setting(seconds, 31 if asked.long else 7, asked.long, asked.data, asked.device)
    found = machine()
    print(json.dumps({"machine": found}) if asked.json else "  ".join(f"{k}={v}" for k, v in found.items()))
    if not asked.json:
        print(table_head())
    failed = False
    for made in rows(asked.name, "cuda" if asked.device == "cuda" else asked.case, setting):
        failed |= bool(made.get("failed"))
        print(json.dumps(made) if asked.json else table_line(made), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
