"""Live sources row by row: followed files through rotation, sockets, rings, programs, and what a crash leaves."""
import os
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.comm.local import Alone
from engine.errors import DataError, PeerError, StoreError
from engine.source.feed import Given, Lines, counters
from engine.source.follow import Followed
from engine.source.listen import HELD_BYTES, Listener
from engine.source.live import Live, LiveSource, from_rows, live
from engine.source.read import open_source
from engine.source.ring import Ring, Ringed, unused
from engine.source.schema import named_plan
from engine.source.send import Sender
from engine.source.share import shares
from engine.store.spool import Spool, pack, unpack
from engine.types import Batch, Schema

PLAN = named_plan(("a", "y"), "test", {"task": "regression", "format": "csv"})
LIMIT_S = 20.0


def lines():
    return Lines(PLAN, "error", counters())


def drained(feed, want=None, limit_s=LIMIT_S):
    """First column of the rows a feed gives until it has given `want` rows, or none for a while, and its cursor."""
    found, at, end, quiet = [], ("", 0), time.monotonic() + limit_s, 0
    while (len(found) < want if want is not None else quiet < 20) and time.monotonic() < end:
        portion = feed.poll()
        if portion is None:
            quiet += 1
            time.sleep(0.001 if want is None else 0.0005)
            continue
        quiet = 0
        assert len(portion.marks) == len(portion.batch) + 1
        found += portion.batch.x[:, 0].astype(int).tolist()
        at = (portion.place, int(portion.marks[-1]))
    return found, at


def text(start, stop):
    return b"".join(b"%d,1\n" % i for i in range(start, stop))


def test_a_followed_file_gives_whole_lines_as_they_come(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"0,1\n1,1\n2,")
    feed = Followed(str(path), lines())
    assert drained(feed)[0] == [0, 1]
    with path.open("ab") as out:
        out.write(b"1\n3,1\n")
    assert drained(feed)[0] == [2, 3]


