"""The stream: every row exactly once, in one global order, on any number of ranks, from any position."""
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine.comm import sync
from engine.comm.local import group
from engine.source.stream import Dealt, Placed, Position, merged, pack, unpack
from engine.types import Batch, Schema

ROWS = 503


class Numbers:
    """Rows 0, 1, 2 … whose label is their number, in pieces of `piece_rows`."""

    schema = Schema(2, False, "regression")

    def __init__(self, rows=ROWS, piece_rows=50, reader=None, fail=None):
        self.rows, self.piece_rows, self.pieces = rows, piece_rows, -(-rows // piece_rows)
        self._reader, self._fail = reader, fail

    def reader(self, piece, size):
        return piece % size if self._reader is None else self._reader(piece, size)

    def read(self, piece, skip=0):
        if piece == self._fail:
            raise OSError(f"piece {piece} is gone")
        place = np.arange(piece * self.piece_rows, min(self.rows, (piece + 1) * self.piece_rows))
        y = place.astype(np.float32)
        previous = y - 1
        previous[:1] = np.nan
        cut = Batch(y, place - piece * self.piece_rows, previous, x=np.stack([y, y], 1))
        half = max(skip, len(y) // 2)
        for a, b in ((skip, half), (half, len(y))):
            yield cut.slice(a, b)

    def close(self):
        pass


def on_ranks(size, work):
    """`work(link)` on a thread per logical rank."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, group(size, timeout_s=20)))


def dealt(size, k, *, stop=None, position=None, source=None):
    """Each rank's batches and final position."""

    def work(link):
        stream = Dealt(source or Numbers(), link, lambda b: ((b.order // k) % size).astype(np.int32), sync.vote, position)
        batches = []
        while (batch := stream.take(k)) is not None:
            batches.append(batch)
            if len(batches) == stop:
                break
        return batches, stream.position.dump()

    return on_ranks(size, work)


def labels(runs):
    return np.sort(np.concatenate([batch.y for batches, _ in runs for batch in batches]))


def check_rows(runs):
    for batches, _ in runs:
        for batch in batches:
            assert (batch.y == batch.order).all()
            later = batch.order > 0
            assert (batch.previous[later] == batch.y[later] - 1).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("k", [1, 7, 64])
def test_each_row_once_and_windows_are_global(size, k):
    runs = dealt(size, k)
    assert (labels(runs) == np.arange(ROWS)).all()
    check_rows(runs)
    for rank, (batches, _) in enumerate(runs):
        for step, batch in enumerate(batches):
            assert (batch.order // (k * size) == step).all()
            assert ((batch.order // k) % size == rank).all()


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("after", [1, 3, 4])
def test_resume_on_any_number_of_ranks(size, after):
    first = dealt(size, 25, stop=after)
    place = first[0][1]
    assert all(json.dumps(p) == json.dumps(place) for _, p in first)
    for other in (size, 1, 4):
        rest = dealt(other, 25, position=Position.parse(json.loads(json.dumps(place))))
        assert (labels(first + rest) == np.arange(ROWS)).all()
        check_rows(rest)


def test_one_reader_for_all():
    runs = dealt(3, 10, source=Numbers(reader=lambda piece, size: 0))
    assert (labels(runs) == np.arange(ROWS)).all()


def test_a_failed_read_is_the_same_error_on_every_rank():
    def work(link):
        stream = Dealt(Numbers(fail=4), link, lambda b: np.zeros(len(b), np.int32), sync.vote)
        with pytest.raises(OSError, match="piece 4 is gone"):
            list(iter(lambda: stream.take(50), None))
        return True

    assert on_ranks(3, work) == [True] * 3


@pytest.mark.parametrize("size", [1, 2, 3])
def test_placed_grid_deals_without_moving(size):
    def work(link):
        stream = Placed(Numbers(piece_rows=10), link, grid=10)
        return list(iter(lambda: stream.take(10), None)), None

    runs = on_ranks(size, work)
    assert (labels(runs) == np.arange(ROWS)).all()
    for rank, (batches, _) in enumerate(runs):
        for batch in batches:
            assert (batch.order == batch.y).all() and ((batch.order // 10) % size == rank).all()


def test_placed_resumes_on_any_number_of_ranks():
    def begin(link):
        stream = Placed(Numbers(), link)
        found = [stream.take(30) for _ in range(1 + link.rank)]
        return found, stream.mark()

    first = on_ranks(2, begin)
    place = merged([mark for _, mark in first], 90, 0.0)

    def rest(link):
        stream = Placed(Numbers(), link, position=Position.parse(json.loads(json.dumps(place.dump()))))
        return list(iter(lambda: stream.take(30), None)), None

    for size in (1, 2, 3):
        assert (labels(first + on_ranks(size, rest)) == np.arange(ROWS)).all()


def test_row_blocks_survive_packing():
    y = np.arange(3, dtype=np.float32)
    order = np.arange(3)
    dense = Batch(y, order, y - 1, x=np.ones((3, 5), np.float32))
    sparse = Batch(y, order, y - 1, indptr=np.array([0, 1, 1, 3]), keys=np.array([7, 8, 9], np.uint32), weight=y)
    for batch in (dense, sparse):
        again = unpack(pack(batch))
        for name in ("y", "order", "previous", "x", "indptr", "keys", "values", "weight"):
            a, b = getattr(batch, name), getattr(again, name)
            assert (a is None) == (b is None)
            assert a is None or (np.array_equal(a, b) and a.shape == b.shape)
