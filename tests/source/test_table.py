"""Table files: each row once over the pieces, columns chosen, rows filtered, remote by URL, mistakes named."""
import numpy as np
import pytest

from engine.errors import ConfigError, DataError
from engine.source.read import open_source

N = 700
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3)).astype(np.float32)
Y = RNG.integers(0, 3, N)


def all_of(source):
    found = [batch for piece in range(source.pieces) for batch in source.read(piece)]
    return np.concatenate([b.x for b in found]), np.concatenate([b.y for b in found])


@pytest.fixture
def table():
    arrow = pytest.importorskip("pyarrow")
    words = {"word": [f"w{i % 5}" for i in range(N)], "y": [f"k{v}" for v in Y]}
    return arrow.table({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], **words})


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_row_groups_are_pieces_and_each_row_comes_once(tmp_path, table, suffix):
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=100)
    else:
        ipc = pytest.importorskip("pyarrow.ipc")
        with ipc.new_file(path, table.schema) as out:
            out.write_table(table, max_chunksize=100)
    source = open_source(str(path), target="y")
    assert source.pieces == 7 and source.schema.labels == ("k0", "k1", "k2") and source.schema.columns == ("a", "b", "c")
    x, y = all_of(source)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(next(source.read(2, 30)).x, X[230:300])
    kept = open_source(str(path), target="y", columns=("c", "a"), where="a>0.5&b<=0.2")
    x, y = all_of(kept)
    mask = (X[:, 0] > 0.5) & (X[:, 1] <= 0.2)
    np.testing.assert_array_equal(x, X[mask][:, [2, 0]])
    np.testing.assert_array_equal(y, Y[mask])
    again = open_source(str(path), target="y", plan=source.plan)
    assert again.schema == source.schema


def test_columns_of_words_give_the_rows_of_the_same_csv(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    sites = [None if i % 11 == 0 else f" s\u00fc{i % 7} " if i % 5 else "NA" for i in range(N)]
    held = arrow.table({"site": sites, "a": X[:, 0].tolist(), "code": (Y * 7).tolist(), "note": ["x"] * N, "y": Y.tolist()})
    pytest.importorskip("pyarrow.parquet").write_table(held, tmp_path / "rows.parquet", row_group_size=300)
    pytest.importorskip("pyarrow.csv").write_csv(held.drop_columns("note"), tmp_path / "rows.csv")
    asked = {"target": "y", "categorical": ("code", "site"), "task": "multiclass", "labels": ("0", "1", "2"), "hash_bits": 12}
    mine, theirs = (open_source(str(tmp_path / name), **asked) for name in ("rows.parquet", "rows.csv"))
    assert mine.schema == theirs.schema and mine.left_out == ("note",) and mine.pieces == 3
    both = []
    for source in (mine, theirs):
        found = [batch for piece in range(source.pieces) for batch in source.read(piece)]
        entries = [(b.keys[lo:hi].tolist(), b.values[lo:hi].tolist())
                   for b in found for lo, hi in zip(b.indptr[:-1], b.indptr[1:], strict=True)]
        both.append((entries, np.concatenate([b.y for b in found]).tolist()))
    for row, (ours, same) in enumerate(zip(*(found[0] for found in both), strict=True)):
        assert ours == same, (row, sites[row])
    assert both[0][1] == both[1][1]
    with pytest.raises(ConfigError, match="nope"):
        open_source(str(tmp_path / "rows.parquet"), target="y", categorical=("nope",))


def test_array_files_are_read_in_slabs(tmp_path, monkeypatch):
    h5py, netcdf, zarr = (pytest.importorskip(name) for name in ("h5py", "netCDF4", "zarr"))
    monkeypatch.setattr("engine.source.table.SLAB_ROWS", 256)
    with h5py.File(tmp_path / "rows.h5", "w") as out:
        out["x"], out["label"] = X, Y
    with netcdf.Dataset(tmp_path / "rows.nc", "w") as out:
        out.createDimension("n", N), out.createDimension("d", 3)
        out.createVariable("x", "f4", ("n", "d"))[:] = X
        out.createVariable("label", "i8", ("n",))[:] = Y
    group = zarr.open_group(str(tmp_path / "rows.zarr"), mode="w")
    for name, data in (("x", X), ("label", Y)):
        group.create_array(name, data=data)
    for name in ("rows.h5", "rows.nc", "rows.zarr"):
        source = open_source(f"{tmp_path / name}?y=label")
        x, y = all_of(source)
        assert source.pieces == 3
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(y, Y)


def test_remote_files_by_url(tmp_path, table):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    with memory.open("/rows.parquet", "wb") as out:
        pytest.importorskip("pyarrow.parquet").write_table(table, out, row_group_size=300)
    np.testing.assert_array_equal(all_of(open_source("memory://rows.parquet", target="y"))[0], X)
    with memory.open("/rows.csv", "wb") as out:
        out.write(b"a,y\n" + b"".join(b"%d,%d\n" % (i, i % 2) for i in range(50)))
    x, y = all_of(open_source("memory://rows.csv"))
    assert x[:, 0].tolist() == list(range(50)) and y.tolist() == [i % 2 for i in range(50)]


def test_mistakes_are_named(tmp_path, table):
    path = tmp_path / "rows.parquet"
    write = pytest.importorskip("pyarrow.parquet").write_table
    write(table, path)
    with pytest.raises(ConfigError, match="expected columns"):
        open_source(str(path), target="nope")
    with pytest.raises(ConfigError, match=r"data\.where"):
        open_source(str(path), target="y", where="a?3")
    with pytest.raises(DataError, match="unknown label"):
        all_of(open_source(str(path), target="y", labels=("k0", "k1")))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="whole Parquet"):
        open_source(str(path), target="y")
