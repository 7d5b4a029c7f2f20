"""Session.stream: the same bits as synchronous learning, back-pressure, newest-wins, errors on every rank, no hang."""
import threading
import time

import numpy as np
import pytest

from engine import ConfigError, DataError, PeerError, Session
from engine.comm.local import group
from engine.source.foreign import host

SETTINGS = {"loop.threads": 1, "exchange.every": 8, "model.learner": "nag"}


def rows(seed, n=40):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return x, x @ [1.0, -2.0, 0.5]


def together(act, n=2, timeout_s=60.0, **settings):
    """`act(rank, session)` on n ranks of one process; their results, or the first error."""
    found, errors = [None] * n, []

    def run(rank, link):
        try:
            with Session(link, width=3, task="regression", **SETTINGS, **settings) as session:
                found[rank] = act(rank, session)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(group(n, timeout_s=timeout_s))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    return found


def slow(session, seconds):
    """Makes learning take so long."""
    learn = session._stream._learn

    def late(make):
        time.sleep(seconds)
        learn(make)
    session._stream._learn = late


def test_the_same_bits_as_synchronous():
    def synchronous(rank, session):
        for step in range(6):
            session.partial_fit(*rows(10 * step + rank, 40 - 7 * rank))
        return session.predict(rows(99)[0]), session.summary()

    def streamed(rank, session):
        with session.stream(2) as stream:
            for step in range(6):
                x, y = rows(10 * step + rank, 40 - 7 * rank)
                stream.put(x, y)
                x[:] = y[:] = np.nan  # it was copied
            stream.wait()
            assert stream.test()
            return session.predict(rows(99)[0]), session.summary()

    for (a, one), (b, two) in zip(together(synchronous), together(streamed), strict=True):
        assert a.tobytes() == b.tobytes()
        assert one == two


def test_a_full_queue_makes_put_wait():
    def act(rank, session):
        with session.stream(2) as stream:
            slow(session, 0.02)
            most = 0
            for step in range(10):
                stream.put(*rows(step))
                most = max(most, len(stream.queue.items))
            stream.wait()
            return most, stream.queue.dropped, session.summary()["rows"]

    for most, dropped, learned in together(act):
        assert most <= 2 and dropped == 0 and learned == 2 * 10 * 40


def test_newest_wins_never_waits_and_every_rank_ends_with_the_same_model():
    def act(rank, session):
        with session.stream(1, "newest") as stream:
            learn, free = stream._learn, threading.Event()
            stream._learn = lambda make: (free.wait(60), learn(make))
            for step in range(30):  # nothing can be learned: a put that waited for room would never return
                assert not free.is_set()
                stream.put(*rows(100 * rank + step))
            assert len(stream.queue.items) == 1 and stream.queue.dropped >= 28
            free.set()
            stream.wait()
            stream._learn = learn
            slow(session, 0.03 * (1 + rank))
            for step in range(30):
                stream.put(*rows(100 * rank + 50 + step))
                time.sleep(0.002 if rank else 0.004)
            stream.wait()
            return stream.queue.dropped, session.summary()["rows"], session.predict(rows(0)[0]).tobytes()

    found = together(act)
    assert found[0][1:] == found[1][1:] and found[0][1] == 40 * (2 * 60 - found[0][0] - found[1][0])


def test_wrong_rows_on_one_rank_are_an_error_on_all_and_the_stream_goes_on():
    def act(rank, session):
        with session.stream() as stream:
            stream.put(*rows(0))
            stream.wait()
            if rank:
                with pytest.raises(DataError, match=r"expected x of \(40, 3\)"):
                    stream.put(np.ones((40, 5)), np.ones(40))
            else:
                stream.put(*rows(1))
                with pytest.raises(DataError, match="found"):
                    stream.wait()
            stream.put(*rows(2))
            stream.wait()
            return session.summary()["rows"]

    assert together(act) == [160, 160]


def test_a_rank_that_does_not_put_is_named_within_the_limit():
    def act(rank, session):
        stream = session.stream(1)
        if rank:
            time.sleep(1.5)
            return
        stream.put(*rows(0))
        with pytest.raises(PeerError):
            stream.wait()
        with pytest.raises(PeerError):  # it cannot go on, and says so again
            stream.put(*rows(1))

    with pytest.raises(PeerError):  # closing is collective as well
        together(act, timeout_s=0.5, **{"loop.stall_timeout": 0.5})


