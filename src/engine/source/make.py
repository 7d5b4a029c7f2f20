"""Generated streams with known drift: row i is a pure function of (seed, i), so any rank can make any row."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from engine.errors import DataError
from engine.types import Array, Batch, Schema

CHUNK = 4096
U = np.uint64
Fields = tuple[Array, Array]
Options = Mapping[str, float]


def mixed(x: Array) -> Array:
    """splitmix64's finaliser on uint64, in place."""
    x ^= x >> U(30)
    x *= U(0xBF58476D1CE4E5B9)
    x ^= x >> U(27)
    x *= U(0x94D049BB133111EB)
    x ^= x >> U(31)
    return x


def uniform(rows: Array, seed: float, columns: int, salt: int = 0) -> Array:
    """float64 `(n, columns)` in [0, 1): a counter-based generator keyed by seed, salt, row and column."""
    start = mixed(np.array([int(seed) * 0x9E3779B97F4A7C15 + salt * 0xD1B54A32D192ED03 & (1 << 64) - 1], U))
    row = mixed(rows.astype(U) * U(0x9E3779B97F4A7C15) + start)
    column = (np.arange(columns, dtype=U) + U(1)) * U(0xD6E8FEB86659FD93)
    bits = mixed(row[:, None] + column)
    bits >>= U(11)
    return bits * 2.0**-53


def _flip(label: Array, rows: Array, o: Options) -> Array:
    """Labels as float32, a share `noise` of them wrong."""
    return np.asarray(label ^ (uniform(rows, o["seed"], 1, 9)[:, 0] < o["noise"]), np.float32)


def _epoch(rows: Array, o: Options) -> Array:
    """How many drifts lie behind each row; `drift` = 0: none ever."""
    return rows // int(o["drift"]) if o["drift"] else np.zeros_like(rows)


def sea(rows: Array, o: Options) -> Fields:
    """SEA concepts (Street and Kim 2001): x0 + x1 <= a threshold that jumps every `drift` rows; x2 says nothing."""
    x = uniform(rows, o["seed"], 3) * 10
    limit = np.array([8.0, 9.0, 7.0, 9.5])[_epoch(rows, o) % 4]
    return x, _flip(x[:, 0] + x[:, 1] <= limit, rows, o)


def hyperplane(rows: Array, o: Options) -> Fields:
    """A hyperplane through the cube's middle whose normal turns, once round every `drift` rows (Hulten et al. 2001)."""
    columns = int(o["columns"])
    x = uniform(rows, o["seed"], columns)
    phase = uniform(np.zeros(1, np.int64), o["seed"], columns, 1)
    turn = rows[:, None] / o["drift"] if o["drift"] else 0.0
    normal = np.sin(2 * np.pi * (turn + phase))
    return x, _flip(((x - 0.5) * normal).sum(axis=1) > 0, rows, o)


def agrawal(rows: Array, o: Options) -> Fields:
    """Loan applicants (Agrawal et al. 1993), functions 1, 2, 3, 7, 8, 9, 10 in turn, the next every `drift` rows.

    Columns: salary, commission, age, education, car, zip code, house value, years owned, loan.
    """
    u = uniform(rows, o["seed"], 9)
    salary = 20000 + 130000 * u[:, 0]
    commission = np.where(salary >= 75000, 0, 10000 + 65000 * u[:, 1])
    whole = ((2, 20, 61), (3, 0, 5), (4, 1, 20), (5, 0, 9))
    age, level, car, code = (np.floor(low + n * u[:, i]) for i, low, n in whole)
    house = (9 - code) * 100000 * (0.5 + u[:, 6])
    years, loan = np.floor(1 + 30 * u[:, 7]), 500000 * u[:, 8]
    young, old, pay = age < 40, age >= 60, 0.67 * (salary + commission)

    def by_age(value: Array, a: Fields | Any, b: Any, c: Any) -> Array:
        inside = [(value >= low) & (value <= high) for low, high in (a, b, c)]
        return np.asarray(np.where(young, inside[0], np.where(old, inside[2], inside[1])))

    equity = 0.1 * house * np.maximum(years - 20, 0)
    functions = np.stack([
        young | old,
        by_age(salary, (5e4, 1e5), (7.5e4, 1.25e5), (2.5e4, 7.5e4)),
        by_age(level, (0, 1), (1, 3), (2, 4)),
        pay - 0.2 * loan - 20000 > 0,
        pay - 5000 * level - 20000 > 0,
        pay - 5000 * level - 0.2 * loan - 10000 > 0,
        pay - 5000 * level + 0.2 * equity - 10000 > 0,
    ])
    label = functions[_epoch(rows, o) % len(functions), np.arange(len(rows))]
    return np.stack([salary, commission, age, level, car, code, house, years, loan], axis=1), _flip(label, rows, o)


