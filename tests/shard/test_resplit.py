"""Any layout to any other, in rounds that stay below the scratch; places beyond 2^31 are computed, not allocated."""
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.comm.local import Alone, group
from engine.errors import ShardError
from engine.shard.resplit import by_columns, by_rows, covered, crossed, resplit, slice_rows, sliced


@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from([1, 2, 3, 5]), rows=st.integers(0, 40), columns=st.integers(1, 12),
       cuts=st.tuples(st.booleans(), st.booleans()),
       ranks=st.tuples(st.integers(1, 5), st.integers(1, 5)), scratch=st.integers(1, 3000),
       kind=st.sampled_from([np.float32, np.int16]))
def test_every_rank_gets_its_box(size, rows, columns, cuts, ranks, scratch, kind):
    whole = np.arange(rows * columns).reshape(rows, columns).astype(kind)
    have, want = ((by_rows, by_columns)[cut](rows, columns, min(n, size), size) for cut, n in zip(cuts, ranks, strict=True))
    links, found, largest = group(size), [None] * size, []

    def act(rank):
        inner = links[rank].alltoall

        def alltoall(parts, *, name):
            came = inner(parts, name=name)
            largest.append(max(sum(p.nbytes for p in parts), sum(p.nbytes for p in came)))
            return came

        links[rank].alltoall = alltoall
        a, b, c, d = have[rank]
        found[rank] = resplit(links[rank], whole[a:b, c:d].copy(), have, want, scratch_bytes=scratch)

    threads = [threading.Thread(target=act, args=(r,)) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for rank, (a, b, c, d) in enumerate(want):
        assert np.array_equal(found[rank], whole[a:b, c:d])
    row = (have[:, 3] - have[:, 2]).sum() * whole.itemsize
    assert max(largest) <= max(scratch / 4, row)


def test_more_than_2_31_elements_are_cut_right():
    rows, columns = 5_000_000_000, 3
    have, want = by_rows(rows, columns, 4, 4), by_columns(rows, columns, 3, 4)
    covered(have, want)
    step = slice_rows(have, 4, 48 << 20)
    assert step * 4 * columns * 4 <= 12 << 20
    last = crossed(sliced(have[3], (rows // 4) // step * step, step), want[1])
    assert last.tolist()[1:] == [rows, 1, 2]


@pytest.mark.parametrize(("shape", "want", "said"), [
    ((3, 2), [[0, 4, 0, 2]], "has 8 elements, of which 6 are held"),
    ((2, 2), [[0, 3, 0, 2]], r"of shape \(3, 2\), found \(2, 2\)")])
def test_boxes_that_do_not_fit_are_named_before_anything_moves(shape, want, said):
    with pytest.raises(ShardError, match=said):
        resplit(Alone(), np.zeros(shape), np.array([[0, 3, 0, 2]]), np.array(want))
