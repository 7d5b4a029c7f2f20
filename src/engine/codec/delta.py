"""Exact difference of two versions of an array as a frame: base named in, result named out, verified chunk by chunk.

    frame = delta_encode(new, base, base_version=4)      # uint8, one frame
    new = delta_apply(base, frame, base_version=4)       # a new array; `base` is never touched

Elements are compared as integers in the order of their values (units in the last place), so that a step of an optimiser
is a small number. Each chunk takes the cheapest form: zero, raw, sparse, dense (class coder, under the exponent of the
base where that helps), packed (`fast`), keyframe (blosc2), lossy (`bound`). A frame without a base is a keyframe.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import FrameError
from ..kernels import _native
from ..types import Array
from . import pack
from .frame import CODECS, DTYPES, ENTRY, KINDS, Delta, Frame, decode_frame, frame_head, head_size, numpy_dtype

PARAMS = struct.Struct("<dfIQQ")  # bound, beta, elements of a chunk, hash of the version before the base, 0
SMALL, LARGE = 1 << 16, 1 << 20  # elements of a chunk where many, where few change
MODES = ("zero", "raw", "keyframe", "sparse", "dense", "packed", "lossy", "absent")
FAULTS = ("", "keyframe", "checksum is wrong", "layout is wrong", "result hash is wrong")
KEYFRAME, ABSENT = MODES.index("keyframe"), MODES.index("absent")
RAW, WHOLE = MODES.index("raw"), 1  # WHOLE: flag of a frame that needs no base
EXT_SIZE = 32 + PARAMS.size
ROW = np.dtype(
    [("offset", "<u8"), ("length", "<u4"), ("items", "<u4"), ("mode", "<u4"), ("crc", "<u4"), ("hash", "<u8")]
)
PASS = 255  # marks a chunk that a decoder leaves alone
_KIND = {"float16": 4, "bfloat16": 5, "float32": 6, "float64": 7}


class ChunkError(FrameError):
    """Some chunks of a delta do not give the result they name; `chunks` are their numbers, for `delta_repair`."""

    def __init__(self, message: str, chunks: Iterable[int] = (), *, where: str = "", fix: str = "") -> None:
        super().__init__(message, where=where, fix=fix)
        self.chunks = tuple(chunks)


class Head(NamedTuple):
    """What a delta says of itself: versions, hashes, and how its chunks are coded."""

    base_version: int
    new_version: int
    base_hash: int
    result_hash: int
    bound: float
    beta: float
    chunk: int
    before_hash: int


def delta_hash(data: Array) -> int:
    """64-bit hash of an array's bits and places: a sum, so that rows can be taken out and put back (`hash_rows`)."""
    return _native.hash64(_bytes(data))


def hash_rows(data: Array, rows: Array) -> int:
    """The share of ascending `rows` (int64, of the first axis) in `delta_hash(data)`: take it out before they change, add
    it after, `(value - before + after) % 2**64`. O(rows): an array need not be read again to know its hash.
    """
    width = data.nbytes // len(data) if len(data) else 0
    return _native.hash64_rows(_bytes(data), width, rows) if width else 0


