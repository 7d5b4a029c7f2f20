"""Streams in: parsers, live sources, pipelines; rows per CPU-second unless a row says otherwise."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import bench.event  # noqa: F401  (its cases are of this bench)
import bench.feeds  # noqa: F401
import bench.moved  # noqa: F401
import bench.text  # noqa: F401
from bench.learn import folder
from bench.peers import Peer, peer
from bench.registry import Setting, case, versus
from bench.row import Row


def written(path: Path, size: int, kind: str) -> int:
    """A CSV file of about `size` bytes with header, 10 numeric columns and a 0/1 label; returns its rows.

    `short`: eight decimals of 4 places and two integers, as sensors and exports have them; `repr`: ten float64 in full.
    """
    draw = np.random.default_rng(3)
    block = 20_000
    x = draw.normal(size=(block, 10)) * 10.0 ** (np.arange(10) / 3)
    form = (lambda v: f"{v:.4f}") if kind == "short" else repr
    columns = [[form(v) for v in x[:, i].tolist()] for i in range(10)]
    if kind == "short":
        columns[3], columns[7] = ([str(v) for v in draw.integers(0, 10**p, block)] for p in (2, 6))
    columns.append([str(v) for v in draw.integers(0, 2, block)])
    text = "".join(",".join(row) + "\n" for row in zip(*columns, strict=True))
    turns = max(1, size // len(text))
    with path.open("w") as out:
        out.write(",".join([*(f"c{i}" for i in range(10)), "y"]) + "\n")
        for _ in range(turns):
            out.write(text)
    return turns * block


def parsed(path: Path, **options: Any) -> int:
    """Rows of a file, read and parsed piece by piece as a job does; opening (finding the schema) is inside."""
    from engine.source.read import open_source

    source, rows = open_source(str(path), **options), 0
    for piece in range(source.pieces or 0):
        rows += sum(len(batch) for batch in source.read(piece))
    source.close()
    return rows


def rated(setting: Setting, name: str, path: Path, n: int, script: str, label: str, bars: dict[str, str],
          options: dict[str, Any], **beside: Any) -> Row:
    def ours() -> int:
        found = parsed(path, **options)
        if found != n:
            raise ValueError(f"{path}: {found} rows of {n}")
        return found

    with peer(script, path=str(path), **beside) as other:
        if isinstance(other, Peer) and other().result["rows"] != n:
            raise ValueError(f"{label} found other rows")
        return versus(setting, name, label, ours, other, work=n, unit="rows/cpu s", clock="cpu", bars=bars,
                      mib=path.stat().st_size >> 20)


@case("source", "csv.parse")
def csv_parse(setting: Setting) -> Iterator[Row]:
    """A CSV file to float32, one thread each side: short decimals, then float64 written in full."""
    size = 1 << 30 if setting.long else 1 << 28
    with folder() as at:
        for kind, name in (("short", "csv.parse"), ("repr", "csv.parse.repr")):
            path = at / f"{kind}.csv"
            n = written(path, size, kind)
            for reader, label, bar in (("arrow", "pyarrow.csv, 1 thread", ">= 1"), ("pandas", "pandas C engine", ">= 3")):
                bars = {"ratio": bar} if kind == "short" else {}
                yield rated(setting, name, path, n, "csvread", label, bars, {"target": "y"}, reader=reader)


@case("source", "libsvm.parse")
def libsvm_parse(setting: Setting) -> Iterator[Row]:
    """a9a ten times over, and sparse rows of decimals."""
    with folder() as at:
        path = at / "many.libsvm"
        text = setting.file("a9a.libsvm").read_bytes().rstrip() + b"\n"
        path.write_bytes(text * 10)
        yield rated(setting, "libsvm.parse", path, 10 * text.count(b"\n"), "svmlight", "sklearn load_svmlight_file",
                    {"ratio": ">= 5"}, {"format": "libsvm"})
        draw, lines = np.random.default_rng(5), []
        for label in draw.integers(0, 2, 20_000).tolist():
            keys = np.sort(draw.choice(100_000, 20, replace=False)).tolist()
            pairs = zip(keys, draw.random(20).tolist(), strict=True)
            lines.append(f"{label} " + " ".join(f"{k + 1}:{v:.5f}" for k, v in pairs))
        path.write_text("".join(f"{line}\n" for line in lines * 5))
        yield rated(setting, "libsvm.parse.decimals", path, len(lines) * 5, "svmlight", "sklearn load_svmlight_file", {},
                    {"format": "libsvm"})


@case("source", "pipeline")
def pipeline_case(setting: Setting) -> Iterator[Row]:
    """Impute, scale, two lags and hashing on 40 columns (10 of categories), each row by what the rows before it taught."""
    from engine.clean.pipeline import open_pipeline
    from engine.types import Batch, Schema

    categories, lags, bits, n = 10, 2, 18, 40_000
    draw = np.random.default_rng(8)
    x = draw.normal(size=(n, 40)).astype(np.float32)
    x[:, :categories] = draw.integers(0, 1000, (n, categories))
    x[draw.random(x.shape) < 0.05] = np.nan
    names = tuple(f"c{i}" for i in range(40))
    numbers = "+".join(names[categories:])
    none = np.full(n, np.nan, np.float32)
    batch = Batch(none, np.arange(n), none, x=x)
    specs = [f"impute?columns={numbers}", f"scale?columns={numbers}", f"lag?k={lags}&columns={numbers}",
             f"hash?bits={bits}&columns={'+'.join(names[:categories])}"]

    def ours() -> int:
        pipeline = open_pipeline(specs, Schema(40, False, "binary", (), names))
        assert pipeline is not None
        return sum(len(pipeline.learn(batch.slice(start, min(n, start + 1000)))) for start in range(0, n, 1000))

    with folder() as at:
        np.savez(at / "x.npz", x=x)
        np.savez(at / "few.npz", x=x[:2000])
        common = {"categories": categories, "lags": lags, "bits": bits}
        for script, label, path, m, bar, more in (
                ("river_pipeline", "river, row by row", "few.npz", 2000, ">= 30", {}),
                ("sklearn_pipeline", "sklearn partial_fit, batches of 1000", "x.npz", n, ">= 3", {"batch": 1000})):
            with peer(script, path=str(at / path), **common, **more) as other:
                def theirs(other: Any = other, m: int = m) -> Any:
                    found = other()
                    return type(found)(found.wall * n / m, found.cpu * n / m, found.result)

                yield versus(setting, "pipeline", label, ours, theirs if isinstance(other, Peer) else other, work=n,
                             unit="rows/cpu s", clock="cpu", bars={"ratio": bar})
