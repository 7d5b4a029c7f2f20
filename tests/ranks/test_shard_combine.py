"""Adds combined for a node, on real ranks: none lost or doubled, fewer requests, clocks that hold, bounded queues."""
import time
from contextlib import contextmanager

import numpy as np
import pytest

from engine.errors import ConfigError
from engine.shard.guard import Optimistic, Replicated
from engine.table.migrate import Mover
from engine.table.shards import open_table


@contextmanager
def opened(link, ranks_a_node=2, **more):
    """A table of ranks that say they are on nodes of so many ranks."""
    before, link.node = link.node, link.rank // ranks_a_node * ranks_a_node
    try:
        store = open_table(link, **more)
        yield store
        store.close()
    finally:
        link.node = before


def expected(size, width, turns, keys_of):
    """Row of each key after every rank's adds of 1 + rank."""
    want = np.zeros(1000)
    for rank in range(size):
        for turn in range(turns):
            np.add.at(want, keys_of(rank, turn), rank + 1.0)
    return np.repeat(want[:, None], width, axis=1).astype(np.float32)


def drawn(rank, turn):
    return np.random.default_rng(100 * turn + rank % 2).zipf(1.3, 60) % 1000


def counted(table):
    """Notes the requests to apply that the table makes."""
    made, frame = [], table.frame

    def noted(kind, *args, **more):
        made.extend([kind] * (kind == "apply"))
        return frame(kind, *args, **more)

    table.frame = noted
    return made


@pytest.mark.smoke
@pytest.mark.ranks(4)
def test_no_add_is_lost_or_doubled_and_fewer_requests_are_sent(size, link):
    turns, every, found = 30, np.arange(1000), {}
    for mode in ("inline", "thread"):
        for combine in (0, 512, 20):  # 20 rows: full many times
            with opened(link, width=3, rows=2000, combine=combine, combine_s=60.0, service_mode=mode) as store:
                table, asked = store.table, counted(store.table)
                for turn in range(turns):
                    for part in np.array_split(drawn(link.rank, turn), 6):
                        table.inc(part, np.full((len(part), 3), link.rank + 1, np.float32))
                    table.clock()
                    table.wait(0)
                    if combine:
                        assert table.queue.stats()["used"] <= table.queue.stats()["buckets"] // 8 * 7
                store.remote.barrier("added")
                assert np.array_equal(table.get(every), expected(size, 3, turns, drawn))
                store.remote.barrier("compared")
                if combine:
                    told = link.vote(np.array([table.added, table.sent_rows, table.flushes], np.int64), name="rows").sum(axis=0)
                    assert told[0] > told[1] > 0  # keys that came twice travelled once
                    assert told[2] <= 2 * turns or combine == 20
                found[combine] = int(link.vote(np.array([len(asked)], np.int64), name="asked").sum())
                store.remote.barrier("read")
        assert found[512] <= 2 * 2 * turns  # one request a clock of each node to each owner of the other
        assert found[512] < found[20] < found[0]  # without: one of each rank for each batch
        assert found[0] > 6 * found[512]


@pytest.mark.ranks(3)
def test_every_operation_keeps_its_order(size, link):
    with opened(link, 3, width=2, rows=500, onesided="served", combine=128, combine_s=60.0, backups=1) as store:
        table, keys = store.table, np.arange(40) + 100 * link.rank
        table.inc(keys, np.ones((40, 2)))
        table.inc(keys, np.full((40, 2), 7.0), op="assign")  # after the add, whoever owns the row
        table.inc(keys, np.full((40, 2), 4.0), op="sgd", rate=0.5)
        table.clock()
        table.wait(0)
        assert (table.get(keys) == 5).all()
        table.inc(keys[:1], np.ones((1, 2)))
        Optimistic(table).update(keys[:1], lambda rows: rows * 2)
        assert (table.get(keys[:1]) == 12).all()
        with pytest.raises(ConfigError, match="combines adds"):
            Replicated(table)
        store.remote.barrier("read")
    with pytest.raises(ConfigError, match="admission at the first add"):
        open_table(link, width=2, rows=500, combine=8, admit=2)
    link.barrier(name="refused")


