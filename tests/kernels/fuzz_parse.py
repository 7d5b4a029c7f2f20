"""A fuzz target: random edits of good text through the parsers of every instruction set, which must agree byte for byte.

    python tests/kernels/fuzz_parse.py [SECONDS] [SEED]

Under ENGINE_SANITIZE=1 (see docs/develop.md) a read or write outside the buffers ends it. Prints the input that failed.
"""
import random
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_parse import PIECES, csv

from engine.kernels import _native

KINDS = ([1, 3], [3, 1, 1], [2, 1, 3], [0, 3], [1] * 7 + [3])


def libsvm(data, isa):
    lines, room = data.count(b"\n") + 1, data.count(b":")
    out = [np.zeros(lines, np.float32), np.zeros(lines + 1, np.int64), np.zeros(room, np.uint32),
           np.zeros(room, np.float32), np.zeros(lines, np.int64), np.zeros(192, np.int64), np.zeros(8, np.int64)]
    rows, nnz, ones = _native.parse_libsvm(data, *out, first=0, isa=isa)
    y, indptr, keys, values, at, bad, tally = out
    kept = [y[:rows], indptr[: rows + 1], keys[:nnz], values[: 0 if ones else nnz], at[:rows]]
    return [np.array([rows, nnz, ones]), *kept, bad, tally]


def made(draw):
    """Some good lines, cut, doubled and mixed with dirt."""
    number = [lambda: f"{draw.uniform(-9, 9):.{draw.randrange(20)}f}", lambda: repr(draw.gauss(0, 1e3)),
              lambda: str(draw.randrange(10**9))]
    if draw.random() < 0.5:
        line = lambda: ",".join(draw.choice(number)() for _ in range(draw.randrange(1, 9)))  # noqa: E731
    else:
        line = lambda: _pairs(draw, number)  # noqa: E731
    text = bytearray("\n".join(line() for _ in range(draw.randrange(1, 400))).encode())
    for _ in range(draw.randrange(12)):
        at = draw.randrange(len(text) + 1)
        text[at : at + draw.randrange(3)] = draw.choice(PIECES)
    return bytes(text)


def _pairs(draw, number):
    words = [draw.choice(["1", "-1", "+1", "0.5"])]
    for _ in range(draw.randrange(20)):
        words.append(f"{draw.randrange(10 ** draw.randrange(1, 10))}:{draw.choice(number)() if draw.random() < 0.2 else 1}")
    return " ".join(words)


def check(data, kinds, lines_only):
    for parse in (lambda isa: csv(data, kinds, isa, lines_only), lambda isa: libsvm(data, isa)):
        first, *rest = [parse(isa) for isa in _native.isa_runs()]
        for other in rest:
            for a, b in zip(first, other, strict=True):
                np.testing.assert_array_equal(a, b)


def main(seconds=10.0, seed=0):
    draw, end, rounds = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data, kinds, lines_only = made(draw), draw.choice(KINDS), draw.random() < 0.8
        try:
            check(data, kinds, lines_only)
        except BaseException:
            print(repr(data), kinds, lines_only, file=sys.stderr)
            raise
        rounds += 1
    return rounds


if __name__ == "__main__":
    print(main(*map(float, sys.argv[1:])), "inputs, no difference")
