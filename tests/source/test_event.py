"""Event time without ranks: stamps, watermark, ids remembered, windows; then whole runs of one rank over made-up streams."""
import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import resolve
from engine.errors import ConfigError
from engine.guard import Guard
from engine.kernels import _native
from engine.source.event import MICRO, Panes, Seen, Watermark, firsts, scale_of
from engine.source.live import from_rows
from engine.source.read import open_source
from engine.train import train
from engine.types import NO_TIME, Schema

UTC = dt.UTC


def parsed(cells, scale=1e6):
    text = "".join(f"x,{cell},y\n" for cell in cells).encode()
    at = np.cumsum([0, *(len(line) + 1 for line in text.split(b"\n")[:-2])]).astype(np.int64)
    out = np.empty(len(cells), np.int64)
    _native.parse_times(text, at, 1, ord(","), True, scale, out)
    return out.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30)), min_size=1, max_size=5), st.integers(-23, 23),
       st.sampled_from([0, 30, 45]))
def test_dates_are_read_as_python_reads_them(stamps, hours, minutes):
    zone = dt.timezone(dt.timedelta(hours=hours, minutes=minutes if hours >= 0 else -minutes))
    epoch = dt.datetime(1970, 1, 1, tzinfo=UTC)
    texts = [stamp.replace(tzinfo=zone).isoformat() for stamp in stamps]
    want = [(dt.datetime.fromisoformat(text) - epoch) // dt.timedelta(microseconds=1) for text in texts]
    assert parsed(texts) == want


def test_numbers_are_read_by_their_unit_and_what_is_no_time_is_said():
    assert parsed(["1700000000.25", "2023-11-14", "2023-11-14 22:13", "", "soon", "2023-13-01", "nan", "1e300"]) == [
        1_700_000_000_250_000, 1_699_920_000_000_000, 1_699_999_980_000_000, *[NO_TIME] * 5]
    assert [scale_of("auto", v) for v in (1.7e9, 1.7e12, 1.7e15, 1.7e18)] == [1e6, 1e3, 1.0, 1e-3]


def test_a_clock_far_ahead_is_not_believed_but_a_stream_that_jumps_is():
    mark = Watermark(lateness=10, jump=100)
    assert mark.offer(np.array([5, 7, 10_000]), 0) == (7, 1)
    assert mark.hear(np.array([7]), np.array([3]), 0) == -3
    newest, ahead = mark.offer(np.array([10_000, 10_001, 10_002, 8]), 0)
    assert (newest, ahead) == (10_002, 0)
    assert mark.hear(np.array([newest]), np.array([4]), 1) == 9_992
    assert mark.hear(np.array([20]), np.array([1]), 2) == 9_992  # it never goes back


def test_the_slowest_rank_holds_the_watermark_until_it_is_idle():
    mark = Watermark(idle_us=1000)
    assert mark.hear(np.array([50, NO_TIME]), np.array([5, 0]), 0) == NO_TIME  # nobody knows what rank 1 will bring
    assert mark.hear(np.array([50, 20]), np.array([5, 5]), 10) == 20
    assert mark.hear(np.array([900, 20]), np.array([5, 0]), 500) == 20
    assert mark.hear(np.array([950, 20]), np.array([5, 0]), 1011) == 950


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 60), max_size=12), max_size=40), st.integers(1, 30))
def test_ids_are_remembered_for_the_horizon_and_not_for_ever(steps, horizon):
    seen, last = Seen(horizon), {}
    for now, step in enumerate(steps):
        ids = np.unique(np.array(step, np.uint64))
        found = seen.has(ids)
        for name, had in zip(ids.tolist(), found.tolist(), strict=True):
            age = now - last[name] if name in last else None
            if age is not None and age <= horizon:
                assert had
            if age is None or age > horizon * 9 / 8 + 2:
                assert not had
        fresh = ids[~found]
        seen.add(fresh, now)
        last |= dict.fromkeys(fresh.tolist(), now)
    again = Seen(horizon)
    again.load(*seen.dump())
    assert sorted(again.dump()[0].tolist()) == sorted(seen.dump()[0].tolist())


def test_the_first_of_each_id_and_all_without_one():
    assert firsts(np.array([3, 0, 3, 0, 4], np.uint64)).tolist() == [True, True, False, True, True]


def test_windows_are_said_in_time_or_rows():
    assert Panes.parse("60s/10s") == Panes(60 * MICRO, 10 * MICRO)
    assert Panes.parse("1000rows") == Panes(1000, 1000, True)
    for text in ("61s/10s", "60s/100rows", "soon", "0s"):
        with pytest.raises(ConfigError, match="window"):
            Panes.parse(text)


