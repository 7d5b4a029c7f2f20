"""The live view: drawn by the parent alone, on a terminal alone."""
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from engine.live import panel, spark, wanted


def on_terminal(*args, limit_s=90, **env):
    """(exit code, all that a terminal of 120 columns got) of `python -m engine *args`."""
    main, side = pty.openpty()
    child = subprocess.Popen([sys.executable, "-m", "engine", *args], stdin=subprocess.DEVNULL, stdout=side, stderr=side,
                             env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **env})
    os.close(side)
    said, until, ready = b"", time.monotonic() + limit_s, select.poll()
    ready.register(main, select.POLLIN | select.POLLHUP)
    while time.monotonic() < until:
        if ready.poll(500):
            try:
                found = os.read(main, 65536)
            except OSError:
                break
            if not found:
                break
            said += found
    os.close(main)
    child.kill() if time.monotonic() >= until else None
    return child.wait(10), said.decode(errors="replace")


def test_a_terminal_gets_lines_that_scroll_and_a_view_that_is_drawn_anew():
    code, said = on_terminal("run", "-n", "2", "train", "make:sea?rows=30000", "--run-dir", "-", "--threads", "1",
                             "exchange.every=64")
    assert code == 0, said
    assert "\x1b[" in said and "2 ranks" in said
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert "prequential accuracy" in plain and re.search(r"[\dk] rows/s  wait \d+%", plain)


def test_no_view_where_nobody_looks():
    done = subprocess.run([sys.executable, "-m", "engine", "run", "-n", "1", "train", "make:sea?rows=3000", "--run-dir", "-"],
                          capture_output=True, text=True, timeout=90, check=True)
    assert "\x1b[" not in done.stdout and "prequential accuracy" in done.stdout
    assert not wanted(["train", "a.csv"])


@pytest.mark.parametrize(("verb", "drawn"), [
    (["train", "a"], True), (["demo"], True), (["predict", "a", "b"], False), (["train", "a", "--quiet"], False),
    (["train", "a", "--json"], False), ([], False),
])
def test_which_verbs_are_shown(monkeypatch, verb, drawn):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert wanted(verb) is drawn


def test_the_panel_says_where_the_run_stands():
    record = {"rows": 12_000, "rows_s": 5e5, "wait": 0.25, "bytes_sent": 2048, "loss_avg": 0.5, "loss_last": 0.4,
              "accuracy": None}
    first, second = panel([{**record, "loss_last": 0.6}, record], 3, 61)
    assert first == "1:01  3 ranks  12.0k rows  500.0k rows/s  wait 25%  sent 2.0 KiB"
    assert second == "loss 0.5000, last 0.4000  accuracy -  █▁"
    assert panel([], 1, 0) == ["0:00  1 rank  starting"]
    assert spark([2.0, 2.0]) == "▁▁" and spark([]) == "" and len(spark([1.0] * 99)) == 48
