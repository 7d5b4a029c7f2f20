"""The report: one self-contained HTML file. Charts are SVG drawn here; nothing is loaded from anywhere."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from ..errors import StoreError
from .log import count, end_rows, plain, real, size

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1000, 260, 64, 16, 20, 30
POINTS = 2000
Series = Mapping[str, Sequence[float | None]]
MARKS = 60


def write_page(path: Path | str, run: Mapping[str, Any]) -> None:
    """Write the report of a run.

    `run`, all keys but `summary` optional: `title`, `subtitle`; `summary` = Meter.summary(); `totals` = bytes_sent,
    bytes_raw, rows_s, seconds; `curve` = Meter.curve(); `metrics` = records of metrics.jsonl with rows, rows_s,
    bytes_sent; `events` = records with event and rows, and more to show; `config`, `versions` = flat maps.
    StoreError where it cannot be written.
    """
    run = plain(run)
    summary, totals, events = run["summary"], run.get("totals", {}), run.get("events", [])
    page = Template((files(__package__) / "page.html").read_text()).substitute(
        title=escape(run.get("title", "engine run")),
        subtitle=escape(run.get("subtitle", "")),
        tiles=_tiles(summary, totals),
        charts="".join(_charts(run.get("curve", {}), run.get("metrics", []), events)),
        tables=_table("Summary", end_rows(summary, totals))
        + _map("Config", run.get("config", {}))
        + _map("Versions", run.get("versions", {}))
        + _events(events),
    )
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text(page, encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write the report: {error.strerror}",
            where=str(path),
            fix="free some space, or give another run directory",
        ) from error


def _tiles(summary: Mapping[str, Any], totals: Mapping[str, Any]) -> str:
    if summary.get("task") == "regression":
        score = [
            ("RMSE", real(summary.get("rmse"))),
            ("no-change RMSE", real(summary.get("no_change"))),
            ("mean RMSE", real(summary.get("mean"))),
        ]
    else:
        score = [
            ("accuracy", real(summary.get("accuracy"))),
            ("no-change", real(summary.get("no_change"))),
            ("majority", real(summary.get("majority"))),
        ]
    tiles = [
        ("rows", count(summary.get("rows"))),
        *score,
        ("rows/s", count(totals.get("rows_s"))),
        ("exchanged", size(totals.get("bytes_sent"))),
    ]
    return "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in tiles)


def _charts(
    curve: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]
) -> list[str]:
    rows = curve.get("rows") or []
    charts = []
    if "accuracy" in curve:
        charts.append(
            chart(
                "Accuracy in a window",
                rows,
                {k.replace("_", "-"): curve[k] for k in ("accuracy", "no_change", "majority")},
                events,
            )
        )
        charts.append(chart("Log loss in a window", rows, {"log loss": curve["logloss"]}, events))
    elif "rmse" in curve:
        charts.append(
            chart(
                "Error in a window",
                rows,
                {"RMSE": curve["rmse"], "no-change": curve["no_change"], "mean": curve["mean"]},
                events,
            )
        )
    done = [m for m in metrics if m.get("rows") is not None]
    for title, key in (("Rows per second", "rows_s"), ("Bytes exchanged so far", "bytes_sent")):
        if any(m.get(key) is not None for m in done):
            charts.append(
                chart(title, [m["rows"] for m in done], {title.lower(): [m.get(key) for m in done]}, events, zero=True)
            )
    return charts


def thin(points: int, limit: int = POINTS) -> list[int]:
    """Indices of at most `limit` of `points` points, first and last among them."""
    return list(range(points)) if points <= limit else np.unique(np.linspace(0, points - 1, limit).astype(int)).tolist()


def chart(
    title: str, x: Sequence[float], series: Series, events: Sequence[Mapping[str, Any]], *, zero: bool = False
) -> str:
    """A line chart as HTML: values over rows, gaps where a value is None, a dashed line an event; '' without two
    points.
    """
    keep = thin(len(x))
    x, series = [x[i] for i in keep], {name: [values[i] for i in keep] for name, values in series.items()}
    known = [v for values in series.values() for v in values if v is not None]
    if len(x) < 2 or not known:
        return ""
    low, high = (0.0 if zero else min(known)), max(known)
    ticks = nice(low, high if high > low else low + 1)
    low, high = ticks[0], ticks[-1]
    right = max(x)

    def px(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * value / right, 1)

    def py(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(t)}" y2="{py(t)}"/>'
        f'<text x="{LEFT - 8}" y="{py(t) + 4}" text-anchor="end">{label(t, ticks)}</text>'
        for t in ticks
    ]
    parts += [
        f'<text x="{px(t)}" y="{HEIGHT - 8}" text-anchor="{"end" if t > right * 0.97 else "middle"}">{short(t)}</text>'
        for t in nice(0, right)
        if t <= right
    ]
    parts += [
        f'<line class="mark" x1="{px(e["rows"])}" x2="{px(e["rows"])}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
        f"<title>{escape(str(e.get('event', 'event')))} at row {e['rows']:,}</title></line>"
        for e in _marked(events)
        if 0 <= e["rows"] <= right
    ]
    parts += [f'<path class="s s{i % 4}" d="{trace(x, values, px, py)}"/>' for i, values in enumerate(series.values())]
    parts.append(f'<line class="mark cursor" style="display:none" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    data = {
        "w": WIDTH,
        "xl": "row",
        "px": [px(v) for v in x],
        "x": x,
        "s": [{"n": n, "y": v} for n, v in series.items()],
    }
    names = [f'<span><i class="s{i % 4}"></i>{escape(name)}</span>' for i, name in enumerate(series)]
    key = f'<div class="key">{"".join(names)}</div>' if len(names) > 1 else ""
    plot = escape(json.dumps(data, separators=(",", ":")))
    return (
        f'<section><h2>{escape(title)}</h2>{key}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" data-plot="{plot}">{"".join(parts)}</svg></section>'
    )


COLOURS = ("#2563c9", "#c2571a", "#4f8a3d", "#8a4fb0")
PICTURE = (
    "svg{font:12px system-ui,sans-serif}text{fill:#6b7078}.grid{stroke:#e3e4e6}"
    ".mark{stroke:#6b7078;stroke-dasharray:3 3}.s{fill:none;stroke-width:1.8;stroke-linejoin:round}"
    + "".join(f".s{i}{{stroke:{colour}}}" for i, colour in enumerate(COLOURS))
)


def picture(title: str, x: Sequence[float], series: Series, events: Sequence[Mapping[str, Any]]) -> str:
    """The chart as one SVG file with its title, key and colours in it."""
    drawn = chart(title, x, series, events)
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 : drawn.index("</svg>")] if drawn else ""
    step = (WIDTH - LEFT - RIGHT) / max(len(series), 1)
    key = "".join(
        f'<rect x="{LEFT + i * step:.0f}" y="34" width="14" height="3" fill="{COLOURS[i % 4]}"/>'
        f'<text x="{LEFT + i * step + 20:.0f}" y="39">{escape(name)}</text>'
        for i, name in enumerate(series)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 50}"><style>{PICTURE}</style>'
        f'<rect width="{WIDTH}" height="{HEIGHT + 50}" fill="#fff"/>'
        f'<text x="{LEFT}" y="22" style="font-size:15px;font-weight:600">{escape(title)}</text>{key}'
        f'<g transform="translate(0 50)">{body}</g></svg>\n'
    )


def write_comparison(path: Path, title: str, rows: Sequence[Sequence[str]], drawn: str) -> None:
    """A page with one table, its first row the heads, and one chart."""
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in rows)
    page = Template((files(__package__) / "page.html").read_text()).substitute(
        title=escape(title), subtitle="", tiles="", charts=drawn, tables=f"<section><table>{lines}</table></section>"
    )
    path.write_text(page, encoding="utf-8")


def _marked(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found = [e for e in events if isinstance(e.get("rows"), int | float)]
    return [found[i] for i in thin(len(found), MARKS)]


def trace(x: Sequence[float], values: Sequence[float | None], px: Any, py: Any) -> str:
    """SVG path of the points; a None lifts the pen."""
    path, pen = [], "M"
    for at, value in zip(x, values, strict=True):
        if value is None:
            pen = "M"
            continue
        path.append(f"{pen}{px(at)} {py(value)}")
        pen = "L"
    return "".join(path)


def nice(low: float, high: float, steps: int = 5) -> list[float]:
    """Round tick values that cover [low, high]."""
    raw = (high - low) / steps or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def label(value: float, ticks: Sequence[float]) -> str:
    """The value in as few digits as tell the ticks apart."""
    step = ticks[1] - ticks[0]
    if step >= 1:
        return f"{value:.0f}" if ticks[-1] < 10_000 else short(value)
    digits = next(n for n in range(12) if abs(round(step, n) - step) < 1e-9 * step)
    return f"{value:.{digits}f}"


def short(value: float) -> str:
    """50000 -> 50k, 1250000 -> 1.25M."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.6g}{name}"
    return f"{value:.6g}"


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(name.strip())}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<section><h2>{escape(title)}</h2><table>{body}</table></section>" if rows else ""


def _map(title: str, values: Mapping[str, Any]) -> str:
    return _table(
        title,
        [(key, json.dumps(value) if isinstance(value, dict | list) else str(value)) for key, value in values.items()],
    )


def _events(events: Sequence[Mapping[str, Any]], limit: int = 100) -> str:
    rows = [
        (
            str(e.get("event", "event")),
            ", ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in e.items() if k != "event"),
        )
        for e in events[-limit:]
    ]
    return _table("Events" if len(events) <= limit else f"Last {limit} of {len(events)} events", rows)
