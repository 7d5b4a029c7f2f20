"""What every gradient codec is: `encode(g, state, step) -> frame`, `decode_add(frame, acc)`, and a published bound."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..errors import FrameError
from ..types import Array
from .frame import CODECS, KINDS, Frame, decode_frame, encode_frame, frame_bytes

PARAMS = struct.Struct("<16sIIQQQ")  # codec id, block, count, seed, step, non-finite elements
State = dict[str, Array]


class Codec(Protocol):
    """`state["residual"]` float32 `(n,)` carries what was not sent; encode advances it, decode_add adds to `acc`.

    `unbiased`: E[decode] = x.  `contraction(n)`: least d with |x - C(x)|^2 <= (1 - d) |x|^2, or minus the variance
    bound w of an unbiased codec, E|x - C(x)|^2 <= w |x|^2.  `ratio(n)`: float32 bytes over payload bytes.
    """

    unbiased: bool

    def init(self, n: int) -> State: ...
    def encode(self, g: Array, state: State, step: int) -> bytes: ...
    def decode_add(self, frame: Any, acc: Array) -> None: ...
    def ratio(self, n: int) -> float: ...
    def contraction(self, n: int) -> float: ...


REGISTRY: dict[str, Callable[..., Any]] = {}


def register(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Class decorator: the codec is made by `codec(name, ...)`."""

    def add(made: Callable[..., Any]) -> Any:
        REGISTRY[name] = made
        return made

    return add


def codec(name: str, **options: Any) -> Codec:
    """The codec of that name; ValueError names those there are."""
    if name not in REGISTRY:
        raise ValueError(f"codec {name}: expected one of {', '.join(sorted(REGISTRY))}")
    made: Codec = REGISTRY[name](**options)
    return made


def floats(g: Array) -> Array:
    """`g` as flat float32: a view where it is one; bfloat16 widens exactly, float64 is rounded once."""
    if g.dtype not in (np.float32, np.float64) and g.dtype.name not in ("bfloat16", "float16"):
        raise ValueError(f"codec: expected float32, float64, float16 or bfloat16, found {g.dtype}")
    return np.ascontiguousarray(g, np.float32).reshape(-1)


def residual(state: State, n: int) -> Array:
    e = state["residual"]
    if e.dtype != np.float32 or e.shape != (n,):
        raise ValueError(f"residual: expected float32 ({n},), found {e.dtype} {e.shape}")
    return e


def seal(
    family: str,
    name: str,
    g: Array,
    chunks: list[Any],
    *,
    block: int = 0,
    count: int = 0,
    seed: int = 0,
    step: int = 0,
    bad: int = 0,
) -> bytes:
    """Frame of an Update's codes: parameters in the extension, arrays as chunks."""
    ext = PARAMS.pack(name.encode(), block, count, seed, step, bad)
    return frame_bytes(
        encode_frame(KINDS["update"], CODECS[family], chunks, dtype=g.dtype.name, shape=g.shape, ext=ext)
    )


class Opened:
    """A checked frame: parameters by name and `chunk(i, dtype)`; FrameError where it is another codec's or size."""

    def __init__(self, frame: Any, family: str, name: str, n: int) -> None:
        self.frame = frame if isinstance(frame, Frame) else decode_frame(frame)
        if self.frame.codec != CODECS[family] or len(self.frame.ext) != PARAMS.size:
            raise FrameError(
                f"codec: expected {family}, found {self.frame.codec} with {len(self.frame.ext)} bytes of parameters"
            )
        found, self.block, self.count, self.seed, self.step, self.bad = PARAMS.unpack(self.frame.ext)
        if found.rstrip(b"\0") != name.encode():
            raise FrameError(f"codec: expected {name}, found {found.rstrip(bytes(1))!r}")
        size = int(np.prod(self.frame.shape, dtype=object))
        if size != n:
            raise FrameError(f"codec: expected {n} elements, found {size}")

    def chunk(self, at: int, dtype: Any = np.uint8, count: int = -1) -> Array:
        if at >= len(self.frame.chunks):
            raise FrameError(f"codec: expected chunk {at}, found {len(self.frame.chunks)}")
        data = self.frame.chunk(at)
        if len(data) % np.dtype(dtype).itemsize or (count >= 0 and len(data) != count * np.dtype(dtype).itemsize):
            raise FrameError(f"codec: chunk {at} has {len(data)} bytes, expected {count} of {np.dtype(dtype)}")
        return np.frombuffer(data, dtype)
