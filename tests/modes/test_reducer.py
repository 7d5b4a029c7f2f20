"""The planner's executor: as told or as measured, the sum is right, the same everywhere, and the choice is explained."""
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine.cluster import route as plan
from engine.comm.local import Alone, group
from engine.modes import reducer
from engine.modes.reducer import Reducer

N = 20_000
STEPS = 140  # more than heats and a final of five candidates take


def drawn(rank, step):
    return np.random.default_rng(rank * 100 + step).normal(size=N).astype(np.float32)


def on_ranks(size, work, **options):
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, group(size, timeout_s=20, **options)))


SLOW = plan.Fit(plan.Wire(1e-5, 1e-7), plan.Wire(1e-5, 1e-7), 1, 2e-10,
                dict.fromkeys(("bf16", "int8", "sign", "topk"), 1e-9), dict.fromkeys(("bf16", "int8", "sign", "topk"), 1e-9))


@pytest.mark.parametrize("codec", ["dense", "bf16", "int8", "sign", "topk:0.05", "lowrank:2", "auto"])
def test_what_comes_and_what_is_owed_is_what_was_given(codec):
    def work(link):
        made = Reducer(link, N, codec, constants=SLOW)
        sums = [made(drawn(link.rank, s)).copy() for s in range(STEPS)]
        return sums, made.owed(), made.picked, made.lines()

    found = on_ranks(3, work)
    for s in range(STEPS):
        assert len({sums[s].tobytes() for sums, *_ in found}) == 1
    exact = sum(drawn(r, s).astype(np.float64) for r in range(3) for s in range(STEPS))
    came = sum(x.astype(np.float64) for x in found[0][0]) + sum(owed.astype(np.float64) for _, owed, *_ in found)
    np.testing.assert_allclose(came, exact, atol=2e-3)
    assert len({picked for *_, picked, _ in found}) == 1 and found[0][2]
    if codec == "auto":
        assert any("<- taken" in line for line in found[0][3]) and any("tried:" in line for line in found[0][3])


def test_auto_looks_again_and_leaves_what_has_become_slow(monkeypatch):
    monkeypatch.setattr(reducer, "LEAST_BETWEEN", 5)

    def work(link):
        said = []
        made = Reducer(link, N, "auto", allowed=("dense", "sign"), constants=SLOW, note=said.append)
        plain, costs = made._by, {"dense": 0.02, "sign": 0.01}  # seconds a step of each takes beside its own

        def by(name, g):
            time.sleep(costs[name])
            return plain(name, g)

        made._by = by
        step, picks, total = 0, [], np.zeros(N)

        def until(name):
            nonlocal step
            while made.picked != name and step < 400:
                total[:] += made(drawn(link.rank, step))
                step += 1
            picks.append(made.picked)

        until("sign")
        costs |= {"sign": 0.06, "dense": 0.005}
        until("dense")
        costs |= {"sign": 0.005, "dense": 0.06}
        until("sign")
        return picks, said, total, made.owed(), step

    found = on_ranks(2, work)
    picks, said, total, _, steps = found[0]
    assert picks == ["sign", "dense", "sign"] == found[1][0]
    assert [line.split(":")[0] for line in said] == ["dense instead of sign", "sign instead of dense"]
    exact = sum(drawn(r, s).astype(np.float64) for r in range(2) for s in range(steps))
    np.testing.assert_allclose(total + sum(owed.astype(np.float64) for *_, owed, _ in found), exact, atol=5e-3)


def test_one_rank_needs_no_plan():
    made = Reducer(Alone(), N)
    assert np.array_equal(made(drawn(0, 0)), drawn(0, 0)) and made.picked == "dense"


@pytest.mark.parametrize(("bad", "words"), [({"codec": "zip"}, "int8"), ({"route": "star"}, "halving")])
def test_unknown_words_name_those_there_are(bad, words):
    with pytest.raises(ValueError, match=words):
        Reducer(Alone(), N, **bad)


def test_what_a_sparse_sum_left_is_gone_from_the_next_also_where_it_overflowed():
    def work(link):
        made = Reducer(link, 1000, "topk:.01")
        g = np.zeros(1000, np.float32)
        g[:5] = 3e38
        with np.errstate(over="ignore"):
            first = made(g).copy()
        later = np.zeros(1000, np.float32)
        later[500:510] = 1.0
        return first, made(later).copy()

    for first, second in on_ranks(2, work):
        assert np.isinf(first[:5]).all() and not first[5:].any()
        assert second[500:510].tolist() == [2.0] * 10 and not second[:500].any() and not second[510:].any()
        assert not np.signbit(second).any()
