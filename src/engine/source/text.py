"""Text sources: plain files cut into pieces by byte range, and streams (gzip, stdin) of one piece a file."""

from __future__ import annotations

import gzip
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from engine.errors import DataError
from engine.kernels import _native
from engine.kernels.plain.text import room as room_of
from engine.source.schema import NUMERIC, TARGET_TEXT, TEXT, Plan
from engine.types import Array, Batch

BOM = b"\xef\xbb\xbf"
REASONS = (
    "",
    "too few columns",
    "too many columns",
    "not a number",
    "not finite",
    "unknown label",
    "open quote",
    "bad key",
)
FIXES = {
    5: "labels=[...] with every label, or on_bad_rows=skip",
    6: "quoted_newlines=true, or on_bad_rows=skip",
    7: "hash_bits=24, or first=0 where keys count from 0",
}
EXAMPLES = 5


def open_stream(path: str) -> BinaryIO:
    """Bytes of a file, gunzipped by its name, or of stdin for `-`; DataError where it cannot be opened."""
    if path == "-":
        host, _, given = os.environ.get("ENGINE_STDIN", "").partition(":")
        return open(given, "rb") if given and host == os.uname().nodename else sys.stdin.buffer
    if "://" in path:
        from engine.source.table import opened

        found: Any = opened(path)
        return gzip.open(found, "rb") if path.endswith(".gz") else found
    try:
        return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(
            f"expected a readable file, found: {error.strerror}", where=path, fix="check the path and its permissions"
        ) from error


class Rejoined(io.RawIOBase):
    """A stream whose first bytes were read before: those again, then the rest."""

    def __init__(self, begun: bytes, rest: BinaryIO) -> None:
        self._begun, self._rest = memoryview(begun), rest

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        if len(self._begun):
            part, self._begun = self._begun[: len(room)], self._begun[len(room) :]
        else:
            part = memoryview(getattr(self._rest, "read1", self._rest.read)(len(room)))  # what there is, without waiting
        room[: len(part)] = part
        return len(part)


def buffers(plan: Plan, data: Any) -> tuple[dict[str, Any], int]:
    """Arrays with room for every row and entry that `data` can hold."""
    lines = _native.count_byte(data, 10) + 1
    out: dict[str, Any] = {
        "y": np.empty(lines, np.float32),
        "at": np.empty(lines, np.int64),
        "tally": np.zeros(8, np.int64),
        "bad": np.zeros(3 * 64, np.int64),
        "x": None,
        "indptr": None,
        "keys": None,
        "values": None,
    }
    if plan.schema.sparse:
        room = _native.count_byte(data, 58) if plan.format == "libsvm" else lines * len(plan.kinds)
        if texts := plan.kinds.count(TEXT):
            room += room_of(plan.orders, len(data)) + lines * room_of(plan.orders, 0) * texts
        out |= {
            "indptr": np.empty(lines + 1, np.int64),
            "keys": np.empty(room, np.uint32),
            "values": np.empty(room, np.float32),
        }
    else:
        out["x"] = np.empty((lines, plan.kinds.count(NUMERIC)), np.float32)
    return out, lines


