"""A row: our figure for a case, the baseline measured beside it, the bars both are held to. One JSON object a line."""
from __future__ import annotations

import operator
from typing import Any

Row = dict[str, Any]
Bars = dict[str, str]
COMPARE = {"<=": operator.le, ">=": operator.ge}


def judge(row: Row, bars: Bars) -> Row:
    """`row` with `bar` (the text of all bars) and `meets`: True, False, or None where a figure it needs is absent.

    A bar is `field: "<= number"` or `field: ">= number"`; every bar of the row has to hold.
    """
    if not bars:
        return row
    verdicts: list[bool | None] = []
    for name, text in bars.items():
        sign, limit = text.split()
        found = row.get(name)
        verdicts.append(None if found is None else bool(COMPARE[sign](found, float(limit))))
    row["bar"] = ", ".join(f"{name} {text}" for name, text in bars.items())
    row["meets"] = False if False in verdicts else None if None in verdicts else True
    return row


def row(case: str, value: float | None, unit: str, baseline: str | None = None, baseline_value: float | None = None,
        ratio: float | None = None, spread: float | None = None, bars: Bars | None = None, **beside: Any) -> Row:
    """A row. `ratio` = value / baseline_value unless the paired ratio is given; None where there is none."""
    if ratio is None and value is not None and baseline_value:
        ratio = value / baseline_value
    made: Row = {"case": case, "value": value, "unit": unit, "baseline": baseline, "baseline_value": baseline_value,
                 "ratio": ratio, "spread": spread, **beside}
    return judge(made, bars or {})


def absent(case: str, unit: str, baseline: str | None, note: str, **beside: Any) -> Row:
    """The row of a case that could not be measured: it says why, so that no gap is silent."""
    return row(case, None, unit, baseline, note=note, **beside)


def shown(value: Any) -> str:
    """A table cell: four significant digits, `-` for what is absent."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float | int):
        size = abs(value)
        return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
    return str(value)


FIXED = ("case", "value", "unit", "baseline", "baseline_value", "ratio", "spread", "meets")
WIDTHS = (24, 12, 14, 26, 14, 8, 7, 5)


def line(cells: list[str]) -> str:
    """Cells aligned to the table's columns; what does not fit pushes the rest to the right."""
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def table_line(made: Row) -> str:
    """The row for a reader: the fixed columns, then every further field as name=value."""
    beside = [f"{name}={shown(value)}" for name, value in made.items() if name not in FIXED and value is not None]
    return line([shown(made.get(name)) for name in FIXED]) + ("   " + " ".join(beside) if beside else "")


def table_head() -> str:
    return line(["case", "ours", "unit", "baseline", "theirs", "ratio", "spread", "meets"])
