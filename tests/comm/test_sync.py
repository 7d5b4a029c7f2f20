"""Exchange of updates: the same bytes on every rank, equal to the plain sum in rank order, by either route."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine.comm import sync
from engine.comm.local import Alone, group
from engine.errors import DataError, PeerError
from engine.types import Update


def plain(updates):
    """Sum in order of the list, key by key, in float32."""
    keys = np.unique(np.concatenate([u.keys for u in updates]))
    values = np.zeros((len(keys), updates[0].values.shape[1]), np.float32)
    for u in updates:
        values[np.searchsorted(keys, u.keys)] += u.values
    return Update(keys.astype(np.uint32), values, sum(u.weight for u in updates))


def drawn(rank, rows):
    rng = np.random.default_rng(rank)
    keys = np.sort(rng.choice(1 << 20, rows, replace=False)).astype(np.uint32)
    return Update(keys, rng.normal(size=(rows, 3)).astype(np.float32), float(rows))


def on_ranks(size, work):
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, group(size, timeout_s=20)))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("rows", [0, 10, 30_000])
def test_both_routes_give_the_plain_sum(size, rows):
    counts = [rows if r % 2 == 0 else rows // 3 for r in range(size)]
    updates = [drawn(r, n) for r, n in enumerate(counts)]
    want = plain(updates)

    def work(link):
        return sync.total(link, updates[link.rank], plain, counts, [u.weight for u in updates])

    for found in on_ranks(size, work):
        assert np.array_equal(found.keys, want.keys)
        assert found.values.tobytes() == want.values.tobytes()
        assert found.weight == want.weight


def test_owners_share_the_work():
    size, rows = 4, 50_000
    counts = [rows] * size
    updates = [drawn(r, rows) for r in range(size)]

    def work(link):
        sync.total(link, updates[link.rank], plain, counts, [1.0] * size)
        return link.sent

    sent = on_ranks(size, work)
    assert max(sent) <= 1.2 * np.mean(sent)


def test_one_rank_fails_all_raise_the_same():
    def work(link):
        error = DataError("row 7 is odd", where="part-3") if link.rank == 1 else None
        with pytest.raises(DataError, match="row 7 is odd"):
            sync.vote(link, [0], error, name="read")
        return True

    assert on_ranks(3, work) == [True] * 3


def test_different_configurations_are_named():
    def work(link):
        with pytest.raises(PeerError, match=r"rank 0 has 'a', rank 2 has 'b'"):
            sync.same(link, "b" if link.rank == 2 else "a", "the configuration")
        with pytest.raises(PeerError, match=r"rank 0 has \{'rate': 1\}, rank 2 has \{'rate': 2\}"):
            sync.same(link, {"rate": 1 + (link.rank == 2), "kind": "linear"}, "the configuration")
        sync.same(link, "same", "the configuration")
        return True

    assert on_ranks(3, work) == [True] * 3


def test_an_absent_rank_is_named_not_waited_for():
    links = group(3, timeout_s=0.5)

    def work(rank):
        with pytest.raises(PeerError, match="absent"):
            links[rank].barrier(name="end")
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, [0, 2])) == [True, True]


def test_ranks_in_different_operations_are_an_error():
    links = group(2, timeout_s=2)

    def work(rank):
        with pytest.raises(PeerError):
            links[rank].barrier(name=f"op {rank}")
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, [0, 1])) == [True, True]


def test_alone_gives_back_copies():
    link, data = Alone(), np.arange(3.0)
    for found in (link.allreduce(data, name="a"), link.allgather(data, name="b")[0], link.vote(data, name="c")[0]):
        assert np.array_equal(found, data)
        assert found is not data


def test_relay_in_process_is_checked_to_pair_up():
    def work(link):
        found = link.relay(np.full(link.rank, link.rank), target=(link.rank + 1) % 3, source=(link.rank - 1) % 3, name="ring")
        return found.tolist()

    assert on_ranks(3, work) == [[2, 2], [], [1]]
    with pytest.raises(PeerError, match="expected to"):
        on_ranks(3, lambda link: link.relay(np.zeros(1), target=0, source=0, name="all to 0"))