def parse(plan: Plan, data: Any) -> tuple[Batch, Array, Array, Array]:
    """Rows of whole lines `data`: the batch, byte offset of each row, records `(m, 3)` and tally `(8,)` of bad rows."""
    out, _ = buffers(plan, data)
    ones = False
    if plan.format == "libsvm":
        del out["x"]
        rows, nnz, ones = _native.parse_libsvm(
            data, **out, first=plan.first, mode=2 if plan.hashed else 0, mask=plan.mask
        )
        out["x"] = None
    else:
        names = [n.encode() for n in plan.schema.labels] if TARGET_TEXT in plan.kinds else []
        ends = np.cumsum([len(n) for n in names], dtype=np.int64)
        rows, nnz = _native.parse_csv(
            data,
            np.array(plan.kinds, np.uint8),
            plan.seeds,
            b"".join(names),
            ends,
            **out,
            delimiter=ord(plan.delimiter),
            mask=plan.mask,
            lines_only=not plan.quoted_newlines,
            orders=plan.orders or (0,) * 5,
        )
    batch = Batch(out["y"][:rows], out["at"][:rows], out["y"][:rows])  # order and previous follow
    if out["x"] is None:
        batch.indptr, batch.keys = out["indptr"][: rows + 1], out["keys"][:nnz]
        batch.values = None if ones else out["values"][:nnz]
    else:
        batch.x = out["x"][:rows]
    bad = out["bad"].reshape(-1, 3)[: min(64, int(out["tally"].sum()))]
    batch, at, bad, tally = _settle(plan, batch, out["at"][:rows], bad, out["tally"])
    place = (ord(plan.delimiter), not plan.quoted_newlines, plan.scale)
    if plan.time >= 0:
        batch.time = np.empty(len(at), np.int64)
        _native.parse_times(data, at, plan.time, *place, batch.time)
    if plan.id >= 0:
        batch.id = np.empty(len(at), np.uint64)
        _native.parse_ids(data, at, plan.id, *place, batch.id)
    return batch, at, bad, tally


def _settle(plan: Plan, batch: Batch, at: Array, bad: Array, tally: Array) -> tuple[Batch, Array, Array, Array]:
    """Class ids for labels, the policy for missing values; rows that fail either join the bad ones."""
    wrong = np.zeros(0, np.int64)
    if plan.levels:
        batch.y, odd = _classes(plan.levels, batch.y)
        if odd is not None:
            wrong = np.where(odd, 5, 0)
    data = batch.x if batch.x is not None else batch.values
    if plan.format == "csv" and data is not None and plan.missing != "nan" and (gap := np.isnan(data)).any():
        wrong = wrong if len(wrong) else np.zeros(len(batch), np.int64)
        if plan.missing == "zero":
            data[gap] = 0
        elif batch.x is not None:
            wrong[gap.any(axis=1)] = 4
        else:
            assert batch.indptr is not None
            wrong[np.searchsorted(batch.indptr, np.flatnonzero(gap), "right") - 1] = 4
    if wrong.any():
        rows = np.flatnonzero(wrong)
        column = plan.kinds.index(3) if 3 in plan.kinds else 0
        more = np.stack([at[rows], np.where(wrong[rows] == 5, column, -1), wrong[rows]], axis=1)
        bad, tally = np.concatenate([bad, more]), tally + np.bincount(wrong[rows], minlength=8)
        bad = bad[np.argsort(bad[:, 0], kind="stable")]
        keep = np.flatnonzero(wrong == 0)
        batch, at = batch.take(keep), at[keep]
    batch.order = np.arange(len(batch), dtype=np.int64)
    batch.previous = np.empty(len(batch), np.float32)
    if len(batch):
        batch.previous[0], batch.previous[1:] = np.nan, batch.y[:-1]
    return batch, at, bad, tally


def _classes(levels: Sequence[float], y: Array) -> tuple[Array, Array | None]:
    """Class ids float32 of the labels `y`, NaN where there is none; which labels are unknown, or None: none is."""
    if len(levels) == 2:
        high = y == np.float32(levels[1])
        if (high | (y == np.float32(levels[0]))).all():
            return high.astype(np.float32), None
    table = np.array(levels, np.float32)
    place = np.minimum(np.searchsorted(table, y), len(table) - 1)
    empty = np.isnan(y)
    odd = ~empty & (table[place] != y)
    return np.where(empty, np.float32(np.nan), place.astype(np.float32)), odd if odd.any() else None