def test_the_sessions_own_calls_wait_for_the_thread(tmp_path):
    with Session(width=3, task="regression", **SETTINGS) as session:
        stream = session.stream()
        slow(session, 0.05)
        for step in range(3):
            stream.put(*rows(step))
        session.checkpoint(str(tmp_path))
        assert stream.test() and session.summary()["rows"] == 120
        session.partial_fit(*rows(4))
        assert session.summary()["rows"] == 160
        other = session.stream(full="newest")  # takes the place of the first
        with pytest.raises(ConfigError, match="closed"):
            stream.put(*rows(5))
        other.put(*rows(6))
    with pytest.raises(ConfigError, match="expected capacity"):
        Session(width=3).stream(0)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_checkpoint_of_two_ranks_resumes_on_one_and_three(tmp_path, streamed):
    def learn(session, seed):
        if not streamed:
            session.partial_fit(*rows(seed))
            return
        with session.stream() as stream:
            stream.put(*rows(seed))
            stream.wait()

    def first(rank, session):
        for step in range(3):
            learn(session, 10 * step + rank)
        session.checkpoint(str(tmp_path))
        return session.predict(rows(99)[0]).tobytes(), session.summary()

    def again(rank, session):
        session.resume(str(tmp_path))
        at = session.predict(rows(99)[0]).tobytes(), session.summary()
        learn(session, 50 + rank)
        return at, session.predict(rows(99)[0]).tobytes(), session.summary()["rows"]

    saved = together(first)
    assert saved[0] == saved[1] and saved[0][1]["rows"] == 2 * 3 * 40
    for n in (1, 3):
        at, after, learned = zip(*together(again, n), strict=True)
        assert set(after) == {after[0]} and after[0] != saved[0][0]
        assert learned == (240 + 40 * n,) * n
        for bits, summary in at:
            assert bits == saved[0][0]
            assert summary == pytest.approx(saved[0][1], nan_ok=True)


class Lent:
    """What other libraries hand over: an object with one of the protocols, and nothing else."""

    def __init__(self, array):
        self.keep, self.__array_interface__ = array, array.__array_interface__


class Dlpack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Cuda:
    def __init__(self, array):
        self.__cuda_array_interface__ = {**array.__array_interface__, "version": 3}


def test_arrays_of_other_libraries():
    x, y = rows(3)
    plain = Session(width=3, task="regression", **SETTINGS).partial_fit(x, y).predict(x)
    for lend in (memoryview, Lent, Dlpack, np.ndarray.tolist):
        lent = Session(width=3, task="regression", **SETTINGS).partial_fit(lend(x), lend(y))
        assert lent.predict(lend(x)).tobytes() == plain.tobytes()
    assert np.shares_memory(host(Dlpack(x)), x)
    torch = pytest.importorskip("torch")
    lent = Session(width=3, task="regression", **SETTINGS).partial_fit(torch.from_numpy(x), torch.from_numpy(y))
    assert lent.predict(torch.from_numpy(x)).tobytes() == plain.tobytes()


def test_what_is_no_array_is_refused():
    for wrong in ("text", object(), [[1, "a"]], np.ones(3, "datetime64[s]").tolist()):
        with pytest.raises(DataError, match="array"):
            host(wrong)


def test_cuda_arrays_are_copied_by_the_driver(monkeypatch):
    """A driver in memory stands for libcuda: the copy is taken from the address given, in the right order of calls."""
    import ctypes

    from engine.source import foreign

    calls = []

    class Driver:
        def __getattr__(self, name):
            def call(*args):
                calls.append(name)
                if name == "cuMemcpyDtoH_v2":
                    out, address, size = args
                    ctypes.memmove(out, address.value, size.value)
                return 700 if name == "cuDeviceGet" and args[1] > 3 else 0
            return call

    monkeypatch.setattr(foreign, "cuda", Driver)
    x = np.arange(24, dtype=np.float64).reshape(4, 6)
    for view in (x, x[::2, ::-1], x.T, x[:, 1:3]):
        assert np.array_equal(host(Cuda(view)), view)
    assert calls[-6:] == ["cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemcpyDtoH_v2",
                          "cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"]
    with pytest.raises(DataError, match="device 9"):
        foreign.at_address(x.ctypes.data, (2,), (8,), x.dtype, device=10)


def test_a_small_model_is_read_while_a_long_lot_is_learned():
    learning, go = threading.Event(), threading.Event()
    settings = SETTINGS | {"exchange.every": 8192}
    x, y = rows(0, 8192)
    with Session(width=3, task="regression", **settings) as session, session.stream(2) as stream:
        stream.put(x, y)
        stream.wait()
        before = session.predict(x).tobytes()
        team = session._job.team.team
        learn = team.learn

        def held(batch, k):
            learning.set()
            assert go.wait(60)
            return learn(batch, k)
        team.learn = held
        stream.put(*rows(1, 8192))
        assert learning.wait(60)
        assert session.predict(x).tobytes() == before  # and does not wait
        go.set()
        stream.wait()
        after = session.predict(x).tobytes()
    assert after != before
    twin = Session(width=3, task="regression", **settings).partial_fit(x, y)
    assert twin.predict(x).tobytes() == before and twin.partial_fit(*rows(1, 8192)).predict(x).tobytes() == after
