"""Consistency: transactions that interleave, locks in turn that outlive their holders, backups that have every update."""
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.errors import ConfigError, PeerError, ShardError
from engine.shard.guard import BROKEN, OK, WAITING, Copies, Guard, Optimistic, Pessimistic, Replicated, backups_of
from engine.table.migrate import Mover
from engine.table.shards import open_group


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("way", [Optimistic, Pessimistic, lambda t: Optimistic(t, wide=True)])
def test_transfers_between_rows_keep_the_sum(shared, way):
    """Threads move amounts between rows; every moment's sum, and the last, is that of the start."""
    stores = open_group(2, width=2, rows=64, shared=shared)
    keys = np.arange(8, dtype=np.uint64)
    stores[0].table.inc(keys, np.full((8, 2), 100, np.float32))
    owner = stores[0].ledger.route(keys)
    ways = [way(s.table) for s in stores]
    wide = not isinstance(ways[0], Optimistic) or ways[0].wide
    pool = keys if wide else keys[owner == owner[0]]
    failed = []

    def work(me):
        draw = np.random.default_rng(me)
        try:
            for _ in range(40):
                pair = draw.choice(pool, 2, replace=False)
                amount = float(draw.integers(1, 9))
                ways[me].update(pair, lambda rows, by=amount: rows + np.array([[by, by], [-by, -by]], np.float32))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(r,)) for r in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failed
    assert (stores[1].table.get(keys).sum(axis=0) == 800).all()
    assert len(np.unique(stores[1].table.get(keys)[:, 0])) > 1


def test_a_transaction_is_tried_again_when_overtaken():
    table = open_group(1, width=1, rows=64)[0].table
    calls = []

    def change(rows):
        calls.append(1)
        if len(calls) < 4:
            table.inc(np.array([5]), np.ones((1, 1)))
        return rows * 2

    way = Optimistic(table)
    assert way.update(np.array([5]), change)[0, 0] == 6
    assert way.retries == 3


def test_rows_of_two_owners_need_wide():
    stores = open_group(2, width=1, rows=64)
    with pytest.raises(ShardError, match="rows of 2 owners"):
        Optimistic(stores[0].table).update(np.arange(20), lambda rows: rows)


class Tickets(RuleBasedStateMachine):
    """One lock word against a queue: order of asking, one holder, leases that run out, epochs that void."""

    @initialize()
    def start(self):
        memory = open_group(1, width=1, rows=64)[0]
        self.slab, self.keep = memory.table.slab, memory
        self.now, self.queue, self.granted, self.epoch = 1000, [], None, 0

    @rule()
    def ask(self):
        self.queue.append((self.slab.ticket(3), self.epoch))

    @rule(dt=st.integers(1, 80))
    def later(self, dt):
        self.now += dt

    @rule()
    def member_lost(self):
        self.epoch += 1

    @rule(at=st.integers(0, 5), current=st.booleans())
    def turn(self, at, current):
        if not self.queue:
            return
        ticket, asked = self.queue[at % len(self.queue)]
        status = self.slab.turn(3, ticket, self.epoch if current else asked, self.now, 100)
        if status == OK:
            holder, until, epoch = self.granted or (ticket, 0, 0)
            if holder != ticket:
                assert self.now >= until or self.epoch > epoch
            elder = [t for t, _ in self.queue if t < ticket]
            assert all(self.slab.turn(3, t, self.epoch, self.now, 100) == BROKEN for t in elder)
            if holder != ticket or self.granted is None:
                self.granted = (ticket, self.now + 100, self.epoch if current else asked)
            self.queue = [(t, e) for t, e in self.queue if t >= ticket]
        elif status == BROKEN:
            self.queue = [(t, e) for t, e in self.queue if t != ticket]

    @rule()
    def release(self):
        if self.granted:
            ticket = self.granted[0]
            status = self.slab.release(3, ticket)
            assert status in (OK, BROKEN)
            self.queue = [(t, e) for t, e in self.queue if t != ticket]
            self.granted = None

    @invariant()
    def never_stuck(self):
        """Whoever asks long enough gets it: no lock outlives its lease."""
        if getattr(self, "queue", None) and self.now > 1200 and self.now % 7 == 0:
            ticket = self.queue[0][0]
            for _ in range(len(self.queue) * 4 + 80):
                status = self.slab.turn(3, ticket, self.epoch, self.now, 100)
                if status != WAITING:
                    break
                self.now += 101
            assert status in (OK, BROKEN)
            self.queue, self.granted = self.queue[1:], None
            self.slab.release(3, ticket)


