"""Rows laid over rows: any columns of wider rows, any dtype, and nothing else is touched."""
import numpy as np
import pytest
from engine.kernels.rows import lay

from engine.store.differ import packed, put


@pytest.mark.parametrize(("rows", "columns", "of", "dtype"), [
    (0, 3, 4, np.float32), (1, 3, 4, np.float32), (1000, 3, 4, np.float32), (77, 5, 9, np.float64), (33, 1, 2, np.uint8),
    (500, 3, 3, np.float32)])
def test_rows_are_laid_over_rows_and_nothing_else_is_touched(rows, columns, of, dtype):
    rng = np.random.default_rng(rows)
    wide = rng.integers(0, 200, (rows, of)).astype(dtype)
    other = rng.integers(0, 200, (rows, of)).astype(dtype)
    after = other.copy()
    after[:, :columns] = wide[:, :columns]
    assert packed(wide[:, :columns]).flags.c_contiguous and np.array_equal(packed(wide[:, :columns]), wide[:, :columns])
    put(other[:, :columns], wide[:, :columns])
    assert np.array_equal(other, after)
    put(other[:, :columns], packed(wide[:, :columns]))
    assert np.array_equal(other, after)


def test_rows_of_other_shapes_are_refused():
    room = np.zeros((4, 8), np.uint8)
    for of in (np.zeros((3, 8), np.uint8), np.zeros((4, 7), np.uint8), np.zeros((4, 16), np.uint8)[:, ::2]):
        with pytest.raises(ValueError, match=r"lay: \d rows"):
            lay(room, of)
    put(room[:, ::2], np.ones((4, 4), np.uint8))  # numbers of a row apart: as NumPy does it
    assert room.sum() == 16 and packed(room[:, ::2]).all()