def rbf(rows: Array, o: Options) -> Fields:
    """Points round `centres` that each have a class and circle slowly, once round every `drift` rows."""
    centres, columns = int(o["centres"]), int(o["columns"])
    middle = uniform(np.arange(centres), o["seed"], columns + 2, 1)
    u = uniform(rows, o["seed"], columns * 2 + 1)
    which = (u[:, -1] * centres).astype(np.int64)
    turn = rows / o["drift"] if o["drift"] else np.zeros(len(rows))
    sway = 0.2 * np.sin(2 * np.pi * (turn + middle[which, -1]))
    normal = np.sqrt(-2 * np.log1p(-u[:, :columns])) * np.cos(2 * np.pi * u[:, columns : 2 * columns])
    x = middle[which, :columns] + sway[:, None] + 0.05 * normal
    return x, _flip(middle[which, -2] < 0.5, rows, o)


def zipf(rows: Array, o: Options) -> Fields:
    """Clicks: keys uint32 `(n, nnz)`, field j's value has Zipf rank r with weight r^-alpha, hashed with j to a key;
    and the log odds under a hidden sparse weight a key (an eighth of them are not 0), before the bias."""
    nnz, alpha, size = int(o["nnz"]), o["alpha"], 2.0 ** o["keys"]
    u = uniform(rows, o["seed"], nnz)
    if alpha == 1:
        rank = np.exp(u * np.log(size))
    else:
        u *= size ** (1 - alpha) - 1
        u += 1
        rank = np.power(u, 1 / (1 - alpha), out=u)
    name = rank.astype(U)
    name += np.arange(nnz, dtype=U) << U(40)
    key = mixed(name) & U((1 << int(o["keys"])) - 1)
    hidden = mixed(key + U(int(o["seed"]) + 1))
    weight = ((hidden >> U(40)).astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)) * np.float32(2)
    weight *= (hidden & U(7)) == 0
    return key.astype(np.uint32), weight.sum(axis=1)


COMMON = {"rows": 100000.0, "seed": 1.0}
DRIFTS = COMMON | {"drift": 0.0, "noise": 0.0}
KINDS: dict[str, tuple[Callable[[Array, Options], Fields], dict[str, float]]] = {
    "sea": (sea, DRIFTS | {"drift": 12500.0, "noise": 0.1}),
    "hyperplane": (hyperplane, DRIFTS | {"columns": 10.0}),
    "agrawal": (agrawal, DRIFTS),
    "rbf": (rbf, DRIFTS | {"columns": 10.0, "centres": 50.0}),
    "zipf": (zipf, COMMON | {"keys": 24.0, "nnz": 40.0, "alpha": 1.1, "rate": 0.25}),
}


def unknown(what: str, found: str, known: list[str], spec: str) -> DataError:
    """DataError for a name that is not there, with the nearest that is."""
    near = difflib.get_close_matches(found, known, 1)
    fix = f"did you mean {near[0]}?" if near else "one of: " + ", ".join(known)
    return DataError(f"{what}: expected a known name, found {found!r}", where=spec, fix=fix)


def parse_spec(spec: str) -> tuple[str, dict[str, float]]:
    """`make:NAME?option=number&...` as the name and all its options; DataError for an unknown one or a bad value."""
    name, _, query = spec.removeprefix("make:").partition("?")
    if name not in KINDS:
        raise unknown("generator", name, list(KINDS), spec)
    options = dict(KINDS[name][1])
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in options:
            raise unknown("option", key, list(options), spec)
        try:
            options[key] = float(text)
        except ValueError:
            options[key] = np.nan
        low, high = {"keys": (1, 30), "nnz": (1, 10000), "rate": (1e-6, 1 - 1e-6), "noise": (0, 1), "seed": (0, 2**52),
                     "drift": (0, 2**52), "alpha": (0, 10)}.get(key, (1, 2**52))
        whole = key in ("noise", "alpha", "rate") or options[key] == np.floor(options[key])
        if not (low <= options[key] <= high and whole):
            raise DataError(f"{key}: expected a number from {low} to {high}, found {text!r}", where=spec,
                            fix=f"{key}={KINDS[name][1][key]:g}")
    return name, options


