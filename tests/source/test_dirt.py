"""Dirty CSV beside other readers: the rows we keep hold the cells that pandas and pyarrow find there."""
import io

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from engine.kernels.plain.parse import decimal
from engine.source.read import open_source

pandas = pytest.importorskip("pandas")
arrow = pytest.importorskip("pyarrow.csv")

odd = st.sampled_from(["1e400", "-1e400", "1e-400", "", "NA", "?", "-0", ".5", "7."])
number = st.one_of(st.floats(width=32, allow_nan=False).map(repr), st.floats(allow_nan=False).map(repr), odd,
                   st.integers().map(str), st.floats(-1e6, 1e6).map("{:.4f}".format))
cell = st.tuples(number, st.sampled_from(["{}", '"{}"', " {}", "{} "])).map(lambda p: p[1].format(p[0]))
HUGE = "9" * 9000


def rows_of(text: bytes, tmp_path, **options):
    path = tmp_path / "dirt.csv"
    path.write_bytes(text)
    source = open_source(str(path), format="csv", header=False, delimiter=",", target="c2", task="regression",
                         numeric=("c0", "c1"), missing="nan", on_bad_rows="skip", **options)
    found = [batch for piece in range(source.pieces) for batch in source.read(piece)]
    x = np.concatenate([b.x for b in found]) if found else np.empty((0, 2), np.float32)
    y = np.concatenate([b.y for b in found]) if found else np.empty(0, np.float32)
    return np.column_stack([x, y]), source.stats["bad"]


def meant(text):
    """The float32 of a cell, None where it is no finite number."""
    try:
        return np.float32(decimal(text))
    except (ValueError, OverflowError):
        return None


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans(),
       st.booleans())
@example([("1", "2", "3"), (HUGE, "1", "2"), ("4", "5", "6")], "\r\n", True, True)
def test_cells_are_those_of_pandas_and_pyarrow(tmp_path_factory, table, end, mark, closed):
    lines = ["1,2,3"] * 12 + [",".join(row) for row in table]
    text = end.join(lines).encode() + end.encode() * closed
    found, bad = rows_of(b"\xef\xbb\xbf" * mark + text, tmp_path_factory.mktemp("dirt"), piece_bytes=4096)
    read = pandas.read_csv(io.BytesIO(text), header=None, dtype=str, keep_default_na=False, skipinitialspace=True, engine="c")
    cells = read.to_numpy().tolist()
    wide = arrow.read_csv(io.BytesIO(text), read_options=arrow.ReadOptions(autogenerate_column_names=True),
                          convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(("f0", "f1", "f2"), "string"),
                                                               strings_can_be_null=False))
    if '" ' not in text.decode() and ' "' not in text.decode():  # pyarrow takes a quote after a blank for text
        theirs = np.array([wide[name].to_pylist() for name in wide.column_names]).T.tolist()
        assert [[c.strip() for c in row] for row in theirs] == [[c.strip() for c in row] for row in cells]
    want = [[meant(c) for c in row] for row in cells]
    good = [row for row in want if None not in row]
    np.testing.assert_array_equal(found, np.array(good, np.float32).reshape(-1, 3))
    assert bad == len(want) - len(good)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=40))
def test_any_bytes_in_a_row_cost_that_row_alone(tmp_path_factory, junk):
    assume(b"\n" not in junk and b'"' not in junk and junk.strip(b"\r"))
    text = b"1,2,3\n" * 20 + junk + b"\n" + b"4,5,6\n" * 20
    found, bad = rows_of(text, tmp_path_factory.mktemp("dirt"))
    assert bad + len(found) == 41
    assert bad == 1 or len(found) == 41
    np.testing.assert_array_equal(found[-20:], np.tile(np.float32([4, 5, 6]), (20, 1)))


@pytest.mark.parametrize("line", [b"1,2,3,", b"1,2", b"1,\0,3", b"1,\xff\xfe,3", b"1e400,2,3", b'"1,2,3', b'"1"x,2,3',
                                  b"1,2,3\0"])
def test_a_bad_row_is_counted_and_the_next_kept(tmp_path, line):
    found, bad = rows_of(b"1,2,3\n" * 20 + line + b"\n7,8,9\n", tmp_path)
    assert bad == 1 and found[-1].tolist() == [7, 8, 9] and len(found) == 21
