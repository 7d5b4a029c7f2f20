"""Dense and compressed allreduce: the plain sum to the stated bound, the same bytes on every rank, any P and length."""
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec import lowrank, quant, sparse  # noqa: F401
from engine.codec.base import codec
from engine.comm import dense, tree  # noqa: F401
from engine.comm.coded import TAG, Coded, Lowrank, Shared
from engine.comm.local import Alone, group
from engine.comm.sparse import Sparse, total
from engine.errors import PeerError

ROUTES = ["ring", "halving", "doubling", "tree", "node"]


def on_ranks(size, work, **options):
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, group(size, timeout_s=20, **options)))


def drawn(rank, n, dtype=np.float32):
    return (np.random.default_rng(rank).normal(size=n) * 8).astype(dtype)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_dense_routes_give_the_plain_sum(route, size):
    nodes = [r // 3 for r in range(size)]

    def work(link):
        found = []
        for n in (0, 1, 2, 7, 1000, 4099):
            mine = drawn(link.rank, n)
            kept = mine.copy()
            found.append(dense.allreduce(link, mine, route=route, name="sum", chunk_bytes=512))
            assert np.array_equal(mine, kept)
        return found

    everywhere = on_ranks(size, work, nodes=nodes)
    for at, n in enumerate((0, 1, 2, 7, 1000, 4099)):
        parts = [drawn(r, n).astype(np.float64) for r in range(size)]
        exact, bound = sum(parts), (size - 1) * 2.0**-24 * sum(np.abs(p) for p in parts)
        assert len({found[at].tobytes() for found in everywhere}) == 1
        assert (np.abs(everywhere[0][at] - exact) <= bound + 1e-30).all()


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(0, 300), st.sampled_from(ROUTES), st.sampled_from([8, 64, 4096]), st.integers(1, 3))
def test_whole_numbers_are_summed_exactly(size, n, route, chunk, per_node):
    def work(link):
        mine = np.random.default_rng(link.rank).integers(-99, 99, n)
        return dense.allreduce(link, mine, route=route, name="sum", chunk_bytes=chunk)

    want = sum(np.random.default_rng(r).integers(-99, 99, n) for r in range(size))
    for found in on_ranks(size, work, nodes=[r // per_node for r in range(size)]):
        assert np.array_equal(found, want)


def test_bfloat16_is_summed_in_bfloat16():
    found = on_ranks(3, lambda link: dense.allreduce(link, drawn(link.rank, 500, ml_dtypes.bfloat16), name="bf16"))
    exact = sum(drawn(r, 500, ml_dtypes.bfloat16).astype(np.float64) for r in range(3))
    assert len({f.tobytes() for f in found}) == 1 and found[0].dtype == ml_dtypes.bfloat16
    size = sum(np.abs(drawn(r, 500, ml_dtypes.bfloat16).astype(np.float64)) for r in range(3))
    assert (np.abs(found[0].astype(np.float64) - exact) <= 2 * 2.0**-8 * size).all()


@pytest.mark.parametrize("other", [np.zeros(5, np.float64), np.zeros(6, np.float32), np.zeros((5, 1), np.float32)])
def test_what_differs_between_ranks_is_an_error_on_every_rank(other):
    def work(link):
        with pytest.raises(PeerError) as caught:
            dense.allreduce(link, other if link.rank == 2 else np.zeros(5, np.float32), name="gradient")
        said = str(caught.value)
        assert "rank 0 has ('float32', (5,)" in said and f"rank 2 has ('{other.dtype.name}', {other.shape}" in said
        return True

    assert on_ranks(3, work) == [True] * 3


def test_a_deaf_peer_is_named_at_the_deadline():
    links = group(2, timeout_s=0.3)
    with pytest.raises(PeerError, match=r"rank 0 waited 0.3 s in 'gradient: ring' for rank 1"):
        dense.allreduce(links[0], np.zeros(5, np.float32), name="gradient", checked=True)


def test_an_unknown_route_names_those_there_are():
    with pytest.raises(ValueError, match="halving"):
        dense.allreduce(Alone(), np.zeros(1), route="star", name="x")


@pytest.mark.parametrize("name", ["int8", "sign", "int4s", "bf16", "topk"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_coded_sums_lose_nothing_for_good(name, size):
    """Sum of results + residuals = sum of inputs; the bytes are equal everywhere, an idle rank included."""
    n, steps = 5000, 3
    options = {"density": 0.1} if name == "topk" else {}

    def inputs(rank, step):
        return drawn(rank * 10 + step, n) * (rank != 1)

    def work(link):
        made = Coded(link, n, lambda stream: codec(name, **options), chunk=1024)
        return [made(inputs(link.rank, s)).copy() for s in range(steps)], made.residual()

    found = on_ranks(size, work)
    for s in range(steps):
        assert len({results[s].tobytes() for results, _ in found}) == 1
    given_ = sum(inputs(r, s).astype(np.float64) for r in range(size) for s in range(steps))
    came = sum(r.astype(np.float64) for r in found[0][0])
    np.testing.assert_allclose(came + sum(e.astype(np.float64) for _, e in found), given_, atol=1e-3)


def test_what_is_not_finite_adds_nothing_and_spoils_no_other_rank_s_part():
    """On the owner of a chunk, on another rank, and where only the sum is too large; later steps are as ever."""
    n = 3 * 1024

    def work(link):
        made = Coded(link, n, lambda stream: codec("int8", block=64), chunk=1024)
        g = np.full(n, 1.0, np.float32)
        if link.rank == 0:
            g[0], g[1024], g[2048:] = np.inf, np.nan, 3e38
        if link.rank:
            g[2048:] = 3e38
        with np.errstate(over="ignore"):
            first = made(g).copy()
        return first, made(np.full(n, 1.0, np.float32)).copy(), made.residual()

    found = on_ranks(3, work)
    for first, second, owed in found:
        assert first.tobytes() == found[0][0].tobytes() and second.tobytes() == found[0][1].tobytes()
        assert np.isfinite(first).all() and np.isfinite(second).all() and np.isfinite(owed).all()
        assert first[[0, 1024]] == pytest.approx([2, 2], abs=0.05)  # the two ranks whose values are finite
        assert first[1:1024] == pytest.approx(3, abs=0.05) and second[1:1024] == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("begun", [False, True])
def test_a_rank_that_sends_no_frame_is_named_at_the_deadline(begun):
    """Also one that falls silent after its first chunk."""
    links = group(2, timeout_s=0.4)
    made = [Coded(link, 8 * 1024, lambda stream: codec("int8"), chunk=1024) for link in links]

    if begun:
        frame = made[1].codecs[0].encode(np.ones(1024, np.float32), made[1].states[0], 0)
        links[1].send(np.frombuffer(frame, np.uint8), 0, name="coded", tag=TAG)
    with pytest.raises(PeerError, match=r"rank 0 waited 0\.4 s in 'coded'.*rank 1"):
        made[0](np.ones(8 * 1024, np.float32))


@pytest.mark.parametrize(("bits", "size"), [(8, 1), (8, 2), (8, 3), (8, 5), (16, 8)])
def test_shared_scale_sums_are_exact_to_half_a_level_a_rank(bits, size):
    n = 3000

    def work(link):
        made = Shared(link, n, bits=bits, block=1024)
        return made(drawn(link.rank, n)), made.residual

    found = on_ranks(size, work)
    assert len({sum_.tobytes() for sum_, _ in found}) == 1
    exact = sum(drawn(r, n).astype(np.float64) for r in range(size))
    top = max(np.abs(drawn(r, n)).max() for r in range(size))
    assert np.abs(found[0][0] - exact).max() <= 0.51 * size * top / (((1 << (bits - 1)) - 1) // size)
    np.testing.assert_allclose(found[0][0] + sum(e.astype(np.float64) for _, e in found), exact, atol=1e-4)


def test_too_many_ranks_for_eight_bits_is_said():
    with pytest.raises(ValueError, match="16 bits"):
        Shared(group(43)[0], 10)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_low_rank_sums_a_low_rank_matrix_and_owes_the_rest(size):
    n = 60 * 60

    def inputs(rank):
        rng = np.random.default_rng(rank)
        return np.outer(rng.normal(size=60), np.arange(60) % 7 - 3).astype(np.float32).ravel()

    def work(link):
        made = Lowrank(link, n, rank=3)
        results = [made(inputs(link.rank)) for _ in range(3)]
        return results, made.residual

    found = on_ranks(size, work)
    assert len({results[-1].tobytes() for results, _ in found}) == 1
    exact = sum(inputs(r).astype(np.float64) for r in range(size))
    np.testing.assert_allclose(found[0][0][-1], exact, atol=1e-3 * np.abs(exact).max())
    whole = sum(r.astype(np.float64) for r in found[0][0]) + sum(e.astype(np.float64) for _, e in found)
    np.testing.assert_allclose(whole, 3 * exact, atol=1e-2)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_sparse_allreduce_keeps_to_its_volume_and_shares_the_work(size):
    n, density, steps = 200_000, 0.02, 3
    k = round(n * density)

    def inputs(rank, step):
        rng = np.random.default_rng(rank * 100 + step)
        g = rng.standard_t(2, n).astype(np.float32)
        return g * np.linspace(3, 0.1, n, dtype=np.float32)  # most entries at one end: equal ranges would not be equal work

    def work(link):
        made, sums, words = Sparse(link, n, density), np.zeros(n), []
        for s in range(steps):
            before = link.received
            index, value = made(inputs(link.rank, s))
            assert (np.diff(index.astype(np.int64)) > 0).all()
            words.append((link.received - before) / 4)
            sums[index] += value
        return sums, made.residual, words, (index.tobytes(), value.tobytes())

    found = on_ranks(size, work)
    assert len({last for *_, last in found}) == 1
    exact = sum(inputs(r, s).astype(np.float64) for r in range(size) for s in range(steps))
    np.testing.assert_allclose(found[0][0] + sum(e.astype(np.float64) for _, e, *_ in found), exact, atol=1e-3)
    if size > 1:
        loads = np.array([words for *_, words, _ in found])
        assert (loads.max(axis=0) / loads.mean(axis=0)).max() <= 1.2
        histogram = 2048 if size > 2 else 0
        assert loads.max() <= 6 * k * (size - 1) / size + histogram + 32 * size * size


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.9])
def test_sparse_sums_are_exact_whatever_each_rank_has(size, share):
    n = 4000

    def entries(rank):
        rng = np.random.default_rng(rank)
        index = np.flatnonzero(rng.random(n) < share * (rank != 1)).astype(np.uint32)
        return index, rng.integers(1, 50, len(index)).astype(np.float32)

    want = np.zeros(n)
    for r in range(size):
        np.add.at(want, entries(r)[0], entries(r)[1])
    for index, value, left in on_ranks(size, lambda link: total(link, *entries(link.rank), n)):
        got = np.zeros(n)
        got[index] = value
        assert np.array_equal(got, want) and not len(left[0])


def test_a_dense_enough_gradient_is_summed_densely():
    def work(link):
        index, value = Sparse(link, 100, 0.5)(drawn(link.rank, 100))
        return len(index), value

    found = on_ranks(2, work)
    assert found[0][0] == 100
    np.testing.assert_allclose(found[0][1], drawn(0, 100) + drawn(1, 100), rtol=1e-6)
