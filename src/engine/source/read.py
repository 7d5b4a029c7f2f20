"""Open a source by its spec: a path, a directory, a glob or stdin."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

from engine.errors import ConfigError, DataError
from engine.source.array import ArraySource, digits, from_files
from engine.source.live import LiveSource, live, open_live
from engine.source.make import MakeSource, parse_spec
from engine.source.schema import Event, Grams, Plan, Task, csv_plan, libsvm_plan, named_plan, text_plan, unlabelled
from engine.source.table import TableSource, open_table, tabular
from engine.source.text import BOM, TextSource, open_stream

HEAD_BYTES = 1 << 20


def files(spec: str) -> list[str]:
    """Paths a spec names, sorted; DataError where there are none."""
    if spec == "-" or "://" in spec:
        return [spec]
    found = sorted(glob.glob(os.path.join(glob.escape(spec), "*"))) if os.path.isdir(spec) else [spec]
    if not os.path.exists(spec):
        found = sorted(glob.glob(spec))
    found = [p for p in found if not os.path.isdir(p) and not os.path.basename(p).startswith((".", "_"))]
    if not found:
        raise DataError(
            "expected a file, a directory of files or a glob that matches, found none", where=spec, fix="check the path"
        )
    return found


def head(path: str) -> bytes:
    """Whole lines from the start of a file; DataError where it is empty."""
    with open_stream(path) as file:
        data = file.read(HEAD_BYTES)
    return whole_lines(data, path)


def whole_lines(data: bytes, path: str) -> bytes:
    """The whole lines of a sample, without a byte order mark; DataError where there is nothing in them."""
    data = data.removeprefix(BOM)
    if not data.strip():
        raise DataError("expected rows, found an empty file", where=path, fix="give a file that holds data")
    return data[: data.rfind(b"\n") + 1] if len(data) >= HEAD_BYTES - 3 and b"\n" in data else data


def unnamed(where: str) -> ConfigError:
    """A time or an id is asked for where columns have no names."""
    return ConfigError("time: expected a source of named columns, CSV or a table", where=where,
                       fix="leave time.column and time.id out")


def _refuse(spec: str, format: str | None, text: Grams, event: Event) -> None:
    """Columns are asked for where a source has none."""
    if text and (spec.startswith(("make:", "demo:", "ring:")) or tabular(spec) or spec.endswith((".npz", ".npy"))
                 or format in ("libsvm", "frames")):
        raise ConfigError("tokens: expected a source of text: CSV with a column of it, or format=text", where=spec,
                          fix="data.format=text for lines of a label and text")
    if any(event[:2]) and (spec.startswith(("make:", "demo:", "ring:")) or spec.endswith((".npz", ".npy"))
                           or format in ("libsvm", "frames", "text")):
        raise unnamed(spec)
    if "@message" in event[:2] and (event[1] == "@message" or not spec.startswith("kafka://")):
        raise ConfigError("time: @message is the time of a message of Kafka", where=spec, fix="name a column")


def _kind(head: bytes, format: str | None, text: Grams, event: Event, where: str) -> str:
    """csv or libsvm, as said or by the first line."""
    row = head.split(b"\n", 1)[0]
    kind = format or ("libsvm" if b":" in row and b"," not in row and not text else "csv")
    if kind == "libsvm" and any(event[:2]):
        raise unnamed(where)
    return kind


def open_source(
    spec: str,
    *,
    target: str | int | None = None,
    format: str | None = None,
    header: bool | str = "auto",
    delimiter: str = "auto",
    numeric: Collection[str | int] = (),
    categorical: Collection[str | int] = (),
    labels: Sequence[str] | None = None,
    hash_bits: int | None = None,
    on_bad_rows: str = "error",
    piece_bytes: int = 1 << 21,
    piece_rows: int = 4096,
    task: Task | None = None,
    missing: str = "zero",
    first: int | None = None,
    quoted_newlines: bool = False,
    plan: Any = None,
    columns: Sequence[str] = (),
    wait_s: float = 60.0,
    idle_s: float = 0.0,
    spool: Callable[[str], Any] = lambda name: None,
    where: str = "",
    text: Grams = None,
    event: Event = ("", "", "auto"),
    like: Plan | None = None,
    blind: int = 0,
) -> LiveSource | TableSource | TextSource | ArraySource | MakeSource:
    """The source that `spec` names; a `plan` from another rank is used as it is, and stdin is then left alone.

    Missing numeric values are 0 (`missing=zero`), an error, or NaN.  `on_bad_rows`: `error` raises at the first bad
    row; `skip` leaves it out and counts it in `stats`; `count` also adds a line a piece to `events`.  `blind` > 0: rows of
    so many features whose target is not asked for and may be absent; their text is parsed as that of the plan `like`.
    """
    _refuse(spec, format, text, event)
    if spec.startswith("make:"):
        return MakeSource(*parse_spec(spec), piece_rows)
    if spec.startswith("demo:"):
        return digits(spec, piece_rows)

    def find(head: bytes, where: str) -> Plan:
        if like is not None:
            return unlabelled(like, head, where)
        if format == "text":
            return text_plan(head, where, labels=labels, hash_bits=hash_bits, task=task, text=text)
        if _kind(head, format, text, event, where) == "libsvm":
            return libsvm_plan(head, where, task=task, labels=labels, hash_bits=hash_bits, first=first)
        return csv_plan(head, where, target=target, header=header, delimiter=delimiter, numeric=numeric,
                        categorical=categorical, labels=labels, hash_bits=hash_bits, task=task, missing=missing,
                        quoted_newlines=quoted_newlines, text=text, event=event)

    if tabular(spec):
        return open_table(spec, files, target=target, columns=columns, where=where, task=task, labels=labels, missing=missing,
                          plan=plan, event=event, blind=bool(blind), categorical=categorical, hash_bits=hash_bits)
    said = {"format": format, "task": task, "labels": labels, "hash_bits": hash_bits, "first": first, "target": target,
            "header": header, "delimiter": delimiter, "categorical": categorical, "missing": missing, "wait_s": wait_s,
            "idle_s": idle_s, "spool": spool, "on_bad_rows": on_bad_rows, "columns": columns, "text": text, "event": event}
    if live(spec):
        return open_live(spec, said, plan=plan or named_plan(columns, spec, said), find=find)
    paths = files(spec)
    if paths[0].removesuffix(".gz").endswith((".npz", ".npy")):
        return from_files(paths, task="regression" if blind else task, piece_rows=piece_rows, blind=blind)
    begun = b""
    if plan is None and spec == "-" and (columns or (format == "text" and task)):  # said, so nothing has to be waited for
        plan = named_plan(columns, spec, said)
    if plan is None and spec == "-":
        begun = open_stream(spec).read(HEAD_BYTES)
    plan = plan or find(whole_lines(begun, spec) if spec == "-" else head(paths[0]), paths[0])
    return TextSource(paths, plan, piece_bytes=piece_bytes, on_bad_rows=on_bad_rows, begun=begun)
