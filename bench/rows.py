"""Blocks of rows: a sensor series column by column, against blosc2's zstd behind its shuffle on the same columns."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.registry import Setting, case
from bench.row import Row, row
from bench.timing import paired
from engine.codec import rows
from engine.types import Array

BLOCK = 1 << 16


def sensor(n: int, seed: int = 5) -> dict[str, Array]:
    """A plant logged every 100 ms: clock with jitter (int64 us), temperatures and a pressure to two and three decimals,
    a vibration sensor's raw counts, a flow computed in float32 (no decimals), a state that seldom changes."""
    draw = np.random.default_rng(seed)
    drift = np.cumsum(draw.standard_normal((n, 4)) * 0.004, axis=0) + 0.02 * draw.standard_normal((n, 4))
    wave = np.sin(np.arange(n)[:, None] * 0.003 + np.arange(4))
    return {
        "time": 1_700_000_000_000_000 + 100_000 * np.arange(n) + draw.integers(-40, 40, n),
        "temperature": np.round(21 + 5 * wave + drift, 2).astype(np.float32),
        "pressure": np.round(101.325 + 0.1 * wave[:, 0] + 0.1 * drift[:, 1], 3),
        "vibration": (2000 * wave[:, 1] + 30 * draw.standard_normal(n)).astype(np.int32),
        "flow": (3 + wave[:, 2] + 0.01 * drift[:, 0]).astype(np.float32),
        "state": np.cumsum(draw.random(n) < 0.001).astype(np.int64) % 5,
    }


@case("rows", "rows.sensor")
def rows_sensor(setting: Setting) -> Iterator[Row]:
    """A block of 65536 rows: encode time and size against blosc2 (zstd level 1, SHUFFLE, each column by itself), decode."""
    columns = sensor(BLOCK)
    raw = sum(data.nbytes for data in columns.values())

    def theirs() -> list[bytes]:
        return [compress(np.ascontiguousarray(column)) for data in columns.values() for column in data.reshape(BLOCK, -1).T]

    frame, packed = rows.rows_encode(columns), theirs()
    size = len(frame) / sum(map(len, packed))
    for name, bound in (("rows.sensor", 0.0), ("rows.sensor.bound", 0.005)):
        frame = rows.rows_encode(columns, bound=bound)
        size = len(frame) / sum(map(len, packed))
        pair = paired(lambda bound=bound: rows.rows_encode(columns, bound=bound), theirs, setting.rounds, setting.seconds / 3)
        yield row(name, pair.ours.median(), "s", "blosc2-zstd", pair.theirs.median(), pair.ratio(), pair.spread(),
                  {"size_ratio": "<= 1.0", "ratio": "<= 0.5"}, size_ratio=size, shrink=raw / len(frame))
    frame = rows.rows_encode(columns)
    pair = paired(lambda: rows.rows_decode(frame), lambda: [decompress(part) for part in packed], setting.rounds, setting.seconds / 3)
    yield row("rows.sensor.decode", pair.ours.median(), "s", "blosc2-zstd", pair.theirs.median(), pair.ratio(), pair.spread())


def compress(column: Array) -> bytes:
    import blosc2

    packed: bytes = blosc2.compress2(
        column, codec=blosc2.Codec.ZSTD, clevel=1, typesize=column.itemsize, filters=[blosc2.Filter.SHUFFLE],
        filters_meta=[0], nthreads=1)
    return packed


def decompress(part: bytes) -> bytes:
    import blosc2

    found: bytes = blosc2.decompress2(part, nthreads=1)
    return found
