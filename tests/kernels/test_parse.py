"""Native text parsers: all instruction sets agree on any dirt, numbers are float()'s, rows are the definition's."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.kernels import _native
from engine.kernels.plain.parse import decimal, text_hash

PIECES = [b",", b"\n", b"\r\n", b'"', b'""', b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"1e400", b"1", b"-2.5", b"nan", b" ",
          b"a", b"1:2", b" 3:4", b":", b"#", b"x" * 300, b"0.1", b"+", b"", b"1_0", b"inf", b"?"]
dirt = st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join)


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
@given(dirt, st.sampled_from([[1, 3], [3, 1, 1], [2, 1, 3], [0, 3]]), st.booleans())
def test_csv_is_equal_on_every_isa(data: bytes, kinds: list[int], lines_only: bool) -> None:
    first, *rest = [csv(data, kinds, isa, lines_only) for isa in _native.isa_runs()]
    for other in rest:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=300)
@given(dirt)
def test_libsvm_is_equal_on_every_isa(data: bytes) -> None:
    found = []
    for isa in _native.isa_runs():
        lines, room = data.count(b"\n") + 1, data.count(b":")
        out = [np.zeros(lines, np.float32), np.zeros(lines + 1, np.int64), np.zeros(room, np.uint32),
               np.zeros(room, np.float32), np.zeros(lines, np.int64), np.zeros(192, np.int64), np.zeros(8, np.int64)]
        counts = _native.parse_libsvm(data, *out, first=0, isa=isa)
        found.append([np.array(counts), *out])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=500)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-3e38, max_value=3e38))
@example(5e-324)
@example(1.401298464324817e-45)
@example(16777217.0)
def test_a_number_is_the_nearest_float32_of_its_float(value: float) -> None:
    y, x, *_ = csv(f"{value!r},{value:.3e}\n".encode(), [1, 3])
    assert x[0, 0] == np.float32(value) and y[0] == np.float32(float(f"{value:.3e}"))


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
