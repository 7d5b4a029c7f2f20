"""`engine shard plan`: rule, granularity and placement with their reasons, of files and of made-up accesses."""
import json

import numpy as np
import pytest

from engine.cli import main
from engine.config import resolve
from engine.errors import ConfigError
from engine.shard.advise import Sample, advise
from engine.table.placement import main as plan


def test_a_zipf_source_is_planned_for_many_ranks(capsys):
    assert main(["shard", "plan", "zipf:1.0:200000", "--ranks", "256", "--per-node", "8", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["plan"]["before"] > 10
    assert said["plan"]["after"] < 1.05
    assert said["plan"]["replicate"] > 100
    assert said["plan"]["moved_share"] < 0.01
    assert any(one.startswith("replicate") for one in said["plan"]["reasons"])


def test_a_file_is_looked_at_and_the_plan_is_readable(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text("a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(500)))
    assert main(["shard", "plan", str(path), "--ranks", "2"]) == 0
    said = capsys.readouterr().out
    assert "rule         rows by range" in said
    assert "500 rows looked at: dense" in said
    assert "fullest rank" in said


@pytest.mark.parametrize(("source", "more", "ranks", "said"), [
    ("zipf:x:3", [], 2, "expected zipf:POWER:KEYS"), ("zipf:1.0:100", [], 0, "ranks, per-node and rows of at least 1"),
    ("zipf:1.0:100000", ["shard.memory=4096"], 2, "memory caps too small"),
    ("zipf:1.0:100", ["shard.onesided=magic"], 2, "expected one of auto"),
])
def test_bad_input_is_named(source, more, ranks, said):
    with pytest.raises(ConfigError, match=said):
        plan(resolve(overrides=[f"data.source={source}", *more], env={}), ranks=ranks, per_node=1,
             per_rack=0, rows=100, as_json=True)


def test_the_rule_follows_what_fits():
    draw = np.random.default_rng(0)
    keys = draw.integers(0, 1 << 40, 50_000, dtype=np.uint64)
    sparse = Sample(1000, 1 << 30, True, keys, 50.0, 256)
    assert advise(sparse, 16, 1e12).rule == "rows"
    assert advise(sparse, 16, 1e9).rule == "table"
    dense = Sample(1000, 1 << 24, False, np.arange(1000, dtype=np.uint64), float(1 << 24), 256)
    made = advise(dense, 16, 1e8)
    assert (made.rule, made.by) == ("columns", "range")
    assert len(made.reasons) >= 4