TestTickets = Tickets.TestCase
TestTickets.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_a_lock_whose_holder_died_is_passed_on_after_its_lease():
    stores = open_group(2, width=1, rows=64)
    key = np.array([int(np.flatnonzero(stores[0].ledger.route(np.arange(9, dtype=np.uint64)) == 1)[0])])
    dead, next_ = Pessimistic(stores[0].table, lease_s=0.2), Pessimistic(stores[1].table, lease_s=0.2)
    holding = dead.held(key)
    lock = holding.__enter__()
    began = time.monotonic()
    next_.update(key, lambda rows: rows + 1)
    assert 0.1 < time.monotonic() - began < 2
    with pytest.raises(PeerError, match="lease ran out"):
        lock.update(lambda rows: rows + 100)
    holding.__exit__(None, None, None)
    assert dead.breaks == 1
    assert stores[0].table.get(key)[0, 0] == 1


def test_a_migration_waits_for_the_lock_of_its_slot_and_sends_who_waits_to_the_new_owner():
    stores = open_group(3, width=1, rows=64)
    key = np.array([int(np.flatnonzero(stores[0].ledger.route(np.arange(30, dtype=np.uint64)) == 1)[0])], np.uint64)
    holder, waiter = Pessimistic(stores[0].table), Pessimistic(stores[2].table)
    mover = Mover(stores[1], stores[1].ledger.slots(key), 2)
    steps, seen, waited = mover.steps(), [], threading.Thread(target=waiter.update, args=(key, lambda rows: rows * 10))
    with holder.held(key) as lock:
        for _ in range(40):
            seen.append(next(steps))
        assert seen[-1] == "catchup"  # it stands in the queue of the lock
        waited.start()
        time.sleep(0.05)
        assert (lock.update(lambda rows: rows + 1) == 1).all()  # the holder is not disturbed
    assert list(steps)[-1] == "done"
    waited.join(10)
    assert not waited.is_alive() and holder.breaks == waiter.breaks == 0
    for store in stores:
        assert store.table.get(key)[0, 0] == 10
    assert stores[2].ledger.one(int(key[0])) == 2
    assert stores[1].table.slab.turn(0, stores[1].table.slab.ticket(0), 0, time.monotonic_ns(), 1) == OK  # given back


