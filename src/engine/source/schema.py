"""What the rows of a text source are: found at the head of its first file, or handed over from rank 0 as a `Plan`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from engine.errors import ConfigError, DataError
from engine.kernels import _native
from engine.kernels.plain.parse import decimal, text_hash
from engine.source.event import scale_of
from engine.types import Array, Schema

SKIP, NUMERIC, CATEGORICAL, TARGET, TARGET_TEXT, TEXT = range(6)
MESSAGE = -2  # as a column of times: those that the message queue has itself
WORDS = (1, 1, 0, 0, 0)  # orders of n-grams where none are said: words as they are, counted
Event = tuple[str, str, str]  # columns of the event time and of the id ("": none), and the unit of numeric times
Grams = tuple[Sequence[str], Sequence[int]] | None  # columns of text, orders and weight (kernels.plain.text)
Task = Literal["binary", "multiclass", "regression"]
CLASSES_MAX = 64
NEAR_ONE = 4.0  # values of libsvm text up to here are weights that any learner takes as they are
SAMPLE_ROWS = 1000  # of the head, evenly, that tell numbers from words


@dataclass(frozen=True, slots=True)
class Plan:
    """How to parse a source's text: plain values, picklable, equal on every rank.

    `levels`: numeric labels in class order (empty: regression, or text labels in `schema.labels`).
    `time`, `id`: columns of the event time and of the row's own name, -1 = none (time: MESSAGE = the queue's own);
    `scale`: microseconds in a unit of time.
    """

    format: Literal["csv", "libsvm", "text"]
    schema: Schema
    names: tuple[str, ...] = ()
    kinds: tuple[int, ...] = ()
    delimiter: str = ","
    header: bool = False
    levels: tuple[float, ...] = ()
    mask: int = (1 << 30) - 1
    first: int = 1
    hashed: bool = False
    missing: Literal["zero", "error", "nan"] = "zero"
    quoted_newlines: bool = False
    orders: tuple[int, ...] = ()
    time: int = -1
    id: int = -1
    scale: float = 1e6

    @property
    def seeds(self) -> Array:
        return np.array([text_hash(n.encode()) for n in self.names], np.uint64)

    def dump(self) -> dict[str, Any]:
        """What `read` takes, of plain values: a checkpoint keeps it, so that other text is parsed as this was."""
        return asdict(self)

    @staticmethod
    def read(held: Mapping[str, Any]) -> Plan:
        def whole(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

        return Plan(**{**whole(held), "schema": Schema(**whole(held["schema"]))})

    def differs(self, other: Plan) -> str:
        """How rows of `other` would be taken for something else than rows of this plan, or ""."""
        if self.format != other.format or (self.format == "libsvm" and self.first != other.first):
            return f"{self.format} with keys from {self.first} there, {other.format} with keys from {other.first} here"
        words = ("nothing to learn", "numbers", "words", "the target", "the target", "text")
        mine, theirs = (dict(zip(plan.names, plan.kinds, strict=True)) for plan in (self, other))
        for name, kind in mine.items():
            if words[kind] != words[theirs.get(name, SKIP)]:
                return f"column {name!r} holds {words[kind]} there, {words[theirs.get(name, SKIP)]} here"
        if not self.schema.sparse and self.schema.columns != other.schema.columns:
            return f"{', '.join(self.schema.columns[:6])} there, {', '.join(other.schema.columns[:6])} here"
        return ""


def number(text: str) -> float | None:
    """The number in `text`, NaN where it is missing, None where it is neither."""
    try:
        return decimal(text)
    except OverflowError:
        return float("inf")
    except ValueError:
        return None


def _task(levels: Sequence[float], task: Task | None) -> tuple[Task, tuple[float, ...]]:
    whole = all(float(v).is_integer() for v in levels)
    if task == "regression" or (task is None and (not whole or not 1 < len(levels) <= CLASSES_MAX)):
        return "regression", ()
    if task == "binary" and len(levels) > 2:
        raise ConfigError(f"target: expected 2 classes for task=binary, found {len(levels)}", fix="task=multiclass")
    if len(levels) == 1 and levels[0] in (-1.0, 0.0, 1.0):
        levels = (-1.0, 1.0) if levels[0] == -1 else (0.0, 1.0)
    return task or ("binary" if len(levels) == 2 else "multiclass"), tuple(levels)


def _name(level: float) -> str:
    return str(int(level)) if float(level).is_integer() else repr(level)


def libsvm_plan(
    head: bytes,
    where: str,
    *,
    task: Task | None,
    labels: Sequence[str] | None,
    hash_bits: int | None,
    first: int | None,
) -> Plan:
    """Plan of libsvm text from its head; keys are 1-based unless the sample holds a 0."""
    lines, colons = head.count(b"\n") + 1, head.count(b":")
    y, at, bad = np.empty(lines, np.float32), np.empty(lines, np.int64), np.zeros(0, np.int64)
    indptr, keys = np.empty(lines + 1, np.int64), np.empty(colons, np.uint32)
    values, tally = np.empty(colons, np.float32), np.zeros(8, np.int64)
    rows, nnz, _ = _native.parse_libsvm(head, y, indptr, keys, values, at, bad, tally, first=0)
    if not rows:
        raise DataError("expected `label key:value ...`, found no such row", where=where, fix="format=csv")
    top, low = (int(keys[:nnz].max()), int(keys[:nnz].min())) if nnz else (0, 1)
    first = first if first is not None else int(low > 0)
    bits = hash_bits if hash_bits is not None else min(30, max(18, (16 * (top + 1) - 1).bit_length()))
    levels = tuple(map(float, labels)) if labels else tuple(np.unique(y[:rows]).tolist())
    kind, levels = _task(levels, task)
    wide = bool((np.abs(values[:nnz]) > NEAR_ONE).any())
    schema = Schema(1 << bits, True, kind, tuple(map(_name, levels)), numbers=wide)
    return Plan("libsvm", schema, levels=levels, mask=(1 << bits) - 1, first=first, hashed=hash_bits is not None)


def records(text: str, delimiter: str) -> list[list[str]]:
    """Rows of the sample that hold anything."""
    return [r for r in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True) if r]


def sniff(text: str) -> str:
    """The delimiter that cuts most of the first lines into one same number of columns, more winning ties."""
    best = (0, 1, ",")
    lines = "\n".join(text[: 1 << 16].splitlines()[:20])
    for mark in ",;\t| ":
        widths = [len(r) for r in records(lines, mark)]
        for width in {w for w in widths if w > 1}:
            best = max(best, (widths.count(width), width, mark), key=lambda b: b[:2])
    return best[2]


def column(name: str | int, names: Sequence[str], where: str) -> int:
    """Index of a column given by name or number (negative counts from the end)."""
    if isinstance(name, str) and name in names:
        return names.index(name)
    try:
        return range(len(names))[int(name)]
    except (ValueError, IndexError):
        found = ", ".join(names[:20])
        raise ConfigError(
            f"column: expected a name or number, found {name!r}", where=where, fix=f"one of: {found}"
        ) from None


def csv_plan(
    head: bytes,
    where: str,
    *,
    target: str | int | None,
    header: bool | str,
    delimiter: str,
    numeric: Collection[str | int],
    categorical: Collection[str | int],
    labels: Sequence[str] | None,
    hash_bits: int | None,
    task: Task | None,
    missing: str,
    quoted_newlines: bool,
    text: Grams = None,
    event: Event = ("", "", "auto"),
) -> Plan:
    """Plan of CSV text from its head; the target defaults to the last; columns of non-numbers are categorical."""
    sample = head.decode("utf-8", "replace").replace("\0", "\ufffd")
    mark = sniff(sample) if delimiter == "auto" else delimiter
    csv.field_size_limit(1 << 30)
    rows = records(sample, mark)
    if not rows:
        raise DataError("expected rows, found none", where=where, fix="give a file that holds data")
    has = all(number(c) is None for c in rows[0]) if header == "auto" else bool(header)
    names = tuple(c.strip() for c in rows[0]) if has else tuple(f"c{i}" for i in range(len(rows[0])))
    body = [r for r in rows[has:] if len(r) == len(names)]
    if not body:
        raise DataError(
            "expected rows under the header, found none", where=where, fix="header=false if line 1 is a row"
        )
    goal = column(-1 if target is None else target, names, where)
    forced = {column(c, names, where): NUMERIC for c in numeric} | {
        column(c, names, where): CATEGORICAL for c in categorical
    } | texts(text, names, goal, where)
    when = timed(event, names, goal, where, body)
    forced |= {place: SKIP for place in when[:2] if place >= 0}
    some = body[:: max(1, len(body) // SAMPLE_ROWS)]
    share = [sum(number(r[i]) is None for r in some) / len(some) for i in range(len(names))]
    kinds = [forced.get(i, CATEGORICAL if share[i] > 0.1 else NUMERIC) for i in range(len(names))]
    made = _finish(body, goal, kinds, names, mark, has, share[goal], labels, hash_bits, task, missing, quoted_newlines, text)
    return replace(made, time=when[0], id=when[1], scale=when[2])


def _finish(
    body: list[list[str]],
    goal: int,
    kinds: list[int],
    names: tuple[str, ...],
    mark: str,
    has: bool,
    words: float,
    labels: Sequence[str] | None,
    hash_bits: int | None,
    task: Task | None,
    missing: str,
    newlines: bool,
    text: Grams = None,
) -> Plan:
    cells = [r[goal].strip(" \t\r") for r in body]
    levels: tuple[float, ...] = ()
    known = [v for c in set(cells) if (v := number(c)) is not None and np.isfinite(v)]
    if words > 0.1 or (labels and any(number(v) is None for v in labels)):
        kinds[goal] = TARGET_TEXT
        given = tuple(labels or sorted({c for c in set(cells) if (v := number(c)) is None or not np.isnan(v)}))
        kind: Task = task or ("binary" if len(given) == 2 else "multiclass")
    else:
        kinds[goal] = TARGET
        kind, levels = _task(tuple(map(float, labels)) if labels else tuple(np.unique(known).tolist()), task)
        given = tuple(map(_name, levels))
    sparse = CATEGORICAL in kinds or TEXT in kinds or hash_bits is not None
    bits = hash_bits if hash_bits is not None else 20 if TEXT in kinds else 18
    width = 1 << bits if sparse else kinds.count(NUMERIC)
    schema = Schema(width, sparse, kind, given, tuple(n for i, n in enumerate(names) if i != goal and kinds[i] != SKIP),
                    sparse and NUMERIC in kinds)
    return Plan(
        "csv",
        schema,
        names,
        tuple(kinds),
        mark,
        has,
        levels,
        (1 << bits) - 1,
        missing=cast(Any, missing),
        quoted_newlines=newlines,
        orders=tuple(text[1]) if text else (),
    )


def timed(event: Event, names: Sequence[str], goal: int, where: str,
          body: Sequence[Sequence[str]] = ()) -> tuple[int, int, float]:
    """Columns of time and id, -1 = none, and microseconds in a unit of time, by the first number found."""
    time, ident, unit = event
    places = [MESSAGE if name == "@message" else column(name, names, where) if name else -1 for name in (time, ident)]
    if goal in places:
        raise ConfigError("time: expected columns beside the target", where=where, fix=f"of {', '.join(names[:20])}")
    first = next((v for row in body if places[0] >= 0 and (v := number(row[places[0]])) is not None and np.isfinite(v)), 0.0)
    return places[0], places[1], scale_of(unit, first)


def texts(text: Grams, names: Sequence[str], goal: int, where: str) -> dict[int, int]:
    """The kinds of the columns that hold text."""
    found = {column(name, names, where): TEXT for name in (text[0] if text else ())}
    if text and (not found or goal in found):
        raise ConfigError("tokens: expected columns of text, none of them the target", where=where,
                          fix=f"tokens?columns=NAME, of {', '.join(names[:20])}")
    return found


def text_plan(head: bytes, where: str, *, labels: Sequence[str] | None, hash_bits: int | None, task: Task | None,
              text: Grams) -> Plan:
    """Plan of lines that are a label, a blank, and text; a line that begins with a blank has no label."""
    lines = [line for line in head.decode("utf-8", "replace").split("\n") if line.strip("\r")]
    body = [["" if line[0] in " \t\r" else re.split(r"[ \t\r]", line, maxsplit=1)[0], ""] for line in lines]
    if not body:
        raise DataError("expected lines of a label and text, found none", where=where, fix="give a file that holds data")
    words = sum(number(row[0]) is None for row in body[:: max(1, len(body) // SAMPLE_ROWS)])
    made = _finish(body, 0, [TARGET, TEXT], ("label", "text"), "\0", False, words / min(len(body), SAMPLE_ROWS), labels,
                   hash_bits, task, "nan", False, (("text",), text[1] if text else WORDS))
    return replace(made, format="text")


def unlabelled(plan: Plan, head: bytes, where: str) -> Plan:
    """The plan of other text like that of `plan`, for rows whose target nobody asks for: it may be absent, and anything.

    Columns are found by name where there is a header, in any order and among others; DataError names those that are absent.
    """
    blind = replace(plan, levels=(), time=-1, id=-1)
    if plan.format != "csv":
        return replace(blind, kinds=tuple(SKIP if kind in (TARGET, TARGET_TEXT) else kind for kind in plan.kinds))
    sample = head.decode("utf-8", "replace").replace("\0", "\ufffd")
    kinds = {n: kind for n, kind in zip(plan.names, plan.kinds, strict=True) if kind in (NUMERIC, CATEGORICAL, TEXT)}
    goal = [n for n, kind in zip(plan.names, plan.kinds, strict=True) if kind in (TARGET, TARGET_TEXT)]
    first: tuple[str, ...] = ()
    absent = [*kinds]
    for mark in dict.fromkeys((plan.delimiter, sniff(sample))):
        rows = records(sample, mark)
        first = tuple(c.strip() for c in rows[0]) if rows else ()
        if not plan.header:
            fits = [names for names in (plan.names, tuple(n for n in plan.names if n not in goal)) if len(names) == len(first)]
            first, absent = (fits[0], []) if fits else (first, absent)
        else:
            absent = [n for n in kinds if n not in first]
        if not absent:
            break
    if absent:
        found = ", ".join(first[:12]) if plan.header else f"{len(first)} columns"
        raise DataError(f"expected the columns that the model has learned, {', '.join(absent[:12])}, found {found}",
                        where=where, fix="a first line with their names, in any order" if plan.header else
                        f"{len(plan.names)} columns, or one less without the target")
    schema = replace(plan.schema, columns=tuple(n for n in first if n in kinds))
    return replace(blind, schema=schema, names=first, kinds=tuple(kinds.get(n, SKIP) for n in first), delimiter=mark)


def named_plan(columns: Sequence[str], spec: str, options: Mapping[str, Any]) -> Plan | None:
    """Plan of rows that nobody has seen yet: CSV of `columns` (task, and labels of classes), or libsvm of `hash_bits`."""
    task, labels = options.get("task"), tuple(options.get("labels") or ())
    if task is None:
        return None
    numbers = [number(v) for v in labels]
    words = any(v is None for v in numbers)
    if task == "regression":
        given: tuple[str, ...] = ()
        levels: tuple[float, ...] = ()
    else:
        ordered = tuple(sorted(v for v in numbers if v is not None))
        levels = () if words else _task(ordered or (0.0, 1.0), task)[1]
        given = labels if words else tuple(map(_name, levels))
    if options.get("format") == "libsvm":
        bits = options.get("hash_bits") or 20
        return Plan("libsvm", Schema(1 << bits, True, task, given), levels=levels, mask=(1 << bits) - 1,
                    first=1 if options.get("first") is None else options["first"], hashed=bool(options.get("hash_bits")))
    if options.get("format") == "text":
        columns = ("label", "text")
    if not columns:
        return None
    names, text = tuple(columns), options.get("text")
    if options.get("format") == "text":
        goal, text = 0, (("text",), text[1] if text else WORDS)
    else:
        goal = column(-1 if options.get("target") is None else options["target"], names, spec)
    kinds = [NUMERIC] * len(names)
    for name in options.get("categorical") or ():
        kinds[column(name, names, spec)] = CATEGORICAL
    for place, kind in texts(text, names, goal, spec).items():
        kinds[place] = kind
    when = timed(options.get("event") or ("", "", "auto"), names, goal, spec)
    for place in when[:2]:
        if place >= 0:
            kinds[place] = SKIP
    kinds[goal] = TARGET_TEXT if words else TARGET
    sparse = CATEGORICAL in kinds or TEXT in kinds or options.get("hash_bits") is not None
    bits = options.get("hash_bits") or (20 if TEXT in kinds else 18)
    schema = Schema(1 << bits if sparse else kinds.count(NUMERIC), sparse, task, given,
                    tuple(n for i, n in enumerate(names) if i != goal and kinds[i] != SKIP), sparse and NUMERIC in kinds)
    delimiter = options.get("delimiter") or "auto"
    plan = Plan("csv", schema, names, tuple(kinds), "," if delimiter == "auto" else delimiter,
                options.get("header") is True, levels, (1 << bits) - 1, missing=cast(Any, options.get("missing") or "zero"),
                orders=tuple(text[1]) if text else (), time=when[0], id=when[1], scale=when[2])
    return replace(plan, format="text", delimiter="\0", header=False) if options.get("format") == "text" else plan
