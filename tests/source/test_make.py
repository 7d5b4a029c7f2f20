"""Generated rows depend on their number alone; the zipf stream has the rate it promises; bad specs are named."""

import numpy as np
import pytest

from engine.errors import DataError
from engine.source.array import digits
from engine.source.read import open_source
from engine.types import Batch, join

SPECS = ["sea?drift=100", "hyperplane?drift=300", "agrawal?drift=90", "rbf?centres=7", "zipf?keys=12&nnz=5"]


def equal(a: Batch, b: Batch) -> None:
    for name in ("y", "x", "indptr", "keys"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("piece_rows", [1, 7, 64, 5000])
def test_a_row_is_the_same_in_any_piece(spec: str, piece_rows: int) -> None:
    spec = f"make:{spec}{'&' if '?' in spec else '?'}rows=500&seed=3"
    whole = next(open_source(spec, piece_rows=500).read(0))
    assert 0 < whole.y.mean() < 1
    for size in (1, 3):
        found: dict[int, Batch] = {}
        for rank in range(size):
            source = open_source(spec, piece_rows=piece_rows)
            assert source.pieces is not None and source.plan is None and not source.streamed(0)
            for piece in range(source.pieces):
                if source.reader(piece, size) == rank:
                    found[piece] = join(list(source.read(piece)))
        equal(join([found[p] for p in sorted(found)]), whole)


@pytest.mark.parametrize("skip", [0, 1, 63, 64])
def test_skip_drops_rows(skip: int) -> None:
    source = open_source("make:sea?rows=200", piece_rows=64)
    rest = list(source.read(1, skip))
    if skip == 64:
        assert rest == []
        return
    whole = next(open_source("make:sea?rows=200", piece_rows=64).read(1))
    equal(rest[0], whole.slice(skip, 64))
    np.testing.assert_array_equal(rest[0].previous, whole.previous[skip:])
    assert rest[0].order[0] == skip


def test_seeds_differ_and_zipf_has_its_rate() -> None:
    a, b = (next(open_source(f"make:zipf?rows=4096&seed={seed}").read(0)) for seed in (1, 2))
    assert (a.keys != b.keys).mean() > 0.5
    assert 0.2 < a.y.mean() < 0.3 and a.values is None and a.keys is not None
    assert len(np.unique(a.keys)) > 1000 and a.keys.max() < 1 << 24


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("make:see", "mean sea"),
        ("make:sea?drif=3", "mean drift"),
        ("make:sea?rows=x", "rows=100000"),
        ("make:zipf?keys=40", "keys=24"),
        ("demo:digit", "demo:digits"),
    ],
)
def test_bad_specs_are_named(spec: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        open_source(spec)
    assert said in caught.value.fix


def test_digits_arrive_in_class_order() -> None:
    pytest.importorskip("sklearn")
    source = digits("demo:digits", 100)
    rows = join([b for p in range(source.pieces or 0) for b in source.read(p)])
    assert len(rows) == 1797 and source.schema.width == 64 and source.schema.task == "multiclass"
    assert source.schema.labels == tuple("0123456789") and (np.diff(rows.y) >= 0).all()