class MakeSource:
    """`rows` generated rows; piece i holds rows [i * piece_rows, (i + 1) * piece_rows), the same whatever its size.

    Pieces asked for at a steady stride are made some thousand rows at a time.
    """

    plan = None

    def __init__(self, name: str, options: Options, piece_rows: int = 4096) -> None:
        self._make, defaults = KINDS[name]
        self.options = {**defaults, **options}
        self.piece_rows, self._count = piece_rows, int(self.options["rows"])
        self.pieces: int | None = -(-self._count // piece_rows)
        self.stats: dict[str, Any] = {"rows": 0, "bad": 0, "reasons": {}, "examples": []}
        self._sparse = name == "zipf"
        self._bias = self._level() if self._sparse else 0.0
        columns = self._make(np.zeros(1, np.int64), self.options)[0].shape[1]
        width = 1 << int(self.options["keys"]) if self._sparse else columns
        self.schema = Schema(width, self._sparse, "binary", ("0", "1"),
                             () if self._sparse else tuple(f"x{i}" for i in range(width)))
        self._ahead: tuple[int, int, int, Batch] | None = None
        self._last = -1
        self._lock = Lock()

    @property
    def pure(self) -> bool:
        """Whether pieces may be read by several threads at once."""
        return self.piece_rows >= CHUNK

    def streamed(self, piece: int) -> bool:
        return False

    def reader(self, piece: int, size: int) -> int:
        return piece % size

    def read(self, piece: int, skip: int = 0) -> Iterator[Batch]:
        low = piece * self.piece_rows
        count = min(self._count - low, self.piece_rows)
        for start in range(skip, count, CHUNK):
            stop = min(count, start + CHUNK)
            small = self.piece_rows < CHUNK
            batch = self._of(piece, start, stop) if small else self.rows(np.arange(low + start, low + stop))
            batch.order = np.arange(start, stop, dtype=np.int64)
            batch.previous = np.full(stop - start, np.nan, np.float32)
            batch.previous[1:] = batch.y[:-1]
            if start:
                batch.previous[0] = self.rows(np.array([low + start - 1])).y[0]
            with self._lock:
                self.stats["rows"] += len(batch)
            yield batch

    def _of(self, piece: int, start: int, stop: int) -> Batch:
        """Rows of a small piece, out of those made ahead at the stride of the last two pieces asked for."""
        stride = min(max(piece - self._last, 1), CHUNK) if self._last >= 0 else 1
        self._last = piece
        if self._ahead is not None:
            first, step, count, made = self._ahead
            place, rest = divmod(piece - first, step)
            if not rest and 0 <= place < count:
                return made.slice(place * self.piece_rows + start, place * self.piece_rows + stop)
        count = CHUNK // self.piece_rows
        rows = ((piece + stride * np.arange(count))[:, None] * self.piece_rows + np.arange(self.piece_rows)).reshape(-1)
        self._ahead = (piece, stride, count, self.rows(rows))
        return self._ahead[3].slice(start, stop)

    def rows(self, index: Array) -> Batch:
        """The rows numbered `index` int64 `(n,)`."""
        features, y = self._make(index, self.options)
        order, previous = index, np.full(len(index), np.nan, np.float32)
        if not self._sparse:
            return Batch(y, order, previous, x=np.ascontiguousarray(features, np.float32))
        chance = 1 / (1 + np.exp(-(y + self._bias)))
        y = np.asarray(uniform(index, self.options["seed"], 1, 2)[:, 0] < chance, np.float32)
        indptr = np.arange(len(index) + 1, dtype=np.int64) * features.shape[1]
        return Batch(y, order, previous, indptr=indptr, keys=features.reshape(-1))

    def _level(self) -> float:
        """The bias that makes a share `rate` of the labels 1, by bisection over the first rows."""
        odds, low, high = self._make(np.arange(CHUNK), self.options)[1], -60.0, 60.0
        for _ in range(40):
            middle = (low + high) / 2
            over = np.mean(1 / (1 + np.exp(-(odds + middle)))) > self.options["rate"]
            low, high = (low, middle) if over else (middle, high)
        return low

    def close(self) -> None:
        """Nothing to close."""
