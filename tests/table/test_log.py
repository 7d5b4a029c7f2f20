"""A table's log gives back every row as of the last clock: after a restart on other ranks, a kill, a death, to a migration."""
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import StoreError
from engine.table.log import lost, place, restore, rows_of
from engine.table.migrate import Mover, take_over
from engine.table.shards import open_group

WIDTH = 3
KEYS = np.arange(40, dtype=np.uint64)


def opened(size, folder, **options):
    """Tables over one folder, the rows of their logs restored before any begins its own."""
    stores = open_group(size, width=WIDTH, rows=256, **options)
    for store in stores:
        restore(store.table, folder)
    for store in stores:
        store.keep(folder)
    return stores


def close(stores):
    for store in stores:
        store.close()


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_table_opened_again_on_any_ranks_has_the_rows_of_the_last_clocks(data, tmp_path_factory):
    folder, model, draw = tmp_path_factory.mktemp("log"), np.zeros((len(KEYS), WIDTH), np.float32), np.random.default_rng(0)
    for _ in range(data.draw(st.integers(1, 4), "lives")):
        stores = opened(data.draw(st.integers(1, 3), "ranks"), folder)
        assert np.array_equal(stores[0].table.get(KEYS), model)
        for act in data.draw(st.lists(st.sampled_from(["inc", "inc", "clock", "compact", "move"]), max_size=8)):
            who = stores[draw.integers(len(stores))]
            if act == "inc":
                at = draw.integers(0, len(KEYS), 5)
                who.table.inc(KEYS[at], np.ones((5, WIDTH)))
                np.add.at(model, at, 1)
            elif act == "clock":
                for store in stores:
                    store.table.clock()
            elif act == "compact":
                who.log.compact()
            elif len(stores) > 1:
                rank = who.table.rank
                slots = who.ledger.owned(rank)[::2]
                if len(slots):
                    tell = range(len(stores))
                    assert Mover(who, slots, (rank + 1) % len(stores), tell=tell).run().phase == "done"
        assert np.array_equal(stores[-1].table.get(KEYS), model)
        close(stores)  # appends what changed since the last clock


def test_a_rank_that_dies_is_taken_over_from_its_log(tmp_path):
    stores = opened(3, tmp_path)
    stores[0].table.inc(KEYS, np.ones((len(KEYS), WIDTH)))
    for store in stores:
        store.table.clock()
    mine = stores[0].ledger.route(KEYS) == 1
    stores[0].table.inc(KEYS[mine][:1], np.ones((1, WIDTH)))  # after the last clock: lost with rank 1, and nothing else is
    gone = stores[0].ledger.owned(1)
    moved = stores[2].ledger.owned(2)[:200]
    assert Mover(stores[2], moved, 1, tell=[0]).run().phase == "done"  # and dies before its next clock
    gone = np.union1d(gone, moved)
    changes = take_over(stores[0], gone, lost(stores[0].table, tmp_path, gone))
    stores[2].ledger.apply(changes)
    for who in (stores[0], stores[2]):
        assert np.array_equal(who.table.get(KEYS), np.ones((len(KEYS), WIDTH)))
    stores[2].table.inc(KEYS, np.ones((len(KEYS), WIDTH)))
    assert np.array_equal(stores[0].table.get(KEYS), np.full((len(KEYS), WIDTH), 2))


CHILD = """
import sys, numpy as np
from engine.comm.local import Alone
from engine.table.shards import open_table
store = open_table(Alone(), width=3, rows=4096)
store.keep(sys.argv[1])
keys = np.arange(500, dtype=np.uint64)
while True:
    store.table.inc(keys, np.ones((500, 3), np.float32))
    print(store.table.clock(), flush=True)
"""


def test_a_killed_process_loses_nothing_that_a_clock_had_told(tmp_path):
    keys, before = np.arange(500, dtype=np.uint64), 0
    for turn in range(3):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(5):
            child.stdout.readline()
        time.sleep(0.02 * turn)
        child.send_signal(signal.SIGKILL)
        told = int(("5\n" + child.stdout.read()).split("\n")[-2])
        child.wait(10)
        stores = opened(2, tmp_path)
        found = stores[0].table.get(keys)
        assert before + told <= found.min() and found.max() <= before + told + 1
        close(stores)
        before = int(found.min())
        if (found != before).any():  # killed inside an append: rows of the next clock that were already written stay
            stores = opened(2, tmp_path)
            stores[0].table.inc(keys, before + 1 - found)
            before += 1
            close(stores)


def test_the_log_is_compacted_and_bad_ones_are_named(tmp_path):
    stores = opened(1, tmp_path)
    table = stores[0].table
    table.inc(KEYS, np.ones((len(KEYS), WIDTH)))
    version = stores[0].log.append()
    assert [len(rows.keys) for rows in stores[0].log.since(version - 1)] == [40]
    for _ in range(3500):
        table.inc(KEYS, np.ones((len(KEYS), WIDTH)))
        table.clock()
    journal = stores[0].log.journal
    assert journal.first > 0 and journal.size_bytes < 4 << 20
    with pytest.raises(StoreError, match="take a whole copy"):
        next(stores[0].log.since(0))
    close(stores)
    with pytest.raises(StoreError, match="expected rows of 5 floats, found 3"):
        next(rows_of(tmp_path, 0, width=5))
    path = sorted(place(tmp_path, 0).glob("journal-*.log"))[-1]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match="its end is lost or damaged"):
        next(rows_of(tmp_path, 0, width=WIDTH))


@pytest.mark.parametrize("pack", [True, False])
def test_a_migration_reads_its_rounds_from_the_log(pack):
    stores = open_group(2, width=WIDTH, rows=1024)
    for store in stores:
        store.keep()
    table = stores[0].table
    keys = np.arange(900, dtype=np.uint64)
    table.inc(keys, np.ones((900, WIDTH)))
    mover = Mover(stores[0], stores[0].ledger.owned(0)[::2], 1, pack=pack)
    rounds = 0
    for phase in mover.steps():
        if phase in ("copy", "catchup") and rounds < 4:
            rounds += 1
            table.inc(keys, np.ones((900, WIDTH)))
            if rounds == 2:
                stores[0].log.compact()
    assert rounds > 1
    assert np.array_equal(stores[1].table.get(keys), np.full((900, WIDTH), 1 + rounds))
    assert np.array_equal(table.get(keys), np.full((900, WIDTH), 1 + rounds))
    stores[1].table.clock()
    assert sum(len(rows.keys) for rows in stores[1].log.since(stores[1].log.journal.first)) > 600  # three quarters
