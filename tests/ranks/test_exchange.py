"""The exchanges over real MPI: equal to the plain sum, byte for byte the same on every rank; nothing hangs."""
import numpy as np
import pytest

from engine.codec import quant, sparse  # noqa: F401
from engine.codec.base import codec
from engine.comm import dense, tree, world  # noqa: F401
from engine.comm.coded import Coded, Lowrank, Shared
from engine.comm.sparse import Sparse
from engine.errors import PeerError

N = 30_011


def drawn(rank, n=N):
    return np.random.default_rng(rank).normal(size=n).astype(np.float32) * (rank != 1)  # rank 1 has nothing


def same(link, data, name):
    """Fails where the bytes differ between ranks."""
    table = link.vote(np.array([world.hash_name(data.tobytes().hex())], np.int64), name=name)
    assert (table == table[0]).all(), name


@pytest.mark.smoke
@pytest.mark.ranks(8)
def test_every_allreduce(size, monkeypatch):
    """On 8 ranks, then 5 beside 3, then 2 beside 1: one start of MPI for all sizes."""
    whole = world.start(own=False).COMM_WORLD
    for shares in ([8], [5, 3], [2, 1, 5]):
        color = int(np.searchsorted(np.cumsum(shares), whole.Get_rank(), side="right"))
        part = whole.Split(color)
        link = world.World(part, timeout_s=60.0)
        if shares != [2, 1, 5] or color < 2:
            every_allreduce(link.size, link, monkeypatch)
        link.close()
        part.Free()


def every_allreduce(size, link, monkeypatch):
    exact = sum(drawn(r).astype(np.float64) for r in range(size))
    magnitude = sum(np.abs(drawn(r)) for r in range(size))
    for piece in (world.PIECE_BYTES, 1000):  # messages beyond the largest count go in pieces
        monkeypatch.setattr(world, "PIECE_BYTES", piece)
        for route in sorted(dense.ROUTES):
            for n in (N, 3, 0):
                found = dense.allreduce(link, drawn(link.rank)[:n], route=route, name=route, chunk_bytes=16384)
                same(link, found, route)
                assert (np.abs(found - exact[:n]) <= (size - 1) * 2.0**-24 * magnitude[:n] + 1e-30).all()
    monkeypatch.undo()
    kinds = {
        "int8": Coded(link, N, lambda stream: codec("int8"), chunk=4096),
        "sign": Coded(link, N, lambda stream: codec("sign"), chunk=4096),
        "shared": Shared(link, N, bits=16, block=4096),
        "low rank": Lowrank(link, N, rank=2),
        "sparse": Sparse(link, N, 0.05),
    }
    for name, act in kinds.items():
        whole = np.zeros(N)
        for _ in range(3):
            found = act(drawn(link.rank))
            if name == "sparse":
                index, value = found
                found = np.zeros(N, np.float32)
                found[index] = value
            same(link, found, name)
            whole += found
        owed = act.residual() if callable(act.residual) else act.residual
        whole += link.allreduce(owed.astype(np.float64), name="owed")
        np.testing.assert_allclose(whole, 3 * exact, atol=1e-3, err_msg=name)


@pytest.mark.ranks(3)
def test_what_goes_wrong_is_an_error_that_names_both(size, link):
    with pytest.raises(PeerError, match=r"rank 0 has \('float32', \(7,\).*rank 1 has \('float64', \(7,\)"):
        dense.allreduce(link, np.zeros(7, np.float64 if link.rank == 1 else np.float32), name="gradient")
    mine = np.arange(5.0) + link.rank
    going = [link.send(mine, r, name="hello", tag=3) for r in range(size) if r != link.rank]
    for r in range(size):
        if r != link.rank:
            assert np.array_equal(link.take(r, name="hello", tag=3).view(np.float64), np.arange(5.0) + r)
    for one in going:
        one.wait()
    assert link.probe(tag=3) is None
    link.barrier(name="deaf")
    link.timeout_s = 0.3
    if link.rank == 0:
        with pytest.raises(PeerError, match=r"rank 0 waited 0\.3 s in 'gradient: ring' for rank"):
            dense.allreduce(link, np.zeros(9, np.float32), name="gradient", checked=True)
    link.timeout_s = 60.0
    link.barrier(name="end")