def test_transactions_lose_nothing_while_their_slots_move_to_and_fro():
    stores = open_group(3, width=1, rows=256)
    keys, each, failed = np.arange(24, dtype=np.uint64), 60, []
    done = np.zeros(3)

    def work(rank):
        draw, way = np.random.default_rng(rank), Pessimistic(stores[rank].table, lease_s=30)
        try:
            for _ in range(each):
                way.update(draw.choice(keys, 3, replace=False), lambda rows: rows + 1)
                done[rank] += 3
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    moves = 0
    while any(thread.is_alive() for thread in threads) or moves < 4:
        for source, target in ((2, 0), (0, 1), (1, 2)):
            slots = stores[source].ledger.owned(source)
            if len(slots):
                mover = Mover(stores[source], slots[: 1 + len(slots) // 2], target, tell=range(3))
                assert mover.run(short_s=0.1).phase == "done"
                moves += 1
    for thread in threads:
        thread.join(30)
    assert not failed, failed
    assert stores[0].table.get(keys).sum() == done.sum() == 2 * 3 * each


def test_a_change_of_membership_voids_locks_at_once():
    stores = open_group(2, width=1, rows=64)
    key = np.array([3])
    dead, next_ = Pessimistic(stores[0].table, lease_s=100), Pessimistic(stores[1].table, lease_s=100, epoch=1)
    dead.held(key).__enter__()
    began = time.monotonic()
    next_.update(key, lambda rows: rows + 1)
    assert time.monotonic() - began < 1


@given(nodes=st.lists(st.integers(0, 4), min_size=1, max_size=12), count=st.integers(1, 3))
def test_backups_are_on_other_nodes_all_different(nodes, count):
    node = np.array(nodes)
    for rank, row in enumerate(backups_of(node, count)):
        named = [b for b in row.tolist() if b >= 0]
        where = [nodes[rank], *(nodes[b] for b in named)]
        assert len(set(where)) == len(where)
        assert len(named) == min(count, len(set(nodes)) - 1)


@pytest.mark.parametrize("ack", ["sync", "semi", "async"])
def test_backups_have_what_was_acknowledged(ack):
    from engine.table.migrate import take_over

    stores = open_group(4, width=2, rows=200, backups=2)
    ways = [Replicated(s.table, ack=ack) for s in stores]
    changes = [w.protect(s.node) for w, s in zip(ways, stores, strict=True)]
    for store in stores:
        for change in changes:
            store.ledger.apply(change)
    keys = np.arange(100)
    for me in (0, 2, 0):
        ways[me].inc(keys, np.ones((100, 2), np.float32))
    lost = 1
    book = stores[0].ledger
    slots = book.owned(lost)
    first, second = book.backup[slots[0]].tolist()
    if ack == "async":
        assert all(len(rows.keys) == 0 or set(stores[first].ledger.route(rows.keys).tolist()) == {first}
                   for rows in stores[first].table.rows())
        assert ways[0].flush() > 0
        ways[2].flush()
    heir = stores[first if ack == "semi" else second]
    told = take_over(heir, slots, [])
    for rank, store in enumerate(stores):
        if rank != lost:
            store.ledger.apply(told)
            assert (store.table.get(keys) == 3).all()


def test_hot_copies_are_bounded_in_age_and_write_once_a_clock():
    stores = open_group(2, width=1, rows=64)
    keys, hot = np.arange(20), np.arange(5)
    ways = [Copies(s.table, hot, staleness=2) for s in stores]
    total = 0
    seen = []
    for step in range(8):
        before = stores[0].server.stats()["served"] + stores[1].server.stats()["served"]
        for _ in range(10):
            ways[0].inc(hot, np.ones((5, 1)))
        total += 10
        assert stores[0].server.stats()["served"] + stores[1].server.stats()["served"] == before
        assert (ways[0].get(hot) == total).all()
        seen.append(float(ways[1].get(keys)[0, 0]))
        assert seen[-1] >= 10 * (step - 2)
        for way in ways:
            way.clock()
    assert seen == sorted(seen)
    assert ways[1].hits == 8 * 5
    assert (stores[1].table.get(hot) == total).all()


def test_modes_are_switched_at_a_clock():
    stores = open_group(1, width=1, rows=64, backups=1)
    guard = Guard(stores[0].table, "replicated", ack="async")
    guard.way.inc(np.array([1]), np.ones((1, 1)))
    assert guard.switch("optimistic") == 1
    assert guard.way.update(np.array([1]), lambda rows: rows + 1)[0, 0] == 2
    guard.switch("pessimistic", lease_s=1.0)
    assert guard.way.update(np.array([1]), lambda rows: rows + 1)[0, 0] == 3
    with pytest.raises(ConfigError, match="expected one of plain"):
        guard.switch("magic")
    with pytest.raises(ConfigError, match="keeps no backups"):
        Guard(open_group(1, width=1, rows=64)[0].table, "replicated")
