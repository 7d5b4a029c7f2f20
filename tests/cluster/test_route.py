"""The planner's formulas: they bend the right way, dense is never dropped, and 10^5 ranks are a question like any other."""
import pytest

from engine.cluster.forecast import told
from engine.cluster.route import CODECS, Fit, Scale, Wire, choose, explain, guess, halving_s, ring_s, step_s, weak, wire_s
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
