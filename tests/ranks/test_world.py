"""The Link over real MPI: every operation against its plain meaning; ranks that differ or stay away are named."""
import textwrap
import time

import numpy as np
import pytest

from engine.comm import sync
from engine.errors import PeerError
from engine.types import Update

SIZES = (1, 2, 3, 5)


def part(rank, rows):
    return np.arange(rows * 2, dtype=np.float32).reshape(rows, 2) + 100 * rank


def drawn(rank, rows):
    """A sparse Update; odd ranks have none."""
    rng = np.random.default_rng(rank)
    rows = 0 if rank % 2 else rows
    keys = np.sort(rng.choice(1 << 20, rows, replace=False)).astype(np.uint32)
    return Update(keys, rng.normal(size=(rows, 3)).astype(np.float32), float(rows))


def plain(updates):
    """Sum in order of the list, key by key, in float32."""
    keys = np.unique(np.concatenate([u.keys for u in updates]))
    values = np.zeros((len(keys), 3), np.float32)
    for u in updates:
        values[np.searchsorted(keys, u.keys)] += u.values
    return Update(keys.astype(np.uint32), values, sum(u.weight for u in updates))


@pytest.mark.smoke
@pytest.mark.ranks(*SIZES)
def test_every_operation(size, link):
    me = link.rank
    assert link.size == size
    table = link.vote(np.array([me, 7 * me], np.int64), name="vote")
    assert table.tolist() == [[r, 7 * r] for r in range(size)]

    rows = [(r * 3) % 4 for r in range(size)]
    want = [part(r, n) for r, n in enumerate(rows)]
    for counts in (None, rows):
        found = link.allgather(part(me, rows[me]), counts=counts, name="allgather")
        assert all(np.array_equal(a, b) for a, b in zip(found, want, strict=True))

    parts = [np.full((me + 2 * r) % 3, 10 * me + r, np.int32) for r in range(size)]
    found = link.alltoall(parts, name="alltoall")
    for r in range(size):
        assert found[r].dtype == np.int32
        assert found[r].tolist() == [10 * r + me] * ((r + 2 * me) % 3)
    assert [len(p) for p in link.alltoall([np.empty(0, np.float64)] * size, name="nothing")] == [0] * size

    for shift in range(size):
        found = link.relay(np.arange(me * 50_000, dtype=np.float32), target=(me + shift) % size, source=(me - shift) % size,
                           name="relay")
        assert np.array_equal(found, np.arange((me - shift) % size * 50_000, dtype=np.float32))

    mine = np.array([me, -me, 1.0])
    ranks = np.arange(size)
    assert link.allreduce(mine, name="sum").tolist() == [ranks.sum(), -ranks.sum(), size]
    assert link.allreduce(mine, op="max", name="max").tolist() == [size - 1, 0, 1]
    assert link.allreduce(mine, op="min", name="min").tolist() == [0, 1 - size, 1]

    last = size - 1
    assert link.bcast({"from": me}, root=last, name="bcast") == {"from": last}
    gathered = link.gather(("row", me), root=last, name="gather")
    assert gathered == ([("row", r) for r in range(size)] if me == last else None)
    link.barrier(name="barrier")


@pytest.mark.ranks(*SIZES)
def test_total_is_the_plain_sum_with_empty_ranks(size, link):
    for rows in (0, 50, 9000):
        updates = [drawn(r, rows) for r in range(size)]
        want = plain(updates)
        found = sync.total(link, updates[link.rank], plain, [len(u.keys) for u in updates], [u.weight for u in updates])
        assert np.array_equal(found.keys, want.keys)
        assert found.values.tobytes() == want.values.tobytes()
        assert found.weight == want.weight


@pytest.mark.smoke
@pytest.mark.ranks(2, 3)
def test_ranks_that_disagree_are_named(size, link):
    mine = np.zeros(2, np.float32 if link.rank == 0 else np.float64)
    with pytest.raises(PeerError) as caught:
        link.allgather(mine, name="weights")
    said = str(caught.value)
    assert "rank 0 in weights: float32" in said
    assert "rank 1 in weights: float64" in said
    link.barrier(name="all go on")


@pytest.mark.smoke
@pytest.mark.ranks(2)
def test_one_error_is_raised_on_every_rank(size, link):
    error = PeerError("disk full", where="part 3") if link.rank == 1 else None
    with pytest.raises(PeerError, match="disk full") as caught:
        sync.vote(link, [1.0], error, name="step")
    assert caught.value.where == "part 3"


ABSENT = textwrap.dedent("""
    import os, sys, time
    from engine.comm.world import World, abort
    from engine.errors import PeerError
    link = World(timeout_s=1.0)
    if link.rank == 1:
        time.sleep(30)
    try:
        link.barrier(name="end of step")
    except PeerError as error:
        os.write(1, f"<{error.message}>".encode())
        time.sleep(1)
        abort(75)
""")


@pytest.mark.smoke
def test_a_rank_that_stays_away_is_named(mpirun):
    began = time.monotonic()
    done = mpirun(3, ["-c", ABSENT], timeout_s=60)
    assert time.monotonic() - began < 25
    assert done.returncode != 0
    assert "in 'end of step'" in done.stdout
    assert "for rank 1>" in done.stdout


FAILING = """
    import time
    import pytest

    @pytest.mark.ranks(2)
    def test_one_rank_fails(size):
        from engine.comm.world import World
        link = World(timeout_s=100.0)
        assert link.rank == 0, "rank one is wrong"
        link.barrier(name="never")
"""


def test_a_failing_rank_ends_the_job_with_its_traceback(pytester_tree):
    began = time.monotonic()
    code, out = pytester_tree(FAILING)
    assert time.monotonic() - began < 40
    assert code == 1
    assert "rank 1 failed in call" in out
    assert "rank one is wrong" in out
