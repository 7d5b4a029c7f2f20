import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from engine.errors import StoreError
from engine.types import Batch
from engine.watch.meter import Meter
from engine.watch.page import chart, label, nice, thin, write_page


def run(task="binary", n=40000):
    rng = np.random.default_rng(0)
    y = (rng.random(n) if task == "regression" else rng.integers(0, 2, n)).astype(np.float32)
    meter = Meter(task, window=8)
    meter.add(rng.standard_normal(n).astype(np.float32), Batch(y, np.arange(n), np.roll(y, 1)))
    return {
        "title": "<script>alert(1)</script>",
        "summary": meter.summary(),
        "curve": meter.curve(5000),
        "totals": {"bytes_sent": 4096, "rows_s": 1e6, "seconds": 3.0},
        "metrics": [{"rows": i * 100, "rows_s": 1e6 if i % 3 else None, "bytes_sent": i} for i in range(1, 3000)],
        "events": [{"event": "checkpoint", "rows": 20000, "step": 7}],
        "config": {"rate": 0.1, "data": "a&b"},
        "versions": {"engine": "0.1.0"},
    }


class Check(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.plots = [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert not {"src", "href"} & attrs.keys()
        if "data-plot" in attrs:
            self.plots.append(json.loads(attrs["data-plot"]))
        if tag not in ("meta", "line", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "path"):
            assert self.open.pop() == tag


@pytest.mark.parametrize(("task", "charts"), [("binary", 4), ("regression", 3)])
def test_one_file_whole_escaped_and_thin(tmp_path, task, charts):
    write_page(tmp_path / "r.html", run(task))
    text = (tmp_path / "r.html").read_text()
    check = Check()
    check.feed(text)
    assert check.open == [] and len(check.plots) == charts
    assert all(len(plot["x"]) <= 2000 for plot in check.plots)
    assert "http" not in text and "url(" not in text and "<script>alert" not in text
    assert html.escape("a&b") in text and "checkpoint at row 20,000" in text and "4.0 KiB" in text
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_an_empty_run_still_has_a_page(tmp_path):
    write_page(tmp_path / "r.html", {"summary": Meter("binary").summary()})
    assert "<svg" not in (tmp_path / "r.html").read_text()
    with pytest.raises(StoreError, match="report"):
        write_page(tmp_path / "no" / "r.html", {"summary": {}})


def test_gaps_lift_the_pen_and_flat_series_are_drawn():
    path = re.search(r'<path[^>]* d="([^"]+)"', chart("t", [1, 2, 3, 4], {"a": [1.0, None, 1.0, 1.0]}, []))[1]
    assert path.count("M") == 2 and path.count("L") == 1
    assert chart("t", [1], {"a": [1.0]}, []) == "" and chart("t", [1, 2], {"a": [None, None]}, []) == ""


def test_ticks_and_thinning():
    assert nice(0.41, 0.99) == [0.4, 0.6, 0.8, 1.0] and nice(0, 1.22e6)[1] == 250000
    assert [label(v, [0, 0.25]) for v in (0, 0.25)] == ["0.00", "0.25"] and label(
        1.25e6, [0, 250000, 1.25e6]
    ) == "1.25M"
    assert thin(10) == list(range(10)) and thin(5000)[0] == 0 and thin(5000)[-1] == 4999 and len(thin(5000)) <= 2000
