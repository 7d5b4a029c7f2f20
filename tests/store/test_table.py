"""The table against a dictionary and the plain operations; frames that come twice, damaged or astray; rows never torn."""
import multiprocessing
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from engine.codec import call
from engine.codec.call import decode_reply, encode_call
from engine.comm.local import Alone
from engine.errors import ConfigError, FrameError, PeerError, ShardError, StoreError
from engine.kernels import _native
from engine.kernels.plain.table import change
from engine.table.shards import open_group, open_table

pytestmark = pytest.mark.filterwarnings("ignore:invalid value")  # adagrad over what another operation left
INIT = np.array([0.25, -1.0, 0.5, 2.0], np.float32)
OPS = tuple(op for op in call.OPS if op != "merge")  # that one asks for a learner: tests/table/test_worker.py


class Against(RuleBasedStateMachine):
    """Three logical ranks, on one node or on three; any rank reads and writes; slots change hands between the calls."""

    @initialize(shared=st.booleans(), seed=st.integers(0, 2**32))
    def start(self, shared, seed):
        self.stores = open_group(3, width=4, rows=200, init=INIT, slots_bits=5, shared=shared)
        self.model, self.versions, self.shared = {}, {}, shared
        self.draw = np.random.default_rng(seed)

    @rule(who=st.integers(0, 2), op=st.sampled_from(OPS), n=st.integers(0, 12))
    def inc(self, who, op, n):
        keys = self.draw.integers(0, 40, n).astype(np.uint64)
        items = self.draw.normal(size=(n, 2 if op in call.STATEFUL else 4)).astype(np.float32)
        items = items if op != "adagrad" else np.abs(items)
        versions = self.stores[who].table.inc(keys, items, op=op, rate=0.1, more=0.5)
        for key, item in zip(keys.tolist(), items, strict=True):
            change(op, self.model.setdefault(key, INIT.copy()), item, 0.1, 0.5)
            self.versions[key] = self.versions.get(key, 0) + 2
        assert len(versions) == n

    @rule(who=st.integers(0, 2))
    def get(self, who):
        keys = np.arange(45, dtype=np.uint64)
        versions = np.empty(45, np.uint32)
        found = self.stores[who].table.get(keys, versions=versions)
        for key in keys.tolist():
            assert np.array_equal(found[key], self.model.get(key, INIT), equal_nan=True)
            assert versions[key] == self.versions.get(key, 0)

    @rule(who=st.integers(0, 2), key=st.integers(0, 39), stale=st.booleans())
    def commit(self, who, key, stale):
        expected = np.array([self.versions.get(key, 0) + 2 * stale], np.uint32)
        value = self.draw.normal(size=(1, 4)).astype(np.float32)
        lost = self.stores[who].table.commit(np.array([key]), expected, value)
        assert (lost is None) == (not stale)
        if not stale:
            self.model[key], self.versions[key] = value[0].copy(), int(expected[0]) + 2

    @rule(slot=st.integers(0, 31), to=st.integers(0, 2), heard=st.lists(st.integers(0, 2)))
    def hand_over(self, slot, to, heard):
        """A whole move at once, of which only the ranks in `heard`, source and target hear."""
        book = self.stores[0].ledger
        owners = [s.ledger.owner[slot] for s in self.stores]
        source = int(owners[int(np.argmax([s.ledger.epoch[slot] for s in self.stores]))])
        if source == to:
            return
        wanted = np.zeros(book.room, np.uint8)
        wanted[slot] = 1
        table = self.stores[source].table
        for rows in table.rows(wanted):
            table.put(to, rows)
        changes = self.stores[source].ledger.assign(np.array([slot]), to)
        for rank in {to, *heard} - {source}:
            self.stores[rank].ledger.apply(changes)
        table.slab.bump(2)
        table.slab.drop(table.node, wanted, 0xFFFFFFFF)


TestAgainst = Against.TestCase
TestAgainst.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("op", OPS)
def test_operations_are_the_plain_ones_bit_for_bit(op):
    table = open_table(Alone(), width=34, rows=50).table
    draw = np.random.default_rng(1)
    keys = np.arange(20)
    want = np.zeros((20, 34), np.float32)
    for _ in range(4):
        items = draw.normal(size=(20, 17 if op in call.STATEFUL else 34)).astype(np.float32)
        table.inc(keys, items, op=op, rate=0.3, more=0.7)
        for row, item in zip(want, items, strict=True):
            change(op, row, item, 0.3, 0.7)
    assert table.get(keys).tobytes() == want.tobytes()


