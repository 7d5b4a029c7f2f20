"""Rows that change rank, coded or not: a CSV file dealt over two hosts; and rows read again, parsed or from the cache.

Also the program on the ranks: `python -m bench.moved FILE CODEC` prints {"wall": …} of opening, parsing, moving and taking.
"""
from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.learn import folder
from bench.net import hosts, ranks
from bench.registry import Missing, Setting, case, versus
from bench.row import Row, row
from bench.timing import spread


@case("source", "rows.moved")
def rows_moved(setting: Setting) -> Iterator[Row]:
    """Wall-clock of all rows at their owners: data.codec=auto over plain, on links of 100 Mb/s and 1 Gb/s and on loopback."""
    from bench.source import written

    with folder() as at:
        path = at / "rows.csv"
        written(path, 96 << 20, "short")
        for rate in ("100mbit", "1gbit", ""):
            try:
                if rate:
                    with hosts(2, rate) as names:
                        sides = [tuple(ranks(names, (1, 1), "bench.moved", str(path), codec) for codec in ("auto", "plain"))
                                 for _ in range(3)]
                else:
                    sides = [tuple(ranks((), (2,), "bench.moved", str(path), codec) for codec in ("auto", "plain"))
                             for _ in range(7 if setting.long else 5)]
            except Missing as missing:
                yield row(f"rows.moved.{rate}", note=str(missing))
                continue
            ratios = [ours["wall"] / plain["wall"] for ours, plain in sides]
            yield row(f"rows.moved.{rate or 'loopback'}", float(np.median([ours["wall"] for ours, _ in sides])), "s",
                      "data.codec=plain", float(np.median([plain["wall"] for _, plain in sides])), float(np.median(ratios)),
                      spread(ratios), {} if rate else {"ratio": "<= 1.02"}, coded=sides[0][0]["coded"],
                      bytes_ratio=round(sides[0][0]["sent"] / max(sides[0][1]["sent"], 1), 3), link_mb_s=sides[0][0]["rate"])


@case("source", "cache")
def cache(setting: Setting) -> Iterator[Row]:
    """A second pass over CSV, and over text whose n-grams are hashed, from the read cache; the same pass parsed again."""
    from bench.source import written
    from bench.text import written as documents
    from engine.source.cache import Cached
    from engine.source.read import open_source

    with folder() as at:
        table, texts = at / "rows.csv", at / "texts.txt"
        written(table, 64 << 20, "short")
        documents(texts, 20_000)
        words = {"format": "text", "task": "binary", "labels": ("0", "1"), "text": (("text",), (1, 2, 0, 0, 0)), "hash_bits": 20}
        for name, path, options in (("cache.csv", table, {"target": "y"}), ("cache.text", texts, words)):
            plain = open_source(str(path), **options)
            kept = Cached(open_source(str(path), **options), 1 << 30, str(at))

            def passed(source: Any) -> int:
                return sum(len(batch) for piece in range(source.pieces) for batch in source.read(piece))

            n = passed(kept)

            ours, theirs = (lambda source=source, passed=passed: passed(source) for source in (kept, plain))
            yield versus(setting, name, "parsed again", ours, theirs, work=n,
                         unit="rows/cpu s", clock="cpu", mib=path.stat().st_size >> 20, kept_mib=kept.kept_bytes >> 20)
            kept.close()


def main() -> None:
    from engine import job as jobs
    from engine.comm.world import World, start
    from engine.config import resolve

    path, codec = sys.argv[1:]
    link = World(start().COMM_WORLD, timeout_s=120)
    config = resolve(overrides=[f"data.source={path}", "data.target=y", f"data.codec={codec}", "loop.threads=1",
                                "exchange.every=4096"], env={})
    source = jobs.open_agreed(config, link)
    link.barrier(name="begin")
    wall, count = time.perf_counter(), 0
    stream = jobs.stream(config, link, source, None)
    while (batch := stream.take(4096)) is not None:
        count += len(batch)
    link.barrier(name="end")
    wall = time.perf_counter() - wall
    rows = int(link.allreduce(np.array([count]), name="rows")[0])
    if link.rank == 0:
        print(json.dumps({"wall": wall, "rows": rows, "coded": stream.wire.coding, "sent": stream.wire.sent_bytes,
                          "rate": round(stream.wire.rate / 1e6, 1)}), flush=True)


if __name__ == "__main__":
    main()