def test_rotation_and_truncation_lose_nothing(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(text(0, 10))
    feed = Followed(str(path), lines())
    first, _ = drained(feed)
    with path.open("ab") as out:
        out.write(text(10, 12) + b"12,1")  # written after the last read, no line end
    os.rename(path, tmp_path / "log.1")
    path.write_bytes(text(13, 20))
    second, _ = drained(feed)
    path.write_bytes(b"99,1\n")  # truncated in place
    third, _ = drained(feed)
    assert first + second + third == [*range(20), 99]


@pytest.mark.parametrize("done", [0, 3, 9, 10, 14])
def test_a_cursor_finds_its_file_after_rotations(tmp_path, done):
    path = tmp_path / "log"
    path.write_bytes(text(0, 10))
    feed = Followed(str(path), lines())
    portion = feed.poll()
    at = (portion.place, int(portion.marks[min(done, 10)]))
    if done > 10:
        os.rename(path, tmp_path / "log.1")
        path.write_bytes(text(10, 15))
        portion = feed.poll() or feed.poll()
        at = (portion.place, int(portion.marks[done - 10]))
        os.rename(tmp_path / "log.1", tmp_path / "log.2")
    os.rename(path, tmp_path / "log.1")
    os.utime(tmp_path / "log.1", (time.time() + 1, time.time() + 1))
    path.write_bytes(text(15 if done > 10 else 10, 20))
    again = Followed(str(path), lines())
    again.seek(at)
    assert drained(again)[0] == list(range(done, 20))


def test_a_cursor_without_its_file_is_refused_by_name(tmp_path):
    (tmp_path / "log").write_bytes(text(0, 3))
    feed = Followed(str(tmp_path / "log"), lines())
    with pytest.raises(DataError, match="cursor"):
        feed.seek(("1-00000000", 4))


def test_other_columns_after_a_rotation_are_named(tmp_path):
    plan = named_plan(("a", "y"), "test", {"task": "regression", "format": "csv", "header": True})
    path = tmp_path / "log"
    path.write_bytes(b"a,y\n1,1\n")
    feed = Followed(str(path), Lines(plan, "error", counters()))
    assert drained(feed)[0] == [1]
    os.rename(path, tmp_path / "log.1")
    path.write_bytes(b"a,b,y\n1,1,1\n")
    with pytest.raises(DataError, match="columns have changed"):
        drained(feed)


def rows_of(start, stop):
    x = np.stack([np.arange(start, stop), np.zeros(stop - start)], 1).astype(np.float32)
    return x, np.ones(stop - start, np.float32)


def listener(tmp_path, spool=None, frames=True, port=0):
    return Listener(f"tcp://127.0.0.1:{port}", None if frames else lines(), counters(), spool=spool)


def test_a_sender_goes_on_after_breaks_without_loss_or_repeat(tmp_path):
    spool = Spool(tmp_path / "spool")
    feed = listener(tmp_path, spool)
    port, got, total = feed.port, [], 30_000
    out = Sender(f"tcp://127.0.0.1:{port}", "one", timeout_s=LIMIT_S)
    thread = threading.Thread(target=lambda: [out.send(*rows_of(i, i + 10)) for i in range(0, total, 10)] and out.close())
    thread.start()
    for turn in range(6):  # crashes of the listener: what was handed out and not in a checkpoint comes again
        got += drained(feed, min(300, total - len(got)))[0]
        feed.settle()  # as a checkpoint does: a cursor names only what is durable
        if turn < 5:
            drained(feed, min(50, total - len(got)))  # learned after the checkpoint: comes again
            feed._writer.shutdown()
            for talk in feed._talks.values():
                talk.end.close()
            feed._door.close()
            feed.spool.close()
            feed = listener(tmp_path, Spool(tmp_path / "spool"), port=port)
            feed.seek(("", len(got)))
    got += drained(feed, total - len(got))[0]
    feed.settle()
    thread.join(LIMIT_S)
    assert got == list(range(total)) and out.taken == total
    assert drained(feed)[0] == []
    feed.close()


def test_lines_of_named_and_nameless_senders(tmp_path):
    feed = listener(tmp_path, frames=False)

    def send():
        with Sender(f"tcp://127.0.0.1:{feed.port}", "text", timeout_s=LIMIT_S) as out:
            out.lines(text(0, 50))

    thread = threading.Thread(target=send)
    thread.start()
    assert drained(feed, 50)[0] == list(range(50))
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    with socket.create_connection(("127.0.0.1", feed.port)) as plain:
        plain.sendall(text(50, 60) + b"60,1")
        plain.shutdown(socket.SHUT_WR)
        assert drained(feed, 11)[0] == list(range(50, 61))
    feed.close()


def test_a_full_spool_pushes_back_and_goes_on_when_it_is_trimmed(tmp_path):
    limit = 1 << 20
    spool = Spool(tmp_path / "spool", limit_bytes=limit)
    feed = listener(tmp_path, spool)
    out = Sender(f"tcp://127.0.0.1:{feed.port}", "flood", window_bytes=1 << 20, timeout_s=LIMIT_S)
    rng, total, sent = np.random.default_rng(0), 400, []
    n, ones = 4096, np.ones(4096, np.float32)
    blocks = [(np.column_stack([np.full(n, i), rng.random(n)]).astype(np.float32), ones) for i in range(total)]

    def push():
        for block in blocks:
            out.send(*block)
            sent.append(1)
        out.flush()

    thread = threading.Thread(target=push)
    thread.start()
    got = []
    while not spool.full:
        got += drained(feed)[0]
    time.sleep(0.2)
    assert len(sent) < total and feed.poll() is None and spool.size_bytes < limit + 2 * HELD_BYTES
    end = time.monotonic() + LIMIT_S
    while thread.is_alive() and time.monotonic() < end:
        feed.committed(("", len(got)))
        got += drained(feed)[0]
    thread.join(LIMIT_S)
    assert got == [i for i in range(total) for _ in range(n)] and out.taken == total * n
    feed.close()


def test_a_spool_disk_that_is_full_is_named_and_nothing_is_acknowledged(tmp_path, monkeypatch):
    spool = Spool(tmp_path / "spool")
    batch = Batch(np.ones(3, np.float32), np.arange(3), np.full(3, np.nan, np.float32), x=np.ones((3, 2), np.float32))
    spool.append(batch, sender="s", count=3)
    spool.sync()
    calls = []

    def short(handle, buffers):
        calls.append(len(buffers))
        if len(calls) < 8:  # cuts through heads and arrays alike
            return os.write(handle, buffers[0][:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", short)
    with pytest.raises(StoreError, match="No space left"):
        spool.append(batch, sender="s", count=6)
    monkeypatch.undo()
    assert len(calls) == 8
    spool.close()
    again = Spool(tmp_path / "spool")
    assert again.next == 3 and again.senders == {"s": 3}
    again.close()


@pytest.mark.parametrize("dirty", [False, True])
def test_several_batches_make_one_record_through_short_writes(tmp_path, monkeypatch, dirty):
    draw = np.random.default_rng(3)
    batches = []
    for place, n in enumerate((5, 1, 900, 33)):
        y, x = draw.normal(size=n).astype(np.float32), draw.normal(size=(n, 3)).astype(np.float32)
        weight = np.full(n, 2, np.float32) if dirty and place % 2 else None  # a column that only some have
        batches.append(Batch(y, np.arange(n), y, x=x, weight=weight))
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda file, parts: real(file, [part[:301] for part in parts[:1]]))
    spool = Spool(tmp_path / "spool")
    spool.extend(batches, sender="s", count=939)
    monkeypatch.undo()
    spool.close()
    again = Spool(tmp_path / "spool")
    assert list(again.records()) == [(0, 939, 939)] and again.senders == {"s": 939}
    (_, found), = again.read(0)
    again.close()
    assert np.array_equal(found.x, np.concatenate([b.x for b in batches]))
    assert np.array_equal(found.y, np.concatenate([b.y for b in batches]))
    assert found.weight is None or np.array_equal(found.weight, np.repeat([1, 2, 1, 2], [5, 1, 900, 33]))
    assert (found.weight is not None) == dirty


@settings(max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.data())
def test_a_spool_cut_anywhere_gives_a_prefix_and_any_flipped_bit_is_refused(tmp_path_factory, sizes, data):
    folder = tmp_path_factory.mktemp("spool")
    spool, at = Spool(folder), 0
    for n in sizes:
        y = np.arange(at, at + n, dtype=np.float32)
        spool.append(Batch(y, np.arange(n), y, x=np.ones((n, 1), np.float32)), sender="s", count=at + n)
        at += n
    spool.close()
    path = next(folder.glob("*.rows"))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    again = Spool(folder)
    got = [int(v) for _, batch in again.read(0) for v in batch.y] if again.next else []
    assert got == list(range(again.next)) and again.next in [0, *np.cumsum(sizes).tolist()]
    again.close()
    flip = data.draw(st.integers(0, len(whole) - 1))
    bad = bytearray(whole)
    bad[flip] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bad)
    with pytest.raises(StoreError, match="record of rows") as error:
        Spool(folder)
    assert str(path) in error.value.where


def test_sparse_rows_keep_their_bits_in_the_spool():
    batch = Batch(np.float32([1, 0, 1]), np.arange(3), np.full(3, np.nan, np.float32), indptr=np.array([0, 2, 2, 3]),
                  keys=np.array([5, 9, 7], np.uint32), values=np.float32([0.1, -2, 3]))
    back = unpack(memoryview(pack(batch)))
    for name in ("y", "indptr", "keys", "values"):
        np.testing.assert_array_equal(getattr(back, name), getattr(batch, name))
    ones = Batch(batch.y, batch.order, batch.previous, indptr=batch.indptr, keys=batch.keys)
    assert unpack(memoryview(pack(ones))).values is None


def test_a_ring_hands_over_every_row_in_order():
    ring = Ring(unused("engine.test"), width=2, capacity=64, create=True)
    other = Ring(ring.name)
    feed = Ringed(other)
    total = 5000

    def write():
        for start in range(0, total, 37):
            ring.push(*rows_of(start, min(total, start + 37)), timeout_s=LIMIT_S)
        ring.end()

    thread = threading.Thread(target=write)
    thread.start()
    found, _ = drained(feed, total)
    thread.join(LIMIT_S)
    while not feed.ended:
        assert feed.poll() is None
    assert found == list(range(total))
    with pytest.raises(PeerError, match="full"):
        ring.push(*rows_of(0, 100), timeout_s=0.05)
    feed.close()
    ring.close()


def test_a_ring_kept_until_a_checkpoint_gives_rows_again():
    ring = Ring(unused("engine.test"), width=2, capacity=64, create=True)
    ring.push(*rows_of(0, 40))
    first = Ringed(Ring(ring.name), kept=True)
    assert drained(first, 40)[0] == list(range(40))
    first.committed(("", 25))
    again = Ringed(Ring(ring.name), kept=True)
    again.seek(("", 25))
    assert drained(again, 15)[0] == list(range(25, 40))
    with pytest.raises(DataError, match="given back"):
        again.seek(("", 3))
    for end in (first, again, ring):
        end.close()


def test_a_program_hands_over_rows_and_a_cursor_passes_over_them():
    def rows():
        for i in range(5):
            yield rows_of(10 * i, 10 * i + 10)
        yield np.float32([50, 0]), 1.0

    assert drained(Given(rows()))[0] == list(range(51))
    feed = Given(rows())
    feed.seek(("", 17))
    assert drained(feed)[0] == list(range(17, 51))


def test_the_first_row_is_not_kept_waiting_and_a_quiet_feed_ends_the_stream(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(text(0, 2))
    source = LiveSource(PLAN.schema, lambda rank, size: [Followed(str(path), lines())], plan=PLAN, more=lambda r, s: [],
                        idle_s=0.6)
    stream = Live(source, Alone())
    assert len(stream.take(256)) == 2
    began = time.monotonic()
    taken = stream.take(256)
    assert len(taken) == 0 and stream.left and time.monotonic() - began < 0.2
    while stream.take(256) is not None:
        assert time.monotonic() - began < LIMIT_S
    assert not stream.left


@settings(max_examples=200)
@given(st.integers(0, 5000), st.lists(st.floats(0, 1e7), min_size=1, max_size=9))
def test_shares_cover_all_rows_and_follow_the_pace(rows, pace):
    most = -(-rows // len(pace)) * 2 + 1
    cuts = shares(rows, np.array(pace), most)
    sizes = np.diff(cuts)
    assert cuts[0] == 0 and cuts[-1] == rows and (sizes >= 0).all() and (sizes <= most).all()


def test_specs_and_what_is_missing_are_named(tmp_path):
    assert live("follow:/x") and live("tcp://h:1") and not live("data.csv")
    with pytest.raises(DataError, match="before they come"):
        open_source("tcp://127.0.0.1:0")
    with pytest.raises(DataError, match="no rows came within"):
        open_source(f"follow:{tmp_path}/none.csv", wait_s=0.05)
    source = open_source("tcp://127.0.0.1:0", columns=("a", "b", "y"), task="binary")
    assert source.schema == Schema(2, False, "binary", ("0", "1"), ("a", "b"))


def test_a_session_learns_from_an_iterator_as_from_arrays():
    from engine.session import Session

    rng = np.random.default_rng(4)
    x = rng.normal(size=(500, 3)).astype(np.float32)
    y = (x.sum(1) > 0).astype(np.float32)

    def rows():
        for i in range(0, 500, 50):
            yield x[i : i + 50], y[i : i + 50]
            yield None

    settings = {"width": 3, "loop.threads": 1}
    with Session(**settings) as one, Session(**settings) as other:
        one.partial_fit(x, y)
        for _ in other.fit(from_rows(rows(), Schema(3, False, "binary"))):
            pass
        assert other.summary()["rows"] == 500
        np.testing.assert_array_equal(one.predict(x), other.predict(x))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_file_rotated_several_times_between_two_looks_loses_nothing(tmp_path, turns):
    path = tmp_path / "log"
    path.write_text("0,1\n1,1\n")
    feed = Followed(str(path), Lines(PLAN, "error", counters()))
    rows = feed.poll().batch.x[:, 0].tolist()
    for turn in range(turns):
        os.rename(path, f"{path}.{turn}")
        path.write_text(f"{2 * turn + 2},1\n{2 * turn + 3},1\n")
        os.utime(path, ns=(10**18 + turn,) * 2)
    os.utime(f"{path}.0", ns=(10**18 - 1,) * 2)
    for _ in range(4 * turns):
        portion = feed.poll()
        rows += [] if portion is None else portion.batch.x[:, 0].tolist()
    assert rows == list(range(2 * turns + 2))
    feed.close()


def test_frames_of_another_width_are_named_and_not_acknowledged(tmp_path):
    """Columns that change in mid-stream: what came before is learned, what came after is still with the sender."""
    address, spool = f"unix://{tmp_path}/door", Spool(tmp_path / "spool")
    feed = Listener(address, None, counters(), spool=spool, schema=PLAN.schema)
    out, rows = Sender(address, "solver", timeout_s=20), list[int]()

    def send():
        out.send(np.ones((100, 1), np.float32), np.ones(100, np.float32))
        out.flush()
        out.send(np.ones((50, 2), np.float32), np.ones(50, np.float32))

    def read():
        end = time.monotonic() + 20
        while time.monotonic() < end:
            portion = feed.poll()
            rows.append(0 if portion is None else len(portion.batch))

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(DataError, match=r"expected rows of 1 columns, found 2 columns"):
        read()
    sender.join(20)
    assert sum(rows) == spool.next == out.taken == 100 and spool.senders == {"solver": 100} and out.rows == 150
    feed.close()