def delta_encode(
    new: Array,
    base: Array | None,
    *,
    base_version: int = 0,
    new_version: int | None = None,
    base_hash: int | None = None,
    previous: Array | None = None,
    previous_hash: int | None = None,
    beta: float = 0.95,
    bound: float = 0.0,
    fast: bool = False,
    keyframe: str = "zstd",
    name: int = 0,
    step: int = 0,
    result: Array | None = None,
    out: Array | None = None,
) -> Array:
    """The frame uint8 `(bytes,)` that makes `new` of `base`; both C-contiguous, of one shape and dtype. Any length.

    `base` None: a keyframe.  `base_hash`: `delta_hash(base)` where it is known, which saves a pass.
    `previous`: the version before the base, float32; base + `beta` * (base - previous) is then the reference where that
    is nearer, and the receiver needs it too.  `bound` > 0: float32 and float64 may differ by less than it; what the
    receiver will have is written to `result`, and is what the next delta must be taken from.  `fast`: bit-packing,
    at the speed of memory.  `keyframe`: how chunks that a delta does not shrink are packed: zstd, lz4, lzma or none.
    `out`: uint8 of `delta_room(new)` bytes or more to make the frame in, a view of which is returned; new memory has to be
    cleared page by page, which costs as much as the fast form.  ValueError where arrays do not fit together or an option
    does not apply.
    """
    bound = 0.0 if base is None else bound
    now, old, before, made = _versions(new, base, previous, bound, result)
    kind, width, chunk = _kind(new.dtype), new.dtype.itemsize, _chunk(new, base)
    count = -(-new.size // chunk)
    base_sum = 0 if old is None else _native.hash64(old) if base_hash is None else base_hash
    before_sum = 0 if before is None else _native.hash64(before) if previous_hash is None else previous_hash
    start = head_size(new.shape, bytes(EXT_SIZE), count)
    room = start + _native.delta_bound(kind, now.nbytes, chunk)
    out = np.empty(room, np.uint8) if out is None else _bytes(out)
    if len(out) < room:
        raise ValueError(f"delta: out: expected {room} bytes or more, found {len(out)}")
    rows = np.empty(count * ENTRY.size, np.uint8)
    used = _native.delta_encode(kind, now, old, before, beta, bound, fast, chunk, 0, out[start:], rows, made)
    table = rows.view(ROW)
    if keyframe != "none" and not fast and _poor(table, width).any():
        used = _keyframes(out[start:], table, now, width * chunk, width, keyframe)
    ext = Delta(base_sum, int(table["hash"].sum(dtype=np.uint64)), 0, step).encode()
    ext += PARAMS.pack(bound, beta if before is not None else 0.0, chunk, before_sum, 0)
    head = frame_head(
        KINDS["delta"], CODECS["delta"], table.tobytes(), used, dtype=new.dtype.name, shape=new.shape, name=name,
        flags=WHOLE if old is None else 0, base=base_version, ext=ext,
        new=base_version + 1 if new_version is None else new_version,
    )  # fmt: skip
    out[:start] = np.frombuffer(head, np.uint8)
    return out[: start + used]


def delta_room(new: Array) -> int:
    """Bytes of `out` that are enough for any delta of an array like this."""
    head = head_size(new.shape, bytes(EXT_SIZE), -(-new.size // SMALL))
    return head + _native.delta_bound(_kind(new.dtype), new.nbytes, SMALL)


def delta_head(frame: Any) -> Head:
    """What the delta says of itself; FrameError where it is not one."""
    return _opened(frame)[1]


def delta_apply(
    base: Array | None,
    frame: Any,
    out: Array | None = None,
    *,
    base_version: int | None = None,
    base_hash: int | None = None,
    previous: Array | None = None,
    repair: Any = None,
) -> Array:
    """The new version, in `out` where it is given (not `base`: see `delta_commit`) else in a new array.

    Refused with FrameError unless `base` is the version (where `base_version` is given) and has the hash the frame names;
    with ChunkError where a chunk does not give its result; `out` is then undefined, `base` untouched.  `base_hash`:
    its hash where the caller keeps it (0 passes of memory, as trusted as the caller).  `repair`: a frame of
    `delta_repair` with the chunks that were refused.
    """
    frame, head = _opened(frame)
    old, before = _bases(frame, head, base, base_version, base_hash, previous)
    made = np.empty(frame.shape, numpy_dtype(frame.dtype)) if out is None else out
    _fits(frame, made, "out")
    if old is not None and np.may_share_memory(made, base):
        raise ValueError("delta_apply: out is the base; delta_commit applies in place")
    faults = _decode(frame, head, old, before, _bytes(made), repair)
    _verdict(faults)
    return made


def delta_check(base: Array | None, frame: Any, **options: Any) -> tuple[int, ...]:
    """Numbers of the chunks that do not give their result: nothing is written. Options as of `delta_apply`."""
    frame, head = _opened(frame)
    repair = options.pop("repair", None)
    names = {"base_version": None, "base_hash": None, "previous": None} | options
    old, before = _bases(frame, head, base, names["base_version"], names["base_hash"], names["previous"])
    return tuple(np.flatnonzero(_decode(frame, head, old, before, None, repair)).tolist())


def delta_commit(base: Array, frame: Any, **options: Any) -> int:
    """Apply in place, all or nothing: every chunk is decoded and verified before the first is written. The new hash.

    Options as of `delta_apply`.  On FrameError `base` is as it was.
    """
    opened, head = _opened(frame)
    bad = delta_check(base, opened, **options)
    if bad:
        _verdict(_marks(len(opened.chunks), bad))
    before = options.get("previous")
    old, before_bytes = _bytes(base), None if before is None or not head.beta else _bytes(before)
    _verdict(_decode(opened, head, old, before_bytes, old, options.get("repair")))
    return head.result_hash


def delta_repair(new: Array, frame: Any, chunks: Iterable[int], *, keyframe: str = "zstd") -> Array:
    """A frame with `chunks` of the result of `frame` as keyframes and nothing else; `new` is that result.

    Same versions and hashes: the receiver gives it as `repair` beside the frame it could not apply whole.
    """
    opened, head = _opened(frame)
    _fits(opened, new, "new")
    wanted, data, width = set(chunks), _bytes(new), new.dtype.itemsize
    rows = np.zeros(len(opened.chunks), ROW)
    payload = bytearray()
    for at, entry in enumerate(opened.chunks):
        part = data[at * head.chunk * width : (at + 1) * head.chunk * width]
        mode, body = ABSENT, b""
        if at in wanted:
            if _hash(part, at * head.chunk * width) != entry.hash:
                raise ValueError(f"delta_repair: chunk {at} of `new` is not the result of the frame")
            mode, body = _packed(part, width, keyframe, len(part))
        rows[at] = _row(len(payload), body, entry.items, mode, entry.hash)
        payload += body + bytes(-len(body) % 64)
    head_bytes = frame_head(
        opened.kind, opened.codec, rows.tobytes(), len(payload), dtype=opened.dtype, shape=opened.shape,
        name=opened.name, flags=WHOLE, base=opened.base, new=opened.new, ext=bytes(opened.ext),
    )  # fmt: skip
    return np.frombuffer(head_bytes + payload, np.uint8)


def delta_compact(base: Array, frames: Sequence[Any], **options: Any) -> Array:
    """One frame in the place of a chain: from the base of the first to the result of the last; options of `delta_encode`.

    Each frame must name the result and version of the one before; FrameError says which does not.
    """
    opened = [_opened(frame) for frame in frames]
    if not opened:
        raise ValueError("delta_compact: expected one frame or more")
    for at in range(1, len(opened)):
        before, after = opened[at - 1][1], opened[at][1]
        if (before.new_version, before.result_hash) != (after.base_version, after.base_hash):
            raise FrameError(f"delta_compact: frame {at} begins at version {after.base_version}, "
                             f"the one before ends at {before.new_version} or with another hash")  # fmt: skip
    now, older = base, options.pop("previous", None)
    known = opened[0][1].base_hash
    if delta_hash(base) != known:
        raise _wrong_base(known, delta_hash(base))
    for frame, head in opened:
        older, now = now, delta_apply(now, frame, base_hash=head.base_hash, previous=older if head.beta else None)
    first, last = opened[0][1], opened[-1][1]
    return delta_encode(now, base, base_version=first.base_version, new_version=last.new_version, base_hash=known, **options)




def _hash(part: Array, first: int) -> int:
    """Hash of bytes that begin at byte `first` of their array."""
    return _native.hash64(part, first // 8)


def _kind(dtype: np.dtype[Any]) -> int:
    """Number of the element kind in csrc/delta; ValueError where a frame cannot hold it."""
    if dtype.name not in DTYPES or dtype.byteorder == ">":
        raise ValueError(f"delta: dtype {dtype}: expected one of {', '.join(DTYPES[1:])}, little-endian")
    return _KIND.get(dtype.name, (1, 2, 4, 8).index(dtype.itemsize))


def _bytes(data: Array) -> Array:
    """The array as flat uint8, not copied."""
    if not data.flags.c_contiguous or not data.flags.aligned:
        raise ValueError("delta: expected C-contiguous, aligned arrays")
    return data.reshape(-1).view(np.uint8)


def _versions(
    new: Array, base: Array | None, previous: Array | None, bound: float, result: Array | None
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """Checked byte views of new, base, previous, result."""
    for name, other in (("base", base), ("previous", previous), ("result", result)):
        if other is not None and (other.shape != new.shape or other.dtype != new.dtype):
            raise ValueError(f"delta: {name} is {other.dtype}{list(other.shape)}, new {new.dtype}{list(new.shape)}")
    if not 0 <= bound < np.inf:
        raise ValueError(f"delta: bound {bound}: expected 0 or a positive number")
    if bound and new.dtype not in (np.float32, np.float64):
        raise ValueError(f"delta: a bound is for float32 and float64, found {new.dtype}")
    if previous is not None and (new.dtype != np.float32 or base is None):
        raise ValueError("delta: a predictor is for float32 with a base")
    if bound and result is None:
        result = np.empty_like(new)
    if base is None and result is not None:
        result[...] = new
        result = None
    views = [None if one is None else _bytes(one) for one in (base, previous, result)]
    return _bytes(new), views[0], views[1], views[2]


def _chunk(new: Array, base: Array | None) -> int:
    """Elements of a chunk: large ones where a sample says that few elements change, for which headers would weigh."""
    blocks = new.size // 1024
    if base is None or new.size <= SMALL:
        return SMALL
    bits = np.dtype(f"u{new.dtype.itemsize}")
    a, b = (one.reshape(-1).view(bits)[: blocks * 1024].reshape(blocks, 1024)[:, :16] for one in (new, base))
    return LARGE if 16 * np.count_nonzero(a != b) < a.size else SMALL


def _row(offset: int, body: bytes, items: int, mode: int, digest: int) -> tuple[int, ...]:
    crc = _native.crc32c(bytes(-len(body) % 64), _native.crc32c(body))
    return offset, len(body), items, mode, crc, digest


def _packed(part: Array, width: int, how: str, size: int) -> tuple[int, bytes]:
    """A chunk that needs no base: mode and bytes; raw where packing does not save 3 % of `size`."""
    if how != "none":
        body = pack.pack_encode(part, width, codec=how)
        if len(body) < size - size // 32:
            return KEYFRAME, body
    return RAW, part.tobytes()


def _poor(table: Array, width: int) -> Array:
    """Chunks that a delta shrinks by less than a quarter."""
    return 4 * table["length"].astype(np.int64) > 3 * width * table["items"].astype(np.int64)


def _keyframes(payload: Array, table: Array, now: Array, stride: int, width: int, how: str) -> int:
    """Pack poor chunks where that saves 3 %, closing the gaps; after four that it does not, one in eight is tried."""
    used = failed = 0
    poor = _poor(table, width)
    for at, row in enumerate(table):
        start, size = int(row["offset"]), -(-int(row["length"]) // 64) * 64
        if poor[at] and (failed < 4 or at % 8 == 0):
            mode, body = _packed(now[at * stride : (at + 1) * stride], width, how, int(row["length"]))
            failed = 0 if mode == KEYFRAME else failed + 1
            if mode == KEYFRAME:
                table[at] = _row(used, body, int(row["items"]), mode, int(row["hash"]))
                size = -(-len(body) // 64) * 64
                payload[used : used + size] = np.frombuffer(body + bytes(size - len(body)), np.uint8)
                used += size
                continue
        if used != start:
            payload[used : used + size] = payload[start : start + size].copy()
        row["offset"] = used
        used += size
    return used


def _opened(frame: Any) -> tuple[Frame, Head]:
    """The frame and what it says of itself, its layout checked; FrameError where it is no delta."""
    opened = frame if isinstance(frame, Frame) else decode_frame(frame)
    if opened.kind != KINDS["delta"] or opened.codec != CODECS["delta"] or len(opened.ext) != EXT_SIZE:
        raise FrameError(f"delta: expected a delta frame, found kind {opened.kind}, codec {opened.codec}")
    names = Delta.decode(opened.ext)
    bound, beta, chunk, before, zero = PARAMS.unpack_from(opened.ext, 32)
    size = int(np.prod(opened.shape, dtype=object))
    if chunk not in (SMALL, LARGE) or not 0 <= bound < np.inf or zero or len(opened.chunks) != -(-size // chunk):
        raise FrameError(f"delta: layout: {len(opened.chunks)} chunks of {chunk} elements for {size}")
    if sum(entry.hash for entry in opened.chunks) & 0xFFFFFFFFFFFFFFFF != names.result_hash:
        raise FrameError("delta: the result hash is not the sum of its chunks")
    return opened, Head(opened.base, opened.new, names.base_hash, names.result_hash, bound, beta, chunk, before)


def _wrong_base(expected: int, found: int) -> FrameError:
    return FrameError(
        f"delta: wrong base: expected hash {expected:016x}, found {found:016x}",
        fix="apply the deltas in between first, or ask the sender for a keyframe",
    )


def _fits(frame: Frame, data: Array, name: str) -> None:
    if data.shape != frame.shape or data.dtype != numpy_dtype(frame.dtype):
        raise FrameError(f"delta: {name}: expected {frame.dtype}{list(frame.shape)}, found {data.dtype}{list(data.shape)}")


def _bases(
    frame: Frame, head: Head, base: Array | None, version: int | None, known: int | None, previous: Array | None
) -> tuple[Array | None, Array | None]:
    """Byte views of base and previous, where the frame needs them and they are the ones it names."""
    if frame.flags & WHOLE:
        return None, None
    if base is None:
        raise FrameError("delta: it needs its base", fix="ask the sender for a keyframe")
    _fits(frame, base, "base")
    if version is not None and version != head.base_version:
        raise FrameError(
            f"delta: wrong base: expected version {head.base_version}, found {version}",
            fix="apply the deltas in between first, or ask the sender for a keyframe",
        )
    found = delta_hash(base) if known is None else known
    if found != head.base_hash:
        raise _wrong_base(head.base_hash, found)
    if not head.beta:
        return _bytes(base), None
    if previous is None:
        raise FrameError("delta: it needs the version before its base as well")
    _fits(frame, previous, "previous")
    if (found := delta_hash(previous)) != head.before_hash:
        raise _wrong_base(head.before_hash, found)
    return _bytes(base), _bytes(previous)


def _decode(
    frame: Frame, head: Head, old: Array | None, before: Array | None, out: Array | None, repair: Any
) -> Array:
    """Decode all chunks to `out` (to nowhere where it is None); a fault for each, 0 where it gives its result."""
    faults = np.zeros(len(frame.chunks), np.uint8)
    _pass(frame, head, frame, old, before, out, faults)
    if repair is not None and faults.any():
        other, names = _opened(repair)
        if (names.base_hash, names.result_hash, other.shape, other.dtype, names.chunk) != (
            head.base_hash, head.result_hash, frame.shape, frame.dtype, head.chunk,
        ):  # fmt: skip
            raise FrameError("delta: the repair is of another delta")
        given = [entry.mode != ABSENT for entry in other.chunks]
        again = np.where((faults > 0) & given, 0, PASS).astype(np.uint8)
        tried = again == 0
        _pass(other, head, frame, None, None, out, again)
        faults[tried] = again[tried]
    return faults


def _pass(
    frame: Frame, head: Head, wanted: Frame, old: Array | None, before: Array | None, out: Array | None, faults: Array
) -> None:
    """One pass over the chunks of `frame` that `faults` does not mark; hashes are those that `wanted` names."""
    dtype, items = numpy_dtype(frame.dtype), int(np.prod(frame.shape, dtype=object))
    rows = np.array([tuple(entry) for entry in frame.chunks], ROW)
    rows["hash"] = [entry.hash for entry in wanted.chunks]
    target = np.empty(min(items, head.chunk) * dtype.itemsize, np.uint8) if out is None else out
    payload = np.frombuffer(frame.payload, np.uint8)
    _native.delta_decode(_kind(dtype), rows.view(np.uint8), payload, old, before, head.beta, head.bound, head.chunk, 0,
                         target, faults, out is None, items)  # fmt: skip
    stride = head.chunk * dtype.itemsize
    for at in np.flatnonzero(faults == FAULTS.index("keyframe")).tolist():
        size = frame.chunks[at].items * dtype.itemsize
        part = target[:size] if out is None else target[at * stride : at * stride + size]
        faults[at] = _keyframe(frame, at, part, int(rows["hash"][at]), at * stride)


def _keyframe(frame: Frame, at: int, part: Array, digest: int, first: int) -> int:
    """Decode a packed chunk; its fault."""
    entry = frame.chunks[at]
    try:
        pack.pack_decode(frame.payload[entry.offset : entry.offset + entry.length], part)
    except FrameError:
        return FAULTS.index("layout is wrong")
    return 0 if _hash(part, first) == digest else FAULTS.index("result hash is wrong")


def _marks(count: int, bad: Iterable[int]) -> Array:
    marks = np.zeros(count, np.uint8)
    marks[list(bad)] = FAULTS.index("result hash is wrong")
    return marks


def _verdict(faults: Array) -> None:
    """ChunkError where a chunk has a fault."""
    bad = np.flatnonzero(faults).tolist()
    if bad:
        raise ChunkError(
            f"delta: chunk {bad[0]}: {FAULTS[faults[bad[0]]]}; {len(bad)} of {len(faults)} chunks are refused",
            bad,
            fix="ask the sender to repair these chunks, or for a keyframe",
        )
