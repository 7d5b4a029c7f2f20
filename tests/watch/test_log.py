import io
import json
import threading

import numpy as np
import pytest

from engine.errors import StoreError
from engine.watch.log import Lines, Log, count, duration, make_run, read_lines, size


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_lines_come_at_doublings_then_every_ten_seconds():
    clock, stream = Clock(), io.StringIO()
    log = Log(stream, clock=clock)
    printed = []
    for rows in range(1, 4000):
        clock.now = rows / 100
        if log.due(rows):
            log.line(rows, {"step": rows, "loss_avg": 0.5, "loss_last": float("nan"), "wait": 0.031, "sent_raw": 0.07})
            printed.append(rows)
    assert printed[:10] == [2**i for i in range(10)]
    assert np.all(np.diff(printed[printed.index(512) + 1 :]) >= 1000) and 12 <= len(printed) <= 16
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == [
        "time",
        "step",
        "rows",
        "loss(avg)",
        "loss(last)",
        "acc",
        "rows/s",
        "sent/raw",
        "wait%",
        "ckpt",
    ]
    assert lines[1].split() == ["0:00", "1", "1", "0.5000", "-", "-", "-", "0.07", "3%", "-"]
    assert "\x1b" not in stream.getvalue() and len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(("tty", "env", "colour"), [(True, "", True), (True, "1", False), (False, "", False)])
def test_colour_only_on_a_terminal_that_wants_it(tty, env, colour, monkeypatch):
    monkeypatch.setenv("NO_COLOR", env)
    stream = io.StringIO()
    stream.isatty = lambda: tty
    Log(stream).head("engine")
    assert ("\x1b" in stream.getvalue()) == colour


def test_end_table_sets_accuracy_beside_its_baselines():
    stream = io.StringIO()
    summary = {"task": "binary", "rows": 1234567, "accuracy": 0.9, "no_change": 0.8, "majority": 0.5, "auc": 0.95}
    Log(stream).end(
        summary, {"bytes_sent": 1536, "bytes_raw": 4096, "rows_s": 2.5e6, "seconds": 61, "path": "runs/0001"}
    )
    lines = stream.getvalue().splitlines()
    at = next(i for i, line in enumerate(lines) if "accuracy" in line)
    assert (
        "0.9000" in lines[at]
        and "no-change" in lines[at + 1]
        and "0.8000" in lines[at + 1]
        and "majority" in lines[at + 2]
    )
    assert (
        "1,234,567" in stream.getvalue()
        and "1.5 KiB (4.0 KiB raw)" in stream.getvalue()
        and "2.5M" in stream.getvalue()
    )


def test_jsonl_is_strict_json_and_a_cut_line_is_left_out(tmp_path):
    lines = Lines(tmp_path / "m.jsonl")
    lines.write({"rows": np.int64(4), "loss": float("nan"), "x": np.arange(2)})
    lines.write({"rows": 8})
    lines.close()
    path = tmp_path / "m.jsonl"
    assert json.loads(path.read_text().splitlines()[0]) == {"rows": 4, "loss": None, "x": [0, 1]}
    path.write_bytes(path.read_bytes()[:-3])
    assert [r["rows"] for r in read_lines(path)] == [4]
    with pytest.raises(StoreError, match="cannot open"):
        Lines(tmp_path / "no" / "m.jsonl")


def test_a_full_disk_is_an_error():
    lines = Lines("/dev/full")
    with pytest.raises(StoreError, match="No space"):
        lines.write({"rows": 1})


def test_run_directories_are_never_shared(tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda: made.extend(make_run(tmp_path / "runs") for _ in range(5))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(path.name for path in made) == [f"{i:04d}" for i in range(1, 21)]
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="run directory"):
        make_run(tmp_path / "file")


def test_words_for_numbers():
    assert [count(v) for v in (4096, 12345, 4.1e6, 999_960, None)] == ["4096", "12.3k", "4.1M", "1.0M", "-"]
    assert [size(v) for v in (512, 1536, 3 << 40)] == ["512 B", "1.5 KiB", "3.0 TiB"]
    assert [duration(v) for v in (61.2, 3661)] == ["1:01", "1:01:01"]
