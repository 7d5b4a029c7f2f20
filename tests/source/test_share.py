"""Feeds that move between ranks while they are read: the plan balances, and each row is taken once, whoever takes it."""
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.comm.local import group
from engine.errors import DataError
from engine.source import live as lives
from engine.source.live import Live, together
from engine.source.read import open_source
from engine.source.share import Held, Move, moves, speeds

TOTAL, FILES = 24_000, 6


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1e6), st.lists(st.integers(0, 10**6), max_size=6)), min_size=1, max_size=6))
def test_a_plan_moves_feeds_only_to_make_the_latest_rank_less_late(ranks):
    held = [Held(pace, {f"{rank}.{i}": float(w) for i, w in enumerate(work)}) for rank, (pace, work) in enumerate(ranks)]
    pace, owner = speeds(np.array([one.pace for one in held])), {name: r for r, one in enumerate(held) for name in one.feeds}
    load = {name: w for one in held for name, w in one.feeds.items()}

    def latest():
        return max(sum(load[n] for n, r in owner.items() if r == rank) / pace[rank] for rank in range(len(held)))

    before, found = latest(), moves(held)
    assert len({move.name for move in found}) == len(found)
    for move in found:
        assert owner[move.name] == move.source
        owner[move.name] = move.target
    assert latest() <= before
    assert not moves([Held(p, {n: load[n] for n, r in owner.items() if r == rank}) for rank, p in enumerate(pace)])


def test_a_plan_counts_what_stays_and_refuses_two_readers():
    assert moves([Held(1e3, {"a": 5000.0, "b": 5000.0}), Held(1e3, {})]) == [Move("a", 0, 1)]
    assert moves([Held(1e3, {"a": 5000.0, "b": 5000.0}), Held(1e3, {}, fixed=9000.0)]) == []
    assert moves([Held(1e3, {"a": 600.0}), Held(0.0, {})]) == []  # nobody is late
    assert [m.name for m in moves([Held(4e3, {"a": 4e3, "b": 4e3}), Held(1e3, {"c": 4e3, "d": 4e3})])] == ["c"]
    with pytest.raises(DataError, match="one reader"):
        moves([Held(1.0, {"a": 1.0}), Held(1.0, {"a": 1.0})])


def uneven(folder, size):
    """Files that all fall to rank 0 by their inodes, of unlike lengths."""
    folder.mkdir()
    sizes = np.random.default_rng(size).multinomial(TOTAL, [0.4, 0.2, 0.2, 0.1, 0.05, 0.05])
    first, spare = 0, []
    for part, rows in enumerate(sizes.tolist()):
        while True:
            path = folder.parent / f"{len(spare)}.tmp"
            path.write_text("".join(f"{i},1\n" for i in range(first, first + rows)))
            spare.append(path)
            if os.stat(path).st_ino % size == 0:
                break
        os.rename(path, folder / f"part{part}.csv")
        first += rows
    return f"follow:{folder}"


def opened(spec):
    return open_source(spec, task="regression", header=False, columns=("i", "y"), idle_s=0.3)


def steps(stream, link, k, most, slow=()):
    """Rows this rank took in at most so many steps with the others; `slow`: seconds a row of each rank."""
    rows, spent = [], [0.0]
    stream.busy_s = lambda: spent[0]
    for _ in range(most):
        batch = stream.take(k)
        count = 0 if batch is None else len(batch)
        rows += [] if batch is None else batch.x[:, 0].astype(int).tolist()
        spent[0] += count * (slow[link.rank % len(slow)] if slow else 1e-5)
        if not link.vote(np.array([stream.left]), name="step").any():
            break
    return rows


def test_feeds_leave_a_rank_that_has_all_of_them_and_other_numbers_of_ranks_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(lives, "SHARE_TAKES", 4)
    spec, known, taken, received = uneven(tmp_path / "in", 6), {}, [], 0
    for size, most in ((3, 30), (2, 20), (1, 20), (6, 10_000)):

        def work(link, size=size, most=most, known=known):
            source = opened(spec)
            stream = Live(source, link, known, share=True)
            rows = steps(stream, link, 100, most, slow=(1e-5, 4e-5))
            marks, feeds = link.gather(stream.mark(), name="marks"), len(stream._feeds)
            place = together(marks or (), stream.began)
            stream.close()
            return rows, place, source.stats.get("received", 0), feeds

        with ThreadPoolExecutor(size) as pool:
            found = list(pool.map(work, group(size, timeout_s=20)))
        taken += [row for rows, *_ in found for row in rows]
        received += sum(one[2] for one in found)
        assert size == 1 or sum(one[3] > 0 for one in found) > 1
        known = found[0][1]
    assert received > 1 and len(taken) == TOTAL and sorted(taken) == list(range(TOTAL))


@pytest.mark.ranks(3)
def test_feeds_move_between_real_ranks(size, tmp_path_factory, monkeypatch):
    from engine.comm.world import World, start

    monkeypatch.setattr(lives, "SHARE_TAKES", 4)
    link = World(start().COMM_WORLD, timeout_s=30)
    spec = link.bcast(uneven(tmp_path_factory.mktemp("share") / "in", size) if link.rank == 0 else None, name="folder")
    source = opened(spec)
    stream = Live(source, link, share=True)
    rows = steps(stream, link, 100, 10_000, slow=(1e-5, 1e-5, 5e-5))
    stream.close()
    found = link.gather((rows, source.stats.get("received", 0)), name="rows")
    if link.rank == 0:
        assert sorted(row for rows, _ in found for row in rows) == list(range(TOTAL))
        assert [count > 0 for _, count in found] == [False, True, True] or found[1][1] > 0
        assert len(found[1][0]) > 0.2 * TOTAL  # of a rank that had no file