def stream(path, n=3000, *, far=(), later=0, twice=0, seed=0):
    """A CSV of n rows a second apart; some twice, some with clocks far ahead, or labels `later` rows after their features."""
    rng = np.random.default_rng(seed)
    x, lines = rng.normal(size=(n, 2)).round(4), ["ts,id,a,b,y"]
    y = (x[:, 0] > 0).astype(int)
    stamp = [f"{1_700_000_000 + i}" for i in range(n)]
    for i in range(n):
        row = f"{'9999999999' if i in far else stamp[i]},u{i},{x[i, 0]},{x[i, 1]},"
        lines += [row + ("" if later else str(y[i]))] * (2 if twice and i % twice == 0 else 1)
        if later and i >= later:
            lines.append(f"{stamp[i]},u{i - later},,,{y[i - later]}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def learned(source, folder="-", **more):
    given = [f"{key.replace('__', '.')}={value}" for key, value in more.items()]
    return train(resolve(overrides=[f"data.source={source}", f"run.dir={folder}", "run.quiet=true", "loop.threads=1",
                                    "time.column=ts", *given]), Guard())


def test_rows_are_learned_once_and_windows_add_up(tmp_path):
    found = learned(stream(tmp_path / "s.csv", far={7}, twice=10), tmp_path / "run", time__id="id", time__window="10m/5m")
    assert found["rows"] == 3000
    assert found["time"]["duplicates"] == 300
    assert found["time"]["ahead"] == 1
    windows = [json.loads(line) for line in (tmp_path / "run" / "windows.jsonl").read_text().splitlines()]
    assert all(w["end"] - w["start"] == 600 for w in windows)
    assert sum(w["rows"] for w in windows) == 2 * 3000  # each row lies in two
    inner = [w for w in windows if w["start"] > 1_700_000_300 and w["end"] < 1_700_002_900]
    assert inner and {w["rows"] for w in inner} == {600}


def test_late_rows_are_learned_or_left_out_as_asked(tmp_path):
    lines = (tmp_path / "s.csv", tmp_path / "late.csv")
    head, *rows = Path(stream(lines[0])).read_text().splitlines()
    moved = rows[:100]
    lines[1].write_text("\n".join([head, *rows[100:2500], *moved, *rows[2500:]]) + "\n")
    kept = learned(lines[1], time__lateness="60s")
    dropped = learned(lines[1], time__lateness="60s", time__late="drop")
    patient = learned(lines[1], time__lateness="1h", time__late="drop")
    assert (kept["rows"], kept["time"]["late"]) == (3000, 100)
    assert (dropped["rows"], dropped["time"]["dropped"]) == (2900, 100)
    assert (patient["rows"], patient["time"]["late"]) == (3000, 0)


def test_labels_that_come_later_find_their_rows(tmp_path):
    path = stream(tmp_path / "l.csv", later=40)
    found = learned(path, time__id="id", time__labels="later")
    assert found["rows"] == 2960  # scored once, when the label came
    assert (found["time"]["joined"], found["time"]["waiting"]) == (2960, 40)
    assert found["accuracy"] > 0.9
    short = learned(path, time__id="id", time__labels="later", time__horizon="20s", exchange__every=8)
    assert short["time"]["joined"] < 2960
    assert short["time"]["expired"] > 0
    total = short["time"]["joined"] + short["time"]["expired"] + short["time"]["waiting"]
    assert total == 3000  # each row is joined, given up, or still waits


def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path):
    path, ck = stream(tmp_path / "l.csv", later=40, twice=7), tmp_path / "ck"
    more = {"time__id": "id", "time__labels": "later", "exchange__every": 64}
    whole = learned(path, **more)
    first = learned(path, checkpoint__dir=ck, loop__stop_after_rows=1000, **more)
    again = learned(path, checkpoint__dir=ck, checkpoint__resume="must", **more)
    assert first["rows"] < again["rows"] == whole["rows"]
    assert again["time"] == whole["time"]
    assert again["logloss"] == pytest.approx(whole["logloss"], abs=1e-12)


@pytest.mark.parametrize(("settings", "said"), [
    (["time.labels=later"], "needs a column"), (["time.window=60s"], "needs a column"),
    (["time.column=ts", "time.labels=later"], "by id"), (["time.id=id", "time.horizon=5s"], "rows, as rows have no time"),
    (["time.column=when"], "found 'when'"), (["time.column=y"], "beside the target"),
    (["time.column=ts", "exchange.split=keys"], "lock-step"), (["time.column=ts", "fault.memory=on"], "node memory"),
    (["time.column=ts", "time.id=id", "time.labels=later", "update.drift=adwin"], "update.strategy"),
])
def test_what_does_not_go_together_is_said(tmp_path, settings, said):
    path = stream(tmp_path / "s.csv", 50)
    hashed = ["data.hash_bits=10"] if "exchange.split=keys" in settings else []
    with pytest.raises(ConfigError, match=said):
        train(resolve(overrides=[f"data.source={path}", "run.dir=-", "run.quiet=true", *hashed, *settings]), Guard())


def test_rows_of_a_program_without_an_id_are_named():
    rows = from_rows([(np.zeros((4, 2)), np.zeros(4))], Schema(2, False, "binary"))
    with pytest.raises(ConfigError, match="rows with id"):
        train(resolve(overrides=["run.dir=-", "run.quiet=true", "time.id=id"]), Guard(), source=rows)


def test_libsvm_has_no_columns_to_name(tmp_path):
    (tmp_path / "a.svm").write_text("1 1:2 3:4\n0 1:1\n")
    with pytest.raises(ConfigError, match="named columns"):
        open_source(str(tmp_path / "a.svm"), event=("ts", "", "auto"))


def test_a_table_gives_times_and_ids(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    stamps = np.array(["2023-11-14T22:13:20", "NaT"], "datetime64[ms]")
    for name, times in (("date", arrow.array(stamps)), ("text", arrow.array(["2023-11-14T22:13:20Z", None])),
                        ("number", arrow.array([1_700_000_000_000, None], arrow.int64()))):
        rows = {"t": times, "n": ["a", None], "x": [1.0, 2.0], "y": [0, 1]}
        parquet.write_table(arrow.table(rows), tmp_path / f"{name}.parquet")
        (batch,) = open_source(str(tmp_path / f"{name}.parquet"), target="y", event=("t", "n", "auto")).read(0)
        assert batch.time.tolist() == [1_700_000_000_000_000, NO_TIME], name
        assert batch.id[0] and not batch.id[1]
        assert batch.x.shape == (2, 1)


