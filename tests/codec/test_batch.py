"""Rows that change rank: the same rows in either form, coded only where the link makes it pay."""
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec.batch import Wire, coded, decode, encode
from engine.comm.local import group
from engine.errors import FrameError
from engine.source.stream import pack, unpack
from engine.types import Batch

FIELDS = Batch.__slots__


def rows(n, *, sparse=False, weight=False, ones=False, seed=0):
    draw = np.random.default_rng(seed)
    y, order = draw.integers(0, 2, n).astype(np.float32), np.sort(draw.integers(0, 10**9, n))
    more = {"weight": draw.random(n).astype(np.float32), "time": 10**15 + draw.integers(0, 10**9, n),
            "id": draw.integers(0, 1 << 63, n).astype(np.uint64)} if weight else {}
    if not sparse:
        return Batch(y, order, np.roll(y, 1), x=np.round(draw.normal(size=(n, 5)), 2).astype(np.float32), **more)
    indptr = np.concatenate([[0], np.cumsum(draw.integers(0, 6, n))]).astype(np.int64)
    keys = draw.integers(0, 1 << 20, indptr[-1]).astype(np.uint32)
    values = None if ones else draw.random(len(keys)).astype(np.float32)
    return Batch(y, order, np.roll(y, 1), indptr=indptr, keys=keys, values=values, **more)


def same(a, b):
    for name in FIELDS:
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes(), name


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 200), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 99))
def test_decode_is_the_inverse_of_encode(n, sparse, weight, ones, seed):
    batch = rows(n, sparse=sparse, weight=weight, ones=ones, seed=seed)
    batch.y[: n // 4] = np.nan
    assert coded(encode(batch)) and not coded(pack(batch))
    same(decode(encode(batch)), batch)


def test_every_prefix_and_flipped_bit_is_refused():
    data = encode(rows(40, sparse=True))
    for cut in range(8, len(data)):
        with pytest.raises(FrameError):
            decode(data[:cut].copy())
    draw = np.random.default_rng(1)
    for place in draw.integers(8, len(data), 200).tolist():
        harmed = data.copy()
        harmed[place] ^= 1 << int(draw.integers(8))
        try:
            found = decode(harmed)
        except FrameError:
            continue
        same(found, decode(data))  # a bit of the padding


class Slow:
    """A link whose all-to-all takes as long as its bytes at a rate."""

    def __init__(self, link, rate):
        self._link, self._rate, self.size, self.rank = link, rate, link.size, link.rank

    def __getattr__(self, name):
        return getattr(self._link, name)

    def alltoall(self, parts, *, name):
        time.sleep(sum(len(part) for part in parts) / self._rate)
        return self._link.alltoall(parts, name=name)


@pytest.mark.parametrize(("rate", "form", "want"), [(2e6, "auto", True), (1e12, "auto", False), (1e12, "rows", True),
                                                    (2e6, "plain", False)])
def test_rows_arrive_whole_and_are_coded_where_the_link_is_slow(rate, form, want):
    size, turns = 3, 8

    def work(link):
        link, wire, found = Slow(link, rate), Wire(pack, unpack, form), []
        for turn in range(turns):
            parts = [rows(2000 + turn, seed=100 * turn + 10 * link.rank + to) for to in range(size)]
            parts[(link.rank + turn) % size] = None
            found.append(wire.move(link, parts, "rows"))
        return found, wire

    with ThreadPoolExecutor(size) as pool:
        ranks = list(pool.map(work, group(size, timeout_s=30)))
    for to, (found, wire) in enumerate(ranks):
        assert wire.coding == want or (rate == 1e12 and form == "auto" and wire.rate < 2e8)  # a crowded machine is a slow link
        for turn, got in enumerate(found):
            want_rows = [rows(2000 + turn, seed=100 * turn + 10 * source + to) for source in range(size)
                         if to != (source + turn) % size]
            assert len(got) == len(want_rows)
            for batch in want_rows:
                same(next(b for b in got if b.order.tobytes() == batch.order.tobytes()), batch)
