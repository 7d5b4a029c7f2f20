"""Native text parsers: all instruction sets agree on any dirt, numbers are float()'s, rows are the definition's."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.kernels import _native
from engine.kernels.plain.parse import decimal, text_hash

PIECES = [b",", b"\n", b"\r\n", b'"', b'""', b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"1e400", b"1", b"-2.5", b"nan", b" ",
          b"a", b"1:2", b" 3:4", b":", b"#", b"x" * 300, b"0.1", b"+", b"", b"1_0", b"inf", b"?"]
dirt = st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join)
# good lines first, so that what follows meets the parsers that look back, at any place of a region of 8192 bytes
pad = st.integers(0, 40)
before = st.tuples(st.sampled_from([0, 1, 5, 1020, 1365, 2048]), pad).map(lambda p: b"7,8,1\n" * p[0] + b"9" * p[1])
pairs_before = st.tuples(st.sampled_from([0, 1, 5, 744, 1489]), pad).map(lambda p: b"1 3:1 25:1\n" * p[0] + b"1" * p[1])


def csv(data: bytes, kinds: list[int], isa: str = "", lines_only: bool = True) -> list[np.ndarray]:
    """Every output of one call, cut to what it filled: y, x or keys and values, offsets, tally."""
    lines, sparse = data.count(b"\n") + 1, 2 in kinds
    y, at, tally = np.zeros(lines, np.float32), np.zeros(lines, np.int64), np.zeros(8, np.int64)
    x = None if sparse else np.zeros((lines, kinds.count(1)), np.float32)
    room = lines * len(kinds)
    indptr, keys, values = np.zeros(lines + 1, np.int64), np.zeros(room, np.uint32), np.zeros(room, np.float32)
    bad = np.zeros(192, np.int64)
    seeds = np.array([text_hash(b"c%d" % i) for i in range(len(kinds))], np.uint64)
    parts = (indptr, keys, values) if sparse else (None, None, None)
    rows, nnz = _native.parse_csv(
        data, np.array(kinds, np.uint8), seeds, b"", np.zeros(0, np.int64), y, x, *parts, at, bad, tally,
        mask=(1 << 18) - 1, lines_only=lines_only, isa=isa)
    dense = [x[:rows]] if x is not None else [indptr[: rows + 1], keys[:nnz], values[:nnz]]
    return [y[:rows], *dense, at[:rows], bad, tally]


@settings(deadline=None, max_examples=300)
@given(before, dirt, st.sampled_from([[1, 3], [3, 1, 1], [2, 1, 3], [0, 3]]), st.booleans())
def test_csv_is_equal_on_every_isa(head: bytes, data: bytes, kinds: list[int], lines_only: bool) -> None:
    data = head + data
    first, *rest = [csv(data, kinds, isa, lines_only) for isa in _native.isa_runs()]
    for other in rest:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=300)
@given(pairs_before, dirt)
def test_libsvm_is_equal_on_every_isa(head: bytes, data: bytes) -> None:
    data, found = head + data, []
    for isa in _native.isa_runs():
        lines, room = data.count(b"\n") + 1, data.count(b":")
        out = [np.zeros(lines, np.float32), np.zeros(lines + 1, np.int64), np.zeros(room, np.uint32),
               np.zeros(room, np.float32), np.zeros(lines, np.int64), np.zeros(192, np.int64), np.zeros(8, np.int64)]
        rows, nnz, ones = _native.parse_libsvm(data, *out, first=0, isa=isa)
        y, indptr, keys, values, at, bad, tally = out
        kept = [y[:rows], indptr[: rows + 1], keys[:nnz], values[: 0 if ones else nnz], at[:rows]]
        found.append([np.array([rows, nnz, ones]), *kept, bad, tally])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=500)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-3e38, max_value=3e38))
@example(5e-324)
@example(1.401298464324817e-45)
@example(16777217.0)
def test_a_number_is_the_nearest_float32_of_its_float(value: float) -> None:
    for isa in _native.isa_runs():
        y, x, *_ = csv(b"0,0\n" * 9 + f"{value!r},{value:.3e}\n".encode(), [1, 3], isa)
        assert x[9, 0] == np.float32(value) and y[9] == np.float32(float(f"{value:.3e}"))


digits = st.tuples(st.sampled_from(["", "-"]), st.text("0123456789", max_size=12), st.sampled_from(["", "."]),
                   st.text("0123456789", max_size=21)).map("".join)


@settings(deadline=None, max_examples=1000)
@given(st.lists(digits, min_size=1, max_size=5))
@example(["16777217", "16777216.9999999", "16777217.0000000001", "1.00000005960464477540", "33554433.000000000"])
@example(["0.1234567890123456789", "-999999999999999999", "9999999999999999999", "18446744073709551616", "."])
def test_decimals_of_any_length_are_floats(texts: list[str]) -> None:
    def meant(text: str) -> float:
        try:
            return decimal(text)
        except ValueError:
            return float("inf")

    want = [float(np.float32(v)) if v == v else None for t in texts if (v := meant(t)) != float("inf")]
    data = b"0,0\n" * 9 + "".join(f"{t},1\n" for t in texts).encode()
    for isa in _native.isa_runs():
        x = csv(data, [1, 3], isa)[1][9:, 0]
        got = [None if np.isnan(v) else float(v) for v in x]
        assert got == want and np.array_equal(np.signbit(x), [t.startswith("-") for t in texts if meant(t) != float("inf")])


def row_of(line: str) -> tuple[float, list[tuple[int, float]]] | None:
    """A line of libsvm text by its definition, keys from 1; None where it is no row."""
    label, *words = line.split()
    try:
        pairs = [word.split(":") for word in words]
        found = [(int(k) - 1, decimal(v)) for k, v in pairs if k.isdigit() and v]
        y = decimal(label)
    except (ValueError, OverflowError):
        return None
    good = len(found) == len(words) and all(k >= 0 and v == v for k, v in found) and y == y
    return (y, found) if good else None


number = st.sampled_from(["1", "0", "-1", "+1", "1.0", "0.5", "-0.25", "2.5e-3", "7", "x", "1e400", "12345678.125"])
pair = st.tuples(st.integers(0, 1 << 20).map(str), number).map(":".join)


@settings(deadline=None, max_examples=300)
@example([("1", ["0:1", "0:0"], ""), ("1", ["0:0"], ""), ("1", ["1:1", "1:0"], "")])
@example([("1", ["0:1", "0:0"], ""), ("1", ["0:0", "1:x"], "\r"), ("1", ["1:1", "2:1"], ""), ("1", ["1:0"], "")])
@given(st.lists(st.tuples(number, st.lists(pair, max_size=9), st.sampled_from(["", " ", "\r"])), max_size=12))
def test_libsvm_rows_are_the_definitions(table: list[tuple[str, list[str], str]]) -> None:
    lines = ["+1 1:1 2:1 3:1"] * 4 + [" ".join([y, *pairs]) + end for y, pairs, end in table]
    want = [row for line in lines if (row := row_of(line)) is not None]
    data = ("\n".join(lines) + "\n").encode()
    rows, room = data.count(b"\n") + 1, data.count(b":")
    for isa in _native.isa_runs():
        y, indptr, at = np.zeros(rows, np.float32), np.zeros(rows + 1, np.int64), np.zeros(rows, np.int64)
        keys, values = np.zeros(room, np.uint32), np.zeros(room, np.float32)
        n, nnz, ones = _native.parse_libsvm(data, y, indptr, keys, values, at, np.zeros(0, np.int64), np.zeros(8, np.int64),
                                            first=1, isa=isa)
        assert y[:n].tolist() == [float(np.float32(label)) for label, _ in want]
        assert keys[:nnz].tolist() == [k for _, pairs in want for k, _ in pairs]
        expected = [float(np.float32(v)) for _, pairs in want for _, v in pairs]
        assert (expected == [1.0] * nnz) if ones else (values[:nnz].tolist() == expected)


field = st.one_of(
    st.floats(width=32).map(repr), st.sampled_from(["", "?", "NA", "1e400", "x", " 7 ", "1_0", "-0", "1e5"])
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(field, min_size=1, max_size=4), max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_rows_are_the_definitions(table: list[list[str]], end: str, closed: bool) -> None:
    text = end.join(",".join(row) for row in table) + end * closed
    want = []
    for line in text.split("\n"):
        cells = line.rstrip("\r").split(",")
        try:
            numbers = [decimal(cell) for cell in cells]
        except (ValueError, OverflowError):
            continue
        if line.strip() and len(cells) == 3:
            want.append(numbers)
    y, x, at, _, _ = csv(text.encode(), [1, 1, 3])
    expected = np.array(want, np.float64).reshape(-1, 3).astype(np.float32)
    np.testing.assert_array_equal(np.column_stack([x, y]), expected)
    assert all(a == 0 or text.encode()[a - 1] == 10 for a in at.tolist())


def test_quotes_hold_delimiters_and_doubled_quotes() -> None:
    plain = csv(b"a,1,0\n", [2, 1, 3])
    quoted = csv(b'"a","1","0"\n', [2, 1, 3])
    np.testing.assert_array_equal(plain[2], quoted[2])
    keys = csv(b'"a,b",1,0\n"a""b",1,0\n', [2, 1, 3])[2].tolist()
    want = [text_hash(t, text_hash(b"c0")) & (1 << 18) - 1 for t in (b"a,b", b'a"b')]
    assert [keys[0], keys[2]] == want


@pytest.mark.long
def test_fuzzed_text_is_parsed_alike_on_every_isa() -> None:
    target = str(Path(__file__).with_name("fuzz_parse.py"))
    done = subprocess.run([sys.executable, target, "15"], text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
