"""The planner's formulas: they bend the right way, dense is never dropped, and 10^5 ranks are a question like any other."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cluster.forecast import told
from engine.cluster.route import (
    CODECS,
    Fit,
    Scale,
    Wire,
    choose,
    chunk_of,
    close,
    explain,
    guess,
    halving_s,
    ring_s,
    step_s,
    verdict,
    weak,
    wire_s,
)
from engine.errors import ConfigError

CODING = {"encode_s": dict.fromkeys(CODECS, 5e-10), "decode_s": dict.fromkeys(CODECS, 3e-10)}
FAST = Fit(Wire(2e-6, 1e-11), Wire(2e-6, 1e-11), **CODING)  # 100 GB/s
SLOW = Fit(Wire(5e-5, 8e-9), Wire(5e-5, 8e-9), **CODING)  # 1 Gb/s
N = 1 << 24


def test_a_slow_wire_calls_for_codecs_and_a_fast_one_for_none():
    names = tuple(CODECS)
    assert [g.codec for g in choose(FAST, 8, N, names)] == ["dense"]
    slow = [g.codec for g in choose(SLOW, 8, N, names)]
    assert slow[-1] == "dense" and slow.index("sign") < slow.index("int8") < slow.index("bf16")


def test_short_arrays_halve_and_long_ones_do_not_care():
    assert halving_s(SLOW.far, 64, 100) < ring_s(SLOW.far, 64, 100)
    assert halving_s(SLOW.far, 64, 1e9) == pytest.approx(ring_s(SLOW.far, 64, 1e9), rel=1e-2)
    assert ring_s(SLOW.far, 1, 1e9) == halving_s(SLOW.far, 1, 1e9) == 0


def test_many_ranks_on_a_node_go_by_two_levels():
    fit = Fit(Wire(1e-6, 1e-10), Wire(2e-5, 1e-9), per_node=16)
    assert wire_s(fit, 64, 1e8)[1] == "node"
    assert wire_s(fit, 16, 1e8)[1] != "node"


def test_the_volume_of_a_sparse_exchange_is_six_words_an_entry():
    wire = Wire(0.0, 1.0)
    found = guess(Fit(wire, wire), 4, 1000, "topk", density=0.1)
    assert found.wire_s == pytest.approx(6 * 4 * 100 * 3 / 4)


def test_the_reasons_name_every_candidate_and_the_one_taken():
    lines = explain(SLOW, 4, N, tuple(CODECS), "int8", {"int8": 0.5})
    assert len(lines) == 1 + len(CODECS) and "0.12 GB/s" in lines[0]
    assert next(line for line in lines if "<- taken" in line).startswith("int8") and "tried: 500.000 ms" in "".join(lines)


def test_a_forecast_for_a_hundred_thousand_ranks_says_what_it_assumes():
    lines = told(100_000, 1e8, 64, 3.0, 200.0, 0.01)
    assert sum("<- taken" in line for line in lines) == 1 and any("assumed" in line for line in lines)
    with pytest.raises(ConfigError, match="ranks"):
        told(0, 1e8, 64, 3.0, 200.0, 0.01)


def test_weak_scaling_falls_slowly_and_never_rises():
    scale = Scale(rows=4096, row_s=1e-6, touched=2e4, union=2**22)
    found = dict(weak(SLOW, scale, (1, 2, 8, 64, 1024, 10**4, 10**5)))
    assert found[1] == 1 and all(0 < e <= 1 for e in found.values())
    values = list(found.values())
    assert values == sorted(values, reverse=True)
    assert sum(step_s(FAST, scale, 1024)) < sum(step_s(SLOW, scale, 1024))


def test_ranks_of_one_node_try_a_codec_only_where_their_link_is_truly_slow():
    near = Fit(Wire(2e-6, 1 / 4e9), Wire(0.0, 0.0), per_node=2, **CODING)  # 4 GB/s: sign is guessed at .7 of dense
    assert guess(near, 2, N, "sign").total_s < guess(near, 2, N, "dense").total_s
    assert [g.codec for g in choose(near, 2, N, ("dense", "int8", "sign", "topk"))] == ["dense"]
    slow = Fit(SLOW.near, Wire(0.0, 0.0), per_node=8, **CODING)
    assert len(choose(slow, 8, N, tuple(CODECS))) > 2


@given(st.integers(1, 1 << 30), st.integers(1, 4096))
def test_chunks_hold_whole_blocks_and_leave_every_rank_some(n, ranks):
    chunk = chunk_of(n, ranks)
    assert chunk % 1024 == 0 == chunk % 2304 and 1 << 16 <= chunk < (1 << 21) + 9216
    assert n <= ranks * (1 << 16) or n > (ranks - 1) * chunk


@given(st.integers(0, 1 << 30), st.floats(0.93, 3), st.integers(0, 4))
def test_dense_stays_unless_a_codec_is_clearly_quicker_in_all_rounds_but_one(seed, ratio, spoiled):
    rng = np.random.default_rng(seed)
    dense = (0.01 * rng.uniform(0.5, 4, 5)).tolist()  # a machine whose speed changes from round to round
    codec = [ratio * t * f for t, f in zip(dense, rng.uniform(0.99, 1.01, 5), strict=True)]
    assert verdict({"dense": dense, "sign": codec}, "dense") == "dense"
    quick = [0.5 * t for t in dense]
    assert verdict({"dense": dense, "sign": quick}, "dense") == "sign"
    quick[spoiled] = 9 * dense[spoiled]  # one round in which something else ran
    assert verdict({"sign": quick, "dense": dense}, "dense") == "sign"
    quick[(spoiled + 1) % 5] = 1.1 * dense[(spoiled + 1) % 5]
    assert verdict({"sign": quick, "dense": dense}, "dense") == "dense"


def test_a_codec_in_use_gives_way_to_dense_at_par_and_to_another_only_clearly():
    sign, at_par, better = [1.0] * 5, [0.99, 1.01, 0.98, 1.0, 0.97], [0.95] * 5
    assert verdict({"sign": sign, "dense": at_par}, "sign") == "dense"
    assert verdict({"sign": sign, "dense": [1.05] * 5}, "sign") == "sign"
    assert verdict({"sign": sign, "int8": better, "dense": [2.0] * 5}, "sign") == "sign"
    assert verdict({"sign": sign, "int8": [0.8] * 5, "dense": [2.0] * 5}, "sign") == "int8"
    assert verdict({"sign": sign, "int8": better}, "dense") == "int8"  # dense is out: the least


def test_heats_leave_those_close_to_the_quickest_and_dense_while_it_is_not_clearly_beaten():
    assert close({"dense": [9.0] * 3, "int8": [1.1] * 3, "sign": [1.0] * 3, "topk": [1.4] * 3}) == ["sign", "int8"]
    assert close({"dense": [0.9, 9.0, 0.9], "sign": [1.0, 1.0, 1.0]}) == ["dense", "sign"]
    assert close({"dense": [1.5, 1.0, 1.0], "sign": [1.0, 0.7, 1.1]}) == ["dense", "sign"]
    assert close({"dense": [1.3, 0.9, 1.5], "sign": [1.0, 1.0, 1.1]}) == ["sign", "dense"]  # not beaten in all