@pytest.mark.long
@pytest.mark.ranks(4)
def test_a_late_mate_and_a_quiet_rank_hold_nothing_up(size, link):
    """Sent after the limit: the clock of a rank whose mate never comes to it, and an add that no clock follows."""
    with opened(link, width=2, rows=500, combine=256, combine_s=0.02) as store:
        table, key = store.table, np.arange(64)
        if link.rank % 2 == 0:  # the odd ranks stay at clock 0
            table.inc(key, np.ones((64, 2)))
            table.clock()
            table.wait(1)
            until = time.monotonic() + 10
            while (table.clocks()[[0, 2]] < 1).any() and time.monotonic() < until:
                table.poll()
            assert (table.clocks()[[0, 2]] == 1).all()
            assert (table.get(key) == 2).all()
        store.remote.barrier("first")
        if link.rank == 1:
            table.inc(key, np.ones((64, 2)))
            until = time.monotonic() + 10
            while not (table.get(key) == 3).all() and time.monotonic() < until:
                table.poll()
            assert (table.get(key) == 3).all()
        store.remote.barrier("second")


@pytest.mark.long
@pytest.mark.ranks(4)
def test_adds_are_combined_while_their_slots_move(size, link):
    """Slots of rank 0 go to rank 2, on the other node, and back, while all ranks add; every add is there once."""
    turns, every = 60, np.arange(1000)
    with opened(link, width=2, rows=3000, combine=96, slots_bits=6, combine_s=0.002) as store:
        table = store.table
        steps, homes = None, [(0, 2), (2, 0)]
        slots = store.ledger.owned(0)[:8]
        store.remote.barrier("begin")
        for source, target in homes:
            if link.rank == source:
                steps = Mover(store, slots, target, tell=[]).steps()
            state = None
            for turn in range(turns):
                keys = drawn(link.rank, turn)
                table.inc(keys, np.full((len(keys), 2), link.rank + 1, np.float32))
                if steps is not None:
                    try:
                        next(steps)
                    except StopIteration as end:
                        steps, state = None, end.value
                table.poll()
            while steps is not None:
                try:
                    next(steps)
                except StopIteration as end:
                    steps, state = None, end.value
                table.poll()
            assert link.rank != source or state.phase == "done"
            store.remote.barrier("moved")
        table.clock()
        table.wait(0)
        store.remote.barrier("added")
        assert np.array_equal(table.get(every), 2 * expected(size, 2, turns, drawn))
        store.remote.barrier("read")


@pytest.mark.ranks(4)
def test_pushes_to_a_learners_rows_are_combined_too(size, link):
    """Steps of SGD, merged by adding: every rank's steps are in the rows, once, and the gradients in their sums."""
    with opened(link, width=8, rows=2000, combine=256, combine_s=60.0, combine_op="merge") as store:
        table = store.table
        table.node.merges("sgd", "add", [0.1, 1.0, 0.0, 0.0])
        link.barrier(name="told")
        for turn in range(10):
            keys = np.unique(drawn(link.rank, turn))
            items = np.zeros((len(keys), 2, 7), np.float32)  # two classes, the second untouched
            items[:, 0] = [1 + link.rank, 0, 0, 2, 4, 1, 0]
            table.inc(keys, items, op="merge")
            table.clock()
            table.wait(2)
        table.flush()
        link.barrier(name="pushed")
        pushes = [np.bincount(np.concatenate([np.unique(drawn(r, t)) for t in range(10)]), minlength=1000) for r in range(size)]
        found = table.get(np.arange(1000))
        assert np.array_equal(found[:, 0], sum((1 + rank) * count for rank, count in enumerate(pushes)))
        assert np.array_equal(found[:, 3], 2 * sum(pushes))
        assert not found[:, 4:].any()
        with pytest.raises(ConfigError, match="merge: expected a width of 4 n, found 3"):
            open_table(link, width=3, rows=100, combine=8, combine_op="merge")
