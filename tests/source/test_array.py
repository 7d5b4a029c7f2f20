"""Arrays from npy and npz files, dense and CSR, gzip or not; what is wrong with a file is said."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from engine.errors import DataError
from engine.source.read import open_source
from engine.types import Batch, join

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([0, 1, 1, 0, 1, 0], np.float32)


def whole(path: Path) -> Batch:
    source = open_source(str(path), piece_rows=4)
    assert source.pieces is not None and source.plan is None and not source.streamed(0)
    return join([b for p in range(source.pieces) for b in source.read(p)])


@pytest.mark.parametrize("packed", [False, True])
def test_dense_and_csr(tmp_path: Path, packed: bool) -> None:
    np.save(tmp_path / "a.npy", np.column_stack([X, Y]))
    np.savez(tmp_path / "b.npz", x=X, y=Y)
    np.savez(tmp_path / "c.npz", indptr=np.arange(0, 13, 2), indices=np.tile([0, 1], 6), data=X.ravel(), y=Y)
    for name in ("a.npy", "b.npz", "c.npz"):
        path = tmp_path / name
        if packed:
            path = tmp_path / f"{name}.gz"
            path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        rows = whole(path)
        np.testing.assert_array_equal(rows.y, Y)
        found = rows.values if rows.sparse else rows.x
        assert found is not None
        np.testing.assert_array_equal(found.ravel(), X.ravel())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": X, "b": Y}, "found a, b"),
        ({"x": X, "y": Y[:3]}, "y: expected"),
        ({"indptr": np.array([0, 9]), "keys": np.array([1]), "y": Y[:1]}, "indptr: expected"),
        ({"indptr": np.array([0, 1]), "keys": np.array([-1]), "y": Y[:1]}, "keys: expected"),
        ({"x": X, "y": np.array(list("abcdef"))}, "y: expected numbers"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=said):
        open_source(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.npz.gz", "a.npy.gz"])
@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00"])
def test_damaged_files_are_data_errors(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path / name))
    assert name in caught.value.where
