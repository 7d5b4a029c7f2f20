"""Rows: the fields every report has, the verdict, and a reason wherever a figure is absent."""
import json
from pathlib import Path

import pytest

from bench import registry, row
from bench.__main__ import main
from bench.compare import changes
from bench.registry import Missing, Setting, versus

NEEDED = {"case", "value", "unit", "baseline", "baseline_value", "ratio", "spread"}


def test_a_row_has_its_fields_and_the_ratio_is_value_over_baseline():
    made = row.row("a", 10.0, "rows/s", "vw", 4.0, bars={"ratio": ">= 2", "logloss": "<= 0.3"}, logloss=0.2)
    assert set(made) >= NEEDED and made["ratio"] == 2.5 and made["meets"] is True
    assert made["bar"] == "ratio >= 2, logloss <= 0.3"


@pytest.mark.parametrize(("value", "loss", "meets"), [
    (1.0, 0.2, False), (9.0, 0.4, False), (None, 0.2, None), (9.0, 0.2, True)])
def test_every_bar_must_hold_and_an_absent_figure_is_no_verdict(value, loss, meets):
    made = row.row("a", value, "x", "vw", 4.0, bars={"ratio": ">= 2", "logloss": "<= 0.3"}, logloss=loss)
    assert made["meets"] is meets


def test_an_absent_peer_leaves_our_figure_and_says_so():
    why = Missing("vowpalwabbit not installed; python -m bench peers")
    made = versus(Setting(seconds=0.1, rounds=2), "a", "vw", lambda: sum(range(100)), why, work=100, unit="rows/s")
    assert made["value"] > 0 and made["baseline_value"] is None and made["note"] == str(why)


def test_times_and_rates_have_opposite_ratios():
    from bench.timing import Sample

    slow, fast = (lambda: Sample(2.0, 2.0)), (lambda: Sample(1.0, 1.0))
    assert versus(Setting(), "a", "b", slow, fast)["ratio"] == 2.0
    assert versus(Setting(), "a", "b", slow, fast, work=10, unit="x")["ratio"] == 0.5


def test_a_case_without_its_data_and_a_case_that_fails_leave_rows(monkeypatch, capsys, tmp_path):
    def absent(setting):
        yield row.row(setting.file("nowhere.csv").name, 1.0, "s")

    def broken(setting):
        raise ZeroDivisionError("of nothing")
        yield

    monkeypatch.setattr(registry, "load", lambda bench: {"absent": absent, "broken": broken})
    assert main(["kernels", "--json", "--data", str(tmp_path)]) == 1
    first, *rest = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(first["machine"]) >= {"cpu", "cores", "isa", "os", "python", "numpy", "mpi", "engine", "commit", "load"}
    assert [made["case"] for made in rest] == ["absent", "broken"]
    assert "nowhere.csv not found" in rest[0]["note"] and rest[1]["note"] == "ZeroDivisionError: of nothing"
    assert all(set(made) >= NEEDED for made in rest)


def test_the_data_folder_is_the_option_then_the_environment(monkeypatch, tmp_path):
    (tmp_path / "a.csv").write_text("1\n")
    monkeypatch.setenv("ENGINE_DATA", str(tmp_path))
    assert Setting().file("a.csv") == tmp_path / "a.csv"
    with pytest.raises(Missing, match="name the folder with --data"):
        Setting(data=Path("/nonexistent")).file("a.csv")


def test_the_table_shows_absent_values_and_verdicts():
    text = row.table_line(row.absent("a", "s", "vw", "not here"))
    assert "note=not here" in text and "None" not in text
    assert "NO" in row.table_line(row.row("a", 1.0, "s", "vw", 4.0, bars={"ratio": ">= 2"}))


def test_two_reports_are_compared_by_case_and_baseline():
    old = [row.row("a", 10.0, "rows/s", "vw", 5.0), row.row("gone", 1.0, "s")]
    new = [row.row("a", 15.0, "rows/s", "vw", 5.0), row.row("new", 1.0, "s")]
    found = {(made["case"], made["baseline"]): made for made in changes(old, new)}
    assert found["a", "vw"]["change"] == 1.5 and found["a", "vw"]["ratio_change"] == 1.5
    assert found["gone", None]["note"] == "only in the old report"
    assert found["new", None]["note"] == "only in the new report"