class TextSource:
    """CSV or libsvm files behind the `Source` protocol.

    A plain file is cut by byte range: piece i of a file holds the lines that start in [i, i + 1) * piece_bytes.  A
    gzip file, stdin, or a file with `quoted_newlines` is one piece, read as a stream in batches of about piece_bytes.
    """

    def __init__(
        self,
        paths: Sequence[str],
        plan: Plan,
        *,
        piece_bytes: int = 1 << 21,
        on_bad_rows: str = "error",
        begun: bytes = b"",
    ) -> None:
        self.paths, self.plan, self.schema = tuple(paths), plan, plan.schema
        self.piece_bytes, self.policy = piece_bytes, on_bad_rows
        self._begun = begun
        self.events: list[str] = []
        self.stats: dict[str, Any] = {"rows": 0, "bad": 0, "reasons": {}, "examples": []}
        self._sizes = [None if self._streamed(p) else os.path.getsize(p) for p in self.paths]
        self._body = [
            0 if size is None else self._find_body(p) for p, size in zip(self.paths, self._sizes, strict=True)
        ]
        counts = [1 if size is None else max(1, -(-size // piece_bytes)) for size in self._sizes]
        self._starts = np.cumsum([0, *counts])
        self.pieces: int | None = int(self._starts[-1])

    def streamed(self, piece: int) -> bool:
        """Whether the piece's length is known only at its end: gzip, stdin, quoted line ends."""
        return self._sizes[int(np.searchsorted(self._starts, piece, "right")) - 1] is None

    def _streamed(self, path: str) -> bool:
        return path == "-" or path.endswith(".gz") or self.plan.quoted_newlines or not os.path.isfile(path)

    def _find_body(self, path: str) -> int:
        with open_stream(path) as file:
            return self._body_of(file, path)

    def _body_of(self, file: BinaryIO, path: str) -> int:
        """Byte offset of the first row: past the byte order mark and the header, which must be the plan's."""
        offset, line = 0, file.readline()
        if line.startswith(BOM):
            offset, line = 3, line[3:]
        if not self.plan.header:
            self._pending = line
            return offset
        while line and not line.strip():
            offset, line = offset + len(line), file.readline()
        names = line.decode("utf-8", "replace").strip().split(self.plan.delimiter)
        if b'"' not in line and [n.strip() for n in names] != list(self.plan.names):
            raise DataError(
                f"header: expected {list(self.plan.names)}, found {names}",
                where=f"{path}:1",
                fix="give files with one header, or header=false",
            )
        self._pending = b""
        return offset + len(line)

    def reader(self, piece: int, size: int) -> int:
        """The rank that reads `piece`: dealt in turn; a stream by its file, stdin by rank 0."""
        return 0 if self.paths[0] == "-" else piece % size

    def read(self, piece: int, skip: int = 0) -> Iterator[Batch]:
        """Batches of the piece's rows from row `skip` on; DataError on a bad row where the policy is `error`."""
        if self.pieces is not None and not 0 <= piece < self.pieces:
            return
        file = int(np.searchsorted(self._starts, piece, "right")) - 1
        done, last = 0, np.float32(np.nan)
        size = self._sizes[file]
        chunks = self._stream(file) if size is None else self._range(file, piece - int(self._starts[file]), size)
        for offset, data in chunks:
            batch, _, bad, tally = parse(self.plan, data)
            if tally.any():
                self._report(file, offset, data, bad, tally, piece)
            if not len(batch):
                continue
            batch.order += done
            batch.previous[0] = last
            done, last = done + len(batch), batch.y[-1]
            if done > skip:
                kept = batch.slice(max(0, len(batch) - (done - skip)), len(batch))
                self.stats["rows"] += len(kept)
                yield kept

    def _range(self, file: int, index: int, size: int) -> Iterator[tuple[int, bytes]]:
        path = self.paths[file]
        handle = os.open(path, os.O_RDONLY)
        try:
            found = os.fstat(handle).st_size
            if found < size:
                raise DataError(
                    f"expected {size} bytes, found {found}: the file shrank",
                    where=path,
                    fix="start again on a file that stays",
                )
            low = max(self._body[file], self._edge(handle, index * self.piece_bytes, size))
            high = max(low, self._edge(handle, min(size, (index + 1) * self.piece_bytes), size))
            data = os.pread(handle, high - low, low)
            while 0 < len(data) < high - low and (part := os.pread(handle, high - low - len(data), low + len(data))):
                data += part
            if len(data) < high - low:
                raise DataError(
                    f"expected {high - low} bytes from byte {low}, found {len(data)}: the file shrank",
                    where=path,
                    fix="start again on a file that stays",
                )
        finally:
            os.close(handle)
        if data:
            yield low, data

    def _edge(self, handle: int, at: int, size: int) -> int:
        """First line start at or after byte `at`."""
        if at <= 0 or at >= size:
            return min(max(at, 0), size)
        at -= 1
        while part := os.pread(handle, 1 << 14, at):
            if (hit := part.find(b"\n")) >= 0:
                return min(size, at + hit + 1)
            at += len(part)
        return size

    def _stream(self, file: int) -> Iterator[tuple[int, bytes]]:
        stream = open_stream(self.paths[file])
        if self._begun:
            stream, self._begun = io.BufferedReader(Rejoined(self._begun, stream)), b""
        try:
            offset = self._body_of(stream, self.paths[file])
            rest = self._pending
            read = getattr(stream, "read1", stream.read) if self.paths[file] == "-" else stream.read
            while part := read(self.piece_bytes):
                rest += part
                if cut := self._cut(rest):
                    yield offset, rest[:cut]
                    offset, rest = offset + cut, rest[cut:]
            if rest:
                yield offset, rest
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            raise DataError(
                f"expected a whole stream, found: {error}", where=self.paths[file], fix="fetch the file again"
            ) from error
        finally:
            if self.paths[file] != "-":
                stream.close()

    def _cut(self, data: bytes) -> int:
        """End of the last whole record: its line end stands outside quotes, after an even number of quotes."""
        cut = data.rfind(b"\n") + 1
        if self.plan.quoted_newlines:
            while cut and data.count(b'"', 0, cut) % 2:
                cut = data.rfind(b"\n", 0, cut - 1) + 1
        return cut

    def _report(self, file: int, offset: int, data: bytes, bad: Array, tally: Array, piece: int) -> None:
        first = self._place(file, offset, data, *map(int, bad[0]))
        if self.policy == "error":
            raise first
        self.stats["bad"] += int(tally.sum())
        for code in np.flatnonzero(tally):
            reasons = self.stats["reasons"]
            reasons[REASONS[code]] = reasons.get(REASONS[code], 0) + int(tally[code])
        for row in bad[: EXAMPLES - len(self.stats["examples"])]:
            self.stats["examples"].append(str(self._place(file, offset, data, *map(int, row))))
        if self.policy == "count":
            self.events.append(
                f"piece {piece}: {int(tally.sum())} bad rows left out; first: {first.message} at {first.where}"
            )

    def _place(self, file: int, offset: int, data: bytes, at: int, column: int, code: int) -> DataError:
        path = self.paths[file]
        line = data.count(b"\n", 0, at) + 1
        name = self.plan.names[column] if 0 <= column < len(self.plan.names) else str(column)
        found = data[at : at + 200].split(b"\n")[0].decode("utf-8", "replace").rstrip("\r")
        if os.path.isfile(path) and not path.endswith(".gz"):
            with open(path, "rb") as text:
                left = offset
                while left and (part := text.read(min(left, 1 << 20))):
                    line, left = line + part.count(b"\n"), left - len(part)
            where = f"{path}:{line}, byte {offset + at}, column {name}"
        else:
            where = f"{path}, byte {offset + at} of the text, column {name}"
        return DataError(
            f"{REASONS[code]}: expected a {self.plan.format} row, found {found!r}",
            where=where,
            fix=FIXES.get(code, "on_bad_rows=skip"),
        )

    def close(self) -> None:
        """Nothing stays open between reads."""
