"""What every gradient codec is: `encode(g, state, step) -> frame`, `decode_add(frame, acc)`, and a published bound."""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import FrameError
from ..types import Array
from .frame import CODECS, CORE, ENTRY, KINDS, Frame, decode_frame, encode_frame, frame_bytes, padded

PARAMS = struct.Struct("<16sIIQQQ")  # name, block, count, seed, step, non-finite elements; what follows is the rest of the name
PACKED = 1  # mode of a chunk that went through codec/pack.py; `items` is its size before that
State = dict[str, Array]


@dataclass(slots=True)
class Parts:
    """What a codec made of a gradient: arrays that become chunks, and the numbers its frame carries."""

    chunks: list[Any]
    block: int = 0
    count: int = 0
    bad: int = 0
    modes: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)


class Codec:
    """One protocol for all: g float32, float64, float16 or bfloat16 of any shape; acc float32; state a dict of arrays.

    `state["residual"]` float32 `(n,)` carries what was not sent: encode sends C(g + residual) and leaves the difference,
    decode_add adds C's value to `acc`.  An element where g + residual is not finite adds nothing; frames count them.

    `unbiased`: E[decode] = x.  `contraction(n)`: least d with |x - C(x)|^2 <= (1 - d) |x|^2, or minus the variance
    bound w of an unbiased codec, E|x - C(x)|^2 <= w |x|^2; 0 = no relative bound.  `ratio(n)`: float32 bytes over
    payload bytes.  `first | second` is a chain: see chain.py.
    """

    family = "quant"
    name = ""
    unbiased = False
    seed = 0

    def init(self, n: int) -> State:
        return {"residual": np.zeros(n, np.float32)}

    def layout(self, n: int) -> list[int]:
        """Bytes of each chunk where they are known beforehand; none where they are not."""
        return []

    def parts(self, g: Array, state: State, step: int, room: list[Array]) -> Parts:
        """Chunks of C(g + residual), in `room` where the layout is known; advances `state`. `g` is flat."""
        raise NotImplementedError

    def add(self, opened: Opened, acc: Array) -> None:
        """acc float32 `(n,)` += the decoded values."""
        raise NotImplementedError

    def encode(self, g: Array, state: State, step: int) -> Any:
        """The frame of C(g + residual), bytes or a view of bytes; every field of `state` is advanced in place."""
        layout = self.layout(g.size)
        if not layout:
            parts = self.parts(g.reshape(-1), state, step, [])
            return frame_bytes(seal(self, g, parts, step))
        head = padded(CORE.size + PARAMS.size + len(self.name.encode()[16:]) + 8 * g.ndim + ENTRY.size * len(layout))
        frame = np.empty(head + sum(map(padded, layout)), np.uint8)
        room, at = [], head
        for size in layout:  # codes are written where the frame has them: the payload is never copied
            room.append(frame[at : at + size])
            frame[at + size : at + padded(size)] = 0
            at += padded(size)
        frame[:head] = np.frombuffer(seal(self, g, self.parts(g.reshape(-1), state, step, room), step)[0], np.uint8)
        return frame.data.toreadonly()

    def decode_add(self, frame: Any, acc: Array) -> None:
        """acc float32 += decoded values; FrameError, and acc as it was, on a frame of another codec, block or size."""
        if acc.dtype != np.float32 or not acc.flags.c_contiguous or not acc.flags.writeable:
            raise ValueError(f"decode_add: expected a writeable contiguous float32 array, found {acc.dtype} {acc.shape}")
        self.add(Opened(frame, self.family, self.name, acc.size), acc.reshape(-1))

    def ratio(self, n: int) -> float:
        raise NotImplementedError

    def contraction(self, n: int) -> float:
        return 0.0

    def __or__(self, other: Codec) -> Codec:
        from .chain import join

        return join(self, other)


REGISTRY: dict[str, Callable[..., Any]] = {}


