"""Log of a run: the lines rank 0 prints, metrics.jsonl, events.jsonl and the run directory. Fed with data; knows no
MPI.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..errors import StoreError

COLUMNS = (
    ("time", 7),
    ("step", 8),
    ("rows", 9),
    ("loss(avg)", 10),
    ("loss(last)", 11),
    ("acc", 7),
    ("rows/s", 8),
    ("sent/raw", 9),
    ("wait%", 6),
    ("ckpt", 8),
)
PERIOD_S = 10.0


class Log:
    """Lines at doubling row counts until one comes `PERIOD_S` after the last, then every `PERIOD_S`, and the end table.

    `stream`: where to print (default stdout).  `clock`: monotonic seconds, for tests.
    """

    def __init__(
        self, stream: TextIO | None = None, *, period_s: float = PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream, self.period_s, self.clock = stream or sys.stdout, period_s, clock
        self.start = self._last = clock()
        self._next = 1
        self._headed = False

    def due(self, rows: int) -> bool:
        """True if a line should be printed now that `rows` rows are done: ask each step, it costs a comparison and a
        clock.
        """
        return rows >= self._next or self.clock() - self._last >= self.period_s

    def head(self, text: str) -> None:
        """The first line: engine, ranks, MPI, mode, threads, run directory, as the caller words it."""
        self._print(paint(text, "1", self.stream))

    def line(self, rows: int, values: Mapping[str, Any]) -> None:
        """Print one line: `values` has step, loss_avg, loss_last, accuracy, rows_s, sent_raw, wait, checkpoint;
        absent = '-'.
        """
        if not self._headed:
            self._print(paint(" ".join(name.rjust(width) for name, width in COLUMNS), "2", self.stream))
            self._headed = True
        now = self.clock()
        accuracy = values.get("accuracy")
        cells = (
            duration(now - self.start),
            count(values.get("step")),
            count(rows),
            real(values.get("loss_avg")),
            real(values.get("loss_last")),
            real(accuracy),
            count(values.get("rows_s")),
            real(values.get("sent_raw"), 2),
            percent(values.get("wait")),
            str(values.get("checkpoint") or "-"),
        )
        self._print(" ".join(cell.rjust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True)))
        self._last = now
        while self._next <= rows:
            self._next *= 2
        if now - self.start >= self.period_s:
            self._next = 1 << 62  # doubling has done its part: from here on by time alone

    def note(self, text: str) -> None:
        """A line between the lines: a checkpoint refused, a rank that ran out of data."""
        self._print(text)

    def end(self, summary: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        """The table at the end: a meter's summary, and `run` with bytes_sent, bytes_raw, rows_s, seconds, path,
        report.
        """
        for name, value in end_rows(summary, run):
            self._print(f"  {name:<26} {value}")

    def _print(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()


def end_rows(summary: Mapping[str, Any], run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the end table, as text; the page shows the same."""
    if summary.get("task") == "regression":
        scores = [
            ("RMSE", real(summary.get("rmse"))),
            ("  no-change", real(summary.get("no_change"))),
            ("  mean", real(summary.get("mean"))),
            ("MAE", real(summary.get("mae"))),
        ]
    else:
        scores = [
            ("prequential accuracy", real(summary.get("accuracy"))),
            ("  no-change", real(summary.get("no_change"))),
            ("  majority", real(summary.get("majority"))),
            ("log loss", real(summary.get("logloss"))),
            ("kappa", real(summary.get("kappa"))),
            ("kappa-temporal", real(summary.get("kappa_temporal"))),
        ]
        if "auc" in summary:
            scores.insert(4, ("AUC", real(summary["auc"])))
    rows = [("rows", f"{summary.get('rows', 0):,}"), *scores]
    if run.get("bytes_sent") is not None:
        raw = f" ({size(run['bytes_raw'])} raw)" if run.get("bytes_raw") else ""
        rows.append(("bytes exchanged", size(run["bytes_sent"]) + raw))
    rows += [("rows/s", count(run.get("rows_s"))), ("time", duration(run["seconds"]) if "seconds" in run else "-")]
    if summary.get("odd_scores"):
        rows.append(("scores not finite", f"{summary['odd_scores']:,}"))
    return rows + [
        (name, str(run[key])) for name, key in (("run directory", "path"), ("report", "report")) if run.get(key)
    ]


class Lines:
    """A .jsonl file: one record a line, each appended in one write, so that a reader never meets half of one."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"cannot open: {error.strerror}",
                where=str(self.path),
                fix="give a run directory this user may write to",
            ) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Append the record; NaN and infinities are written as null. StoreError where the disk refuses."""
        line = (json.dumps(plain(record), separators=(",", ":"), allow_nan=False) + "\n").encode()
        try:
            if (done := os.write(self._file, line)) != len(line):
                raise OSError(28, f"disk full: {len(line)} bytes needed, {done} written")
        except OSError as error:
            raise StoreError(
                f"cannot append: {error.strerror}", where=str(self.path), fix="free some space on this disk"
            ) from error

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def keep(path: Path, text: str) -> None:
    """Write a small file of the run directory; StoreError where the disk refuses."""
    try:
        path.write_text(text)
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror}", where=str(path), fix="free some space on this disk") from error


def read_lines(path: Path | str) -> list[dict[str, Any]]:
    """Records of a .jsonl file; a last line cut by a crash is left out."""
    records = []
    for line in Path(path).read_bytes().split(b"\n")[:-1]:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def make_run(root: Path | str = "runs") -> Path:
    """Make and return the next `root`/NNNN; two processes never get the same one. StoreError where it cannot be
    made.
    """
    root = Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        number = max((int(path.name) for path in root.iterdir() if path.name.isdigit()), default=0)
        while True:
            number += 1
            try:
                (root / f"{number:04d}").mkdir()
                return root / f"{number:04d}"
            except FileExistsError:
                continue
    except OSError as error:
        raise StoreError(
            f"cannot make a run directory: {error.strerror}",
            where=str(root),
            fix="give a directory this user may write to",
        ) from error


def plain(value: Any) -> Any:
    """JSON-ready copy: NumPy scalars and arrays become Python's, what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def paint(text: str, code: str, stream: TextIO) -> str:
    """Text in an ANSI style, only on a terminal and without NO_COLOR."""
    return f"\x1b[{code}m{text}\x1b[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


def count(value: float | None) -> str:
    """4096 -> 4096, 12345 -> 12.3k, 4.1M, 2.0G; '-' for none."""
    if value is None or not math.isfinite(value):
        return "-"
    if abs(value) < 10_000:
        return f"{value:.0f}"
    for unit in "kMGT":
        value /= 1000
        if abs(value) < 999.95:
            return f"{value:.1f}{unit}"
    return f"{value:.1f}P"


def size(value: float | None) -> str:
    """Bytes: 512 B, 1.5 KiB, 3.2 MiB."""
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def real(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.0f}%"


def duration(seconds: float) -> str:
    """61.2 -> 1:01, 3661 -> 1:01:01."""
    minutes, left = divmod(int(seconds), 60)
    return f"{minutes}:{left:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{left:02d}"
