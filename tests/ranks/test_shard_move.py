"""Single-row histories recorded on real ranks are linearizable in every mode, while the rows' slots move between ranks."""
import time

import numpy as np
import pytest

from engine.comm import onesided
from engine.shard.guard import Optimistic, Pessimistic, Replicated
from engine.table.migrate import Mover
from engine.table.shards import open_table

KEYS = 4
MODES = ("plain", "optimistic", "pessimistic", "replicated")


def linear(history):
    """Whether (begin, end, kind, count) of a counter fits one order: writes leave 1, 2, 3, ...; nobody sees time run back."""
    writes = sorted(count for _, _, kind, count in history if kind == "write")
    if writes != list(range(1, len(writes) + 1)):
        return False
    latest = 0  # the largest count that an operation which has ended left or saw
    ended = sorted((end, count) for _, end, _, count in history)
    at = 0
    for begin, _, kind, count in sorted(history):
        while at < len(ended) and ended[at][0] < begin:
            latest = max(latest, ended[at][1])
            at += 1
        if count < latest + (kind == "write"):
            return False
    began = {count: begin for begin, _, kind, count in history if kind == "write"}
    return all(count == 0 or began[count] < end for _, end, kind, count in history if kind == "read")


def test_the_check_itself_sees_what_is_not_linear():
    good = [(0, 1, "write", 1), (2, 3, "read", 1), (2.5, 5, "write", 2), (4, 6, "read", 1)]
    assert linear(good)
    assert not linear([*good, (7, 8, "read", 1)])
    assert not linear([*good, (7, 8, "write", 2)])
    assert not linear([(0, 1, "read", 1), (2, 3, "write", 1)])
    assert not linear([(0, 1, "write", 2)])


def writer(store, mode):
    """One more, and the count that leaves."""
    if mode in ("plain", "replicated"):
        way = store.table if mode == "plain" else Replicated(store.table)
        return lambda key: int(way.inc(key, np.ones((1, 2)))[0]) // 2
    way = Optimistic(store.table) if mode == "optimistic" else Pessimistic(store.table)
    return lambda key: int(way.update(key, lambda rows: rows + 1)[0, 0])


def record(store, mode, seconds, mover):
    """Reads and writes for a while, a step of the migration between; (begin, end, kind, count) of each row."""
    write, draw, until = writer(store, mode), np.random.default_rng(store.table.rank), time.monotonic() + seconds
    found = [[] for _ in range(KEYS)]
    steps, ended = (mover.steps() if mover else None), None
    while time.monotonic() < until or steps is not None:
        key = int(draw.integers(0, KEYS))
        begin = time.monotonic()
        kind = "read" if draw.random() < 0.5 else "write"
        one = np.array([key], np.uint64)
        count = int(store.table.get(one)[0, 0]) if kind == "read" else write(one)
        found[key].append((begin, time.monotonic(), kind, count))
        if steps is not None:
            try:
                next(steps)
            except StopIteration as end:
                steps, ended = None, end.value
        store.table.poll()
    assert ended is None or ended.phase == "done"
    return found


@pytest.mark.smoke
@pytest.mark.ranks(3)
def test_histories_are_linear_while_slots_move(size, link):
    for path in ("shared", "served", "rma"):
        for mode in MODES if path == "served" else ("plain", "optimistic"):
            store = open_table(link, width=2, rows=300, onesided=path, slots_bits=6, backups=1,
                               service_mode="thread" if path != "shared" else "inline")
            if mode == "replicated":
                for change in link.allgather(Replicated(store.table).protect(np.arange(size)).view(np.uint8), name="backups"):
                    store.ledger.apply(change.view(store.ledger.change))
            link.barrier(name="ready")
            moves = link.rank == 0 and mode != "pessimistic"
            mover = Mover(store, store.ledger.owned(0), 2) if moves else None
            mine = record(store, mode, 0.3, mover)
            store.remote.barrier("recorded")
            parts = link.gather(mine, name="histories")
            if link.rank == 0:
                for key in range(KEYS):
                    whole = [one for part in parts for one in part[key]]
                    assert len(whole) > 20
                    assert linear(whole), f"{path} {mode} key {key}"
            store.remote.barrier("checked")
            store.close()


@pytest.mark.smoke
@pytest.mark.ranks(1, 2)
def test_the_probe_says_the_same_everywhere_and_is_quick(size, link):
    onesided.measure(link)
    began = time.monotonic()
    found = onesided.measure(link)
    took = time.monotonic() - began
    assert all(one == found for one in link.bcast([found] * size, name="same"))
    if size == 1:
        assert found is None
        return
    assert took < 10.0
    assert found.path == "shared"
    assert found.atomics
    assert found.rate > 0
    assert "shared: a Put" in found.said()
