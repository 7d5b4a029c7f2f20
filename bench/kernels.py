"""Integrity and erasure kernels on one thread: bytes a second beside `e += g` (memory), zlib, XXH3 and zfec."""
from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np

from bench.peers import peer
from bench.registry import Setting, case, versus
from bench.row import Row
from engine.codec.erasure import erasure_encode, erasure_update
from engine.kernels import _native

SIZES = {"cache": 1 << 18, "memory": 1 << 26}


def sides(setting: Setting, name: str, ours: Callable[[], object], size: int, other: str, theirs: Callable[[], object],
          bars: dict[str, str]) -> Iterator[Row]:
    yield versus(setting, name, other, ours, theirs, work=size / 1e9, unit="GB/s", bars=bars)
    with peer("arrays", operation="xxh3", size=size) as xxh3:
        yield versus(setting, name, "xxh3-64", ours, xxh3, work=size / 1e9, unit="GB/s")


@case("kernels", "crc32c")
def crc32c(setting: Setting) -> Iterator[Row]:
    """CRC-32C of a payload, in L2 and from memory."""
    for place, size in SIZES.items():
        data = np.random.default_rng(1).bytes(size)
        bars = {"value": ">= 15"} if place == "cache" else {}
        yield from sides(setting, f"crc32c.{place}", lambda data=data: _native.crc32c(data), size,
                         "zlib.crc32", lambda data=data: zlib.crc32(data), bars)


@case("kernels", "hash64")
def hash64(setting: Setting) -> Iterator[Row]:
    """The positional additive hash of 64-bit words; memory beside it is what `e += g` reads and writes."""
    for place, size in SIZES.items():
        words = np.random.default_rng(1).integers(0, 1 << 32, size // 4, np.uint32)
        e, g = np.zeros(size // 12, np.float32), np.ones(size // 12, np.float32)
        yield from sides(setting, f"hash64.{place}", lambda words=words: _native.hash64(words), size,
                         "e += g, same bytes", lambda e=e, g=g: np.add(e, g, out=e), {})


@case("kernels", "rs4+2")
def rs(setting: Setting) -> Iterator[Row]:
    """Reed-Solomon parity of 4 + 2 blocks of 16 MiB (bytes of data a second), and the parity of a change of one block."""
    size = 1 << 24
    data = [np.random.default_rng(at).integers(0, 256, size, np.uint8) for at in range(4)]
    parity = erasure_encode(data, 2)
    with peer("arrays", operation="zfec_encode", size=size, data=4, parity=2) as zfec:
        yield versus(setting, "rs4+2.encode", "zfec", lambda: erasure_encode(data, 2, out=parity), zfec,
                     work=4 * size / 1e9, unit="GB/s", bars={"value": ">= 4"})
    yield versus(setting, "rs4+2.update", "rs4+2.encode", lambda: erasure_update(parity, 4, 1, data[0]),
                 lambda: erasure_encode(data, 2, out=parity), work=size / 1e9, unit="GB/s")
