"""Text sources: readers together read the whole once, skip drops, policies count, real files parse."""

import os
from pathlib import Path

import numpy as np
import pytest

from engine.errors import DataError
from engine.kernels.plain.parse import text_hash
from engine.source.read import open_source
from engine.types import Batch, join

DATA = Path(os.environ.get("ENGINE_DATA") or Path(__file__).parents[3] / "shared" / "data")


def read(spec: Path | str, **options: object) -> Batch:
    source = open_source(str(spec), **options)  # type: ignore[arg-type]
    return join([b for p in range(source.pieces or 0) for b in source.read(p)])


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("piece_bytes", [5, 64, 1 << 20])
def test_readers_share_the_whole_and_skip_drops(tmp_path: Path, size: int, piece_bytes: int) -> None:
    for part in range(3):
        rows = "".join(f"{part * 100 + i},{i % 2}\n" for i in range(20))
        (tmp_path / f"part{part}.csv").write_text("a,y\n" + rows)
    source = open_source(str(tmp_path), piece_bytes=piece_bytes)
    found: list[float] = []
    for rank in range(size):
        for piece in range(source.pieces or 0):
            if source.reader(piece, size) == rank:
                rows_of = [v for b in source.read(piece) for v in b.x[:, 0].tolist()]
                found += rows_of
                assert [v for b in source.read(piece, 3) for v in b.x[:, 0].tolist()] == rows_of[3:]
    assert sorted(found) == [part * 100 + i for part in range(3) for i in range(20)]


def test_text_labels_and_hashed_categories(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('colour,size,y\nred,1,no\n"blue",2,yes\nred,3,no\n')
    source = open_source(str(path))
    assert source.schema.labels == ("no", "yes") and source.schema.sparse
    rows = next(source.read(0))
    assert rows.y.tolist() == [0, 1, 0] and rows.keys is not None and rows.indptr is not None
    red = text_hash(b"red", text_hash(b"colour")) & (1 << 18) - 1
    assert red in rows.keys[:2] and red not in rows.keys[2:4] and red in rows.keys[4:]
    path.write_text(path.read_text() + "red,4,maybe\n")
    with pytest.raises(DataError, match="unknown label"):
        read(path, labels=["no", "yes"])


@pytest.mark.parametrize(("missing", "want"), [("zero", [1, 0, 3]), ("nan", [1, np.nan, 3]), ("error", [1, 3])])
def test_missing_values(tmp_path: Path, missing: str, want: list[float]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,y\n1,0\n?,1\n3,1\n")
    rows = read(path, missing=missing, numeric=["a"], on_bad_rows="skip")
    np.testing.assert_array_equal(rows.x[:, 0], want)


@pytest.mark.parametrize("policy", ["error", "skip", "count"])
def test_bad_rows(tmp_path: Path, policy: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,y\n1,2,0\n1,1\n1,2,3,4\n5,6,1\n")
    source = open_source(str(path), on_bad_rows=policy)
    if policy == "error":
        with pytest.raises(DataError, match="too few"):
            list(source.read(0))
        return
    assert sum(map(len, source.read(0))) == 2
    assert source.stats["bad"] == 2 and len(source.stats["examples"]) == 2
    assert bool(source.events) == (policy == "count")


def test_other_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,y\n1,0\n2,1\n")
    (tmp_path / "b.csv").write_text("b,y\n1,0\n2,1\n")
    with pytest.raises(DataError, match="header") as caught:
        read(tmp_path)
    assert "b.csv:1" in caught.value.where


@pytest.mark.parametrize(
    ("name", "rows", "width"),
    [("electricity.csv", 45312, 8), ("sea.csv", 0, 3), ("a9a.libsvm", 32561, None), ("covertype10k.csv", 0, None)],
)
def test_real_files(name: str, rows: int, width: int | None) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    source = open_source(str(path), piece_bytes=1 << 17)
    found = join([b for p in range(source.pieces or 0) for b in source.read(p)])
    assert len(found) == rows if rows else len(found) > 1000
    assert source.schema.width == width if width and not source.schema.sparse else source.schema.width > 1
    assert not np.isnan(found.y).any() and source.stats["bad"] == 0
