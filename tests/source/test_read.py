"""Pieces of any size give the rows of one piece, gzip gives the plain file's rows, and numbers are float()'s."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DataError
from engine.source.read import open_source
from engine.types import Batch, join


def whole(path: Path, **options: object) -> Batch:
    source = open_source(str(path), **options)  # type: ignore[arg-type]
    return join([b for p in range(source.pieces or 0) for b in source.read(p)])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30), st.integers(1, 90)
)
def test_pieces_and_numbers(tmp_path_factory: pytest.TempPathFactory, numbers: list[float], piece_bytes: int) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text("a,b\n" + "\r\n".join(f"{v!r},{i + 0.5}" for i, v in enumerate(numbers)))
    rows = whole(path, piece_bytes=piece_bytes)
    assert rows.x is not None
    np.testing.assert_array_equal(rows.x[:, 0], np.array(numbers, np.float32))
    packed = path.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(whole(packed, piece_bytes=piece_bytes).y, rows.y)


def test_bad_row_is_named_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("a,b,y\n1,2,0\n1,,1\n1,1\n1,x,0\n1,1e400,1\n")
    with pytest.raises(DataError, match="too few") as caught:
        whole(path, numeric=["b"])
    assert f"{path}:4" in caught.value.where
    source = open_source(str(path), on_bad_rows="skip", missing="nan", numeric=["b"], target="y")
    rows = next(source.read(0))
    assert rows.x is not None and len(rows) == 2 and math.isnan(rows.x[1, 1])
    assert source.stats["reasons"] == {"too few columns": 1, "not a number": 1, "not finite": 1}


def test_missing_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    for name in ("none.csv", "empty.csv"):
        with pytest.raises(DataError):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize("skip", [0, 1, 2, 3])
def test_resume(tmp_path: Path, skip: int) -> None:
    path = tmp_path / "c.libsvm"
    path.write_text("-1 1:1 3:2\n+1 2:1\n-1 7:0.5 # note\n")
    batches = list(open_source(str(path)).read(0, skip))
    assert sum(map(len, batches)) == 3 - skip
    assert all(b.order[0] == skip for b in batches)
    assert not batches or batches[0].y.tolist() == [0, 1, 0][skip:]
