"""Writes the short corpus: valid inputs of every decoder of frame.cpp, and each with a few bytes changed or cut."""

import sys
from pathlib import Path

import numpy as np

from engine.codec.delta import ROW
from engine.codec.frame import numpy_dtype
from engine.kernels import _native

DTYPES = ("int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")


def inputs():
    draw = np.random.default_rng(5)
    for kind, dtype in enumerate(DTYPES):
        for n, share, fast in ((300, 1, False), (300, 1, True), (20_000, 0.05, False), (17_000, 0.9, False)):
            base = np.frombuffer(bytes((i * 197 >> 3) & 255 for i in range(n * 8)), numpy_dtype(dtype))[:n]
            bits = base.view(f"u{base.itemsize}")
            now = (bits + np.where(draw.random(n) < share, draw.integers(0, 50, n), 0).astype(bits.dtype)).astype(bits.dtype)
            out = np.empty(_native.delta_bound(kind, now.nbytes, 65536), np.uint8)
            rows = np.empty(32, np.uint8)
            _native.delta_encode(kind, now.view(np.uint8), base.view(np.uint8).copy(), None, 0, 0, fast, 65536, 0, out, rows)
            row = rows.view(ROW)[0]
            head = bytes([0, 0, 0, kind, (n - 1) >> 8, (n - 1) & 255, int(row["mode"]) & 255, int(row["mode"]) >> 8])
            yield head + out[: row["length"]].tobytes()
        column = np.cumsum(draw.integers(-9, 9, 900)).astype(numpy_dtype(dtype)).view(np.uint8)
        out = np.empty(4 * len(column) + 500, np.uint8)
        yield bytes([5, 899 >> 8, 899 & 255, kind]) + out[: _native.series_encode(kind, column, 0.0, out)].tobytes()
    values = draw.geometric(0.05, 17_000).astype(np.uint32)
    for n in (100, 17_000):
        out = np.empty(_native.class_bound(n), np.uint8)
        yield bytes([1, (n - 1) >> 8, (n - 1) & 255, 0]) + out[: _native.class_encode(values[:n], None, out)].tobytes()
    for share in (0.01, 0.5):
        index = np.flatnonzero(draw.random(70_000) < share).astype(np.uint32)[:60_000]
        for fast in (False, True):
            out = np.empty(_native.index_bound(len(index), 70_000), np.uint8)
            used = _native.index_encode(index, 70_000, out, fast)
            yield bytes([2, (len(index) - 1) >> 8, (len(index) - 1) & 255, 0]) + out[:used].tobytes()
    text = draw.geometric(0.2, 900).astype(np.uint8)
    for which, encode in ((3, _native.huffman_encode), (4, _native.range_encode)):
        out = np.empty(4000, np.uint8)
        yield bytes([which, 899 >> 8, 899 & 255, 0]) + out[: encode(text, out)].tobytes()


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(6)
    for number, good in enumerate(inputs()):
        for isa in range(3):
            first = bytes([good[0] | isa << 6])
            for turn in range(6):
                bad = bytearray(first + good[1:])
                for _ in range(turn):
                    bad[draw.integers(1, len(bad))] = draw.integers(256)
                (folder / f"{number:03}-{isa}-{turn}").write_bytes(bad if turn < 5 else bad[: draw.integers(4, len(bad))])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