def test_a_request_that_comes_twice_is_carried_out_once():
    stores = open_group(2, width=4, rows=100)
    keys = np.flatnonzero(stores[0].ledger.route(np.arange(50, dtype=np.uint64)) == 1)[:5].astype(np.uint64)
    items = np.ones((5, 4), np.float32)
    sent = [(1, 0), (2, 0), (2, 0), (1, 0), (3, 2), (2, 0), (1, 0), (3, 2), (900, 2), (900, 2), (5000, 4999), (900, 2)]
    frames = [encode_call("apply", [keys, items], client=0, count=5, seq=seq, acked=acked) for seq, acked in [*sent, sent[-2]]]
    replies = [decode_reply(np.frombuffer(stores[1].server.handle(f, 4096), np.uint8)) for f in frames]
    assert all(r.status == call.OK for r in replies)
    assert (stores[0].table.get(keys) == 5).all()
    assert stores[1].server.stats()["repeated"] == 8


def test_what_one_owner_carried_out_another_can_be_told():
    stores = open_group(3, width=4, rows=100)
    route = stores[0].ledger.route(np.arange(50, dtype=np.uint64))
    keys = [np.flatnonzero(route == r)[:2].astype(np.uint64) for r in range(3)]
    frame = encode_call("apply", [keys[1], np.ones((2, 4), np.float32)], client=0, count=2, seq=7, acked=5)
    stores[1].server.handle(frame, 4096)
    known = decode_reply(np.frombuffer(stores[1].server.handle(encode_call("recent"), 1 << 16), np.uint8))
    assert known.count == 1
    stores[2].server.handle(encode_call("recent", [known.body], count=1), 4096)
    again = encode_call("apply", [keys[2], np.ones((2, 4), np.float32)], client=0, count=2, seq=7, acked=5)
    stores[2].server.handle(again, 4096)
    assert (stores[0].table.get(keys[2]) == 0).all()
    assert stores[2].server.stats()["repeated"] == 1