def register(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Class decorator: the codec is made by `codec(name, ...)`."""

    def add(made: Callable[..., Any]) -> Any:
        REGISTRY[name] = made
        return made

    return add


def codec(name: str, **options: Any) -> Codec:
    """The codec of that name, or a chain by its text: `"topk:density=0.01 | int8 | pack"`; ValueError names those there are.

    Options given apart go to the first stage.
    """
    from . import chain  # noqa: F401  (it loads and registers all)

    made: Codec | None = None
    for stage in name.split("|"):
        word, _, text = stage.strip().partition(":")
        if word not in REGISTRY:
            raise ValueError(f"codec {word!r}: expected one of {', '.join(sorted(REGISTRY))}")
        given = {} if made else dict(options)
        for pair in filter(None, text.split(",")):
            key, _, value = pair.partition("=")
            try:
                given[key.strip()] = ast.literal_eval(value.strip())
            except (ValueError, SyntaxError):
                given[key.strip()] = value.strip()
        one: Codec = REGISTRY[word](**given)
        made = one if made is None else made | one
    assert made is not None
    return made


make = codec  # its name as `engine.codec.make`


def names() -> list[str]:
    """Every codec there is, sorted."""
    from . import chain  # noqa: F401  (it loads and registers all)

    return sorted(REGISTRY)


def source(g: Array) -> Array:
    """`g` as the kernels take it, flat: float32 and float64 as they are, bfloat16 as its bits, float16 widened."""
    if g.dtype not in (np.float32, np.float64) and g.dtype.name not in ("bfloat16", "float16"):
        raise ValueError(f"codec: expected float32, float64, float16 or bfloat16, found {g.dtype}")
    flat = np.ascontiguousarray(g).reshape(-1)
    if g.dtype.name == "bfloat16":
        return flat.view(np.uint16)
    return flat.astype(np.float32) if g.dtype == np.float16 else flat


def floats(g: Array) -> Array:
    """`g` as flat float32: a view where it is one; bfloat16 widens exactly, float64 is rounded once."""
    source(g[:0] if g.ndim else g)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(g, np.float32).reshape(-1)


def residual(state: State, n: int) -> Array:
    e = state["residual"]
    if e.dtype != np.float32 or e.shape != (n,):
        raise ValueError(f"residual: expected float32 ({n},), found {e.dtype} {e.shape}")
    return e


def seal(codec: Codec, g: Array, parts: Parts, step: int) -> list[memoryview]:
    """Buffers of the frame of an Update's codes: parameters in the extension, arrays as chunks."""
    name = codec.name.encode()
    ext = PARAMS.pack(name, parts.block, parts.count, codec.seed, step, parts.bad) + name[16:]
    head: dict[str, Any] = {"dtype": g.dtype.name, "shape": g.shape, "ext": ext, "modes": parts.modes, "counts": parts.items}
    return encode_frame(KINDS["update"], CODECS[codec.family], parts.chunks, **head)


class Opened:
    """A checked frame: parameters by name and `chunk(i, dtype)`; FrameError where it is another codec's or size."""

    def __init__(self, frame: Any, family: str, name: str, n: int) -> None:
        self.frame = frame if isinstance(frame, Frame) else decode_frame(frame)
        if self.frame.codec != CODECS[family] or len(self.frame.ext) < PARAMS.size:
            raise FrameError(
                f"codec: expected {family}, found {self.frame.codec} with {len(self.frame.ext)} bytes of parameters"
            )
        head, self.block, self.count, self.seed, self.step, self.bad = PARAMS.unpack_from(self.frame.ext)
        found = head.rstrip(b"\0") + bytes(self.frame.ext[PARAMS.size :])
        if found != name.encode():
            raise FrameError(f"codec: expected {name}, found {found[:60]!r}")
        size = int(np.prod(self.frame.shape, dtype=object))
        if size != n:
            raise FrameError(f"codec: expected {n} elements, found {size}")

    def chunk(self, at: int, dtype: Any = np.uint8, count: int = -1) -> Array:
        """Chunk `at` as an array, `count` items where it is given; packed chunks are unpacked to no more than that."""
        if at >= len(self.frame.chunks):
            raise FrameError(f"codec: expected chunk {at}, found {len(self.frame.chunks)}")
        data, item = self.frame.chunk(at), np.dtype(dtype).itemsize
        entry = self.frame.chunks[at]
        if entry.mode == PACKED:
            from .pack import pack_decode, pack_size

            if pack_size(data) != entry.items:
                raise FrameError(f"codec: chunk {at} unpacks to {pack_size(data)} bytes, expected {entry.items}")
            size = entry.items
        else:
            size = len(data)
        if size % item or (count >= 0 and size != count * item):
            raise FrameError(f"codec: chunk {at} has {size} bytes, expected {count} of {np.dtype(dtype)}")
        if entry.mode == PACKED:
            return pack_decode(data).view(dtype)
        if entry.mode:
            raise FrameError(f"codec: chunk {at} has mode {entry.mode}, expected 0 or {PACKED}")
        return np.frombuffer(data, dtype)