@given(flip=st.integers(0, 8 * 200), cut=st.integers(0, 199))
def test_damaged_frames_are_refused(flip, cut):
    stores = open_group(2, width=4, rows=64)
    frame = encode_call("apply", [np.arange(4, dtype=np.uint64), np.ones((4, 4), np.float32)], client=1, count=4, seq=1)
    assert stores[0].server.handle(frame[:cut].copy(), 4096) == b"" or cut >= len(frame)
    bad = frame.copy()
    bad[flip // 8 % len(frame)] ^= 1 << flip % 8
    assert stores[0].server.handle(bad, 4096) == b""
    reply = np.frombuffer(stores[0].server.handle(frame, 4096), np.uint8).copy()
    reply[flip // 8 % len(reply)] ^= 1 << flip % 8
    with pytest.raises(FrameError):
        decode_reply(reply)


@pytest.mark.parametrize("lie", [{"count": 5}, {"count": 1 << 30}, {"op": 99}, {"table": 9}, {"client": 7}])
def test_a_lying_frame_is_refused(lie):
    stores = open_group(2, width=4, rows=64)
    given_ = {"client": 1, "count": 4, "seq": 1} | lie
    frame = encode_call("apply", [np.arange(4, dtype=np.uint64), np.ones((4, 4), np.float32)], **given_)
    assert stores[0].server.handle(frame, 4096) == b""
    assert stores[0].server.stats()["refused"] == 1


def test_keys_are_admitted_when_asked_for_often_enough():
    table = open_table(Alone(), width=2, rows=200, admit=3).table
    ones = np.ones((1, 2), np.float32)
    assert [int(table.inc(np.array([5]), ones)[0]) for _ in range(4)] == [0, 0, 2, 4]
    assert table.get(np.array([5])).tolist() == [[2.0, 2.0]]
    assert table.stats()["used"] == 1


def test_rows_that_are_not_used_expire_and_their_places_are_used_again():
    table = open_table(Alone(), width=2, rows=64).table
    for start in range(0, 2000, 50):
        keys = np.arange(start, start + 50)
        table.inc(keys, np.full((50, 2), start, np.float32))
        table.clock()
        table.expire(1)
        assert (table.get(keys) == start).all()
        assert table.stats()["used"] <= 100
    assert (table.get(np.arange(100)) == 0).all()


def test_a_full_table_says_so():
    table = open_table(Alone(), width=2, rows=32).table
    with pytest.raises(StoreError, match=r"the table is full: 56 rows of rank 0"):
        table.inc(np.arange(100), np.ones((100, 2), np.float32))


def test_dirty_rows_are_all_and_only_those_changed_since_last_taken():
    table = open_table(Alone(), width=2, rows=500).table
    table.inc(np.arange(300), np.ones((300, 2), np.float32))
    table.watch(1)
    assert list(table.rows(dirty=1)) == []
    table.inc(np.array([7, 8, 7]), np.ones((3, 2), np.float32))
    taken = list(table.rows(dirty=1))
    assert sorted(np.concatenate([t.keys for t in taken]).tolist()) == [7, 8]
    assert list(table.rows(dirty=1)) == []
    assert sum(len(t.keys) for t in table.rows()) == 300


def test_a_late_rank_is_named_and_a_dead_writer_too():
    stores = open_group(2, width=2, rows=64, timeout_s=0.3)
    stores[0].table.clock()
    with pytest.raises(PeerError, match="rank 1 is at clock 0, this one at 1"):
        stores[0].table.wait(0)
    table = stores[0].table
    table.slab.gate(True)
    with pytest.raises(PeerError, match="in 'inc'"):
        table.inc(np.arange(9), np.ones((9, 2), np.float32))


@pytest.mark.parametrize(("act", "kind", "said"), [
    (lambda t: t.inc(np.arange(3), np.ones((2, 3))), ShardError, r"expected items of shape \(3, 3\)"),
    (lambda t: t.inc(np.arange(3), np.ones((3, 1)), op="adagrad"), ConfigError, "expected an even width, found 3"),
    (lambda t: t.inc(np.arange(3), np.ones((3, 3)), op="sum"), ConfigError, "op: expected one of add"),
    (lambda t: t.get(np.array([-1])), ShardError, "2\\^64 - 1 is not a key"),
    (lambda t: t.get(np.array([0.5])), ShardError, "expected whole numbers"),
])
def test_bad_input_is_named(act, kind, said):
    with pytest.raises(kind, match=said):
        act(open_table(Alone(), width=3, rows=64).table)


def _write(path, buckets, seconds, queue):
    memory = np.memmap(path, np.uint8, "r+")
    slab, init = _native.Slab(memory), np.zeros(60, np.float32)
    keys, n, until = np.arange(64, dtype=np.uint64), 0, time.monotonic() + seconds
    versions = np.empty(64, np.uint32)
    slab.gather(keys, init, rows := np.empty((64, 60), np.float32), versions)
    while time.monotonic() < until:
        rows[:] = np.float32(n % 1000003)
        n += 1
        versions += np.uint32(2)
        count, status = slab.stage(2, keys, versions, versions, rows)
        assert (count, status) == (64, 0)
    queue.put(n)


def test_no_row_is_ever_torn_under_a_writer_of_another_process(tmp_path):
    path = tmp_path / "slab"
    size = _native.slab_bytes(256, 60, 8)
    memory = np.memmap(path, np.uint8, "w+", shape=size)
    _native.slab_make(memory, 256, 60, 8, 1)
    slab, init = _native.Slab(memory), np.zeros(60, np.float32)
    keys = np.arange(64, dtype=np.uint64)
    ones = np.full(64, 2, np.uint32)
    slab.stage(0, keys, ones, ones, np.zeros((64, 60), np.float32))
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    child = spawn.Process(target=_write, args=(str(path), 256, 1.0, queue))
    child.start()
    many = np.tile(keys, 64)
    out, versions = np.empty((len(many), 60), np.float32), np.empty(len(many), np.uint32)
    reads = changed = 0
    while child.is_alive():
        count, status = slab.gather(many, init, out, versions)
        assert (out[:count] == out[:count, :1]).all()
        reads += count
        changed += len(np.unique(out[:count, 0])) > 1
        assert status in (call.OK, call.BUSY)
    child.join(10)
    assert child.exitcode == 0
    assert reads > 100_000 and changed > 10
    assert queue.get(timeout=5) > 100
