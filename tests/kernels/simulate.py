"""Run under NUMBA_ENABLE_CUDASIM=1: the CUDA kernels on host threads against the native module, byte for byte."""

from __future__ import annotations

import sys

import numpy as np
import simulator  # noqa: F401
from numba import cuda as device

from engine.kernels import _native, cuda
from engine.kernels.plain import quant as plain

np.seterr(over="ignore")
KEY, COUNTER = 0x123456789ABCDEF, 1 << 40


def data(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(n).astype(np.float32)) ** 3


def same(name: str, *pairs) -> None:
    for at, (got, want) in enumerate(pairs):
        got = got.copy_to_host() if hasattr(got, "copy_to_host") else np.asarray(got)
        assert got.tobytes() == np.asarray(want, got.dtype).tobytes(), f"{name}: array {at} differs"


def quantisers(n: int) -> None:
    g = data(n)
    if n > 20:
        g[[3, 17]] = np.nan, -np.inf
    for mode in plain.BITS:
        block = 256
        out, scales, e = np.zeros(plain.payload_size(mode, n), np.uint8), np.zeros(-(-n // block), np.float32), data(n, 1)
        held = [device.to_device(a) for a in (e, out, scales)]
        bad = _native.quant_encode(mode, g, e, block, out, scales, KEY, COUNTER)
        tally = cuda.quant_encode(mode, device.to_device(g), held[0], block, held[1], held[2], KEY, COUNTER)
        same(mode, (held[0], e), (held[1], out), (held[2], scales), (tally, [bad]))
        acc, there = data(n, 2), device.to_device(data(n, 2))
        _native.quant_decode_add(mode, out, scales, block, acc)
        cuda.quant_decode_add(mode, held[1], held[2], block, there)
        same(f"{mode} decode", (there, acc))


def casts(n: int) -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, n, dtype=np.uint64).astype(np.uint32).view(np.float32)
    for mode in plain.FORMATS:
        size, kind = (1, np.uint8) if mode == "fp8" else (2, np.uint16)
        e, out = np.zeros(n, np.float32), np.zeros(n * size, np.uint8)
        held = device.to_device(e), device.to_device(out.view(kind))
        bad = _native.cast_encode(mode, bits, e, out)
        tally = cuda.cast_encode(mode, device.to_device(bits), *held)
        same(mode, (held[0], e), (held[1], out.view(kind)), (tally, [bad]))
        acc, there = data(n, 2), device.to_device(data(n, 2))
        _native.cast_decode_add(mode, out, acc)
        cuda.cast_decode_add(mode, held[1], there)
        same(f"{mode} decode", (there, acc))
    for width in (8, 16, 32):
        e, out = data(n, 1), np.zeros(n * width // 8, np.uint8)
        held = device.to_device(e), device.to_device(out.view(f"i{width // 8}"))
        _native.shared_encode(data(n), e, 2.0, 100, out, width)
        cuda.shared_encode(device.to_device(data(n)), held[0], 2.0, 100, held[1])
        same(f"shared{width}", (held[0], e), (held[1], out.view(f"i{width // 8}")))


def inputs(n: int) -> None:
    wide = (data(n).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    for g in ((wide.view(np.uint32) >> 16).astype(np.uint16), wide.astype(np.float64)):
        e, out, scales = data(n, 1), np.zeros(plain.payload_size("int8", n), np.uint8), np.zeros(-(-n // 256), np.float32)
        held = [device.to_device(a) for a in (e, out, scales)]
        _native.quant_encode("int8", wide, e, 256, out, scales)
        cuda.quant_encode("int8", device.to_device(g), held[0], 256, *held[1:])
        same(f"int8 of {g.dtype}", (held[0], e), (held[1], out), (held[2], scales))


def selection(n: int) -> None:
    e, index, value = np.round(data(n, 1), 1), np.zeros(n + 64, np.uint32), np.zeros(n + 64, np.float32)
    there = [device.to_device(a) for a in (e, index, value)]
    _, count, bad = _native.threshold_encode(data(n), e, 0, 0.4, index, value)
    tally = cuda.threshold_encode(device.to_device(data(n)), there[0], 0.4, *there[1:])
    same("threshold", (there[0], e), (tally, [bad, count]))
    same("entries", (there[1].copy_to_host()[:count], index[:count]), (there[2].copy_to_host()[:count], value[:count]))
    if count:
        value[:count] = np.round(value[:count], 1)  # many ties
        held, k = device.to_device(value), max(1, count // 3)
        edge = _native.topk_keep(index, value, count, k, e)
        tally = cuda.topk_keep(there[1], held, count, k, there[0]).copy_to_host()
        assert tally[:1].view(np.float32)[0] == np.float32(edge)
        same("topk", (there[0], e), (there[1].copy_to_host()[:k], index[:k]), (held.copy_to_host()[:k], value[:k]))
        acc, sum_ = data(n, 2), device.to_device(data(n, 2))
        _native.scatter_add(index[:k].copy(), value[:k].copy(), acc)
        cuda.scatter_add(device.to_device(index[:k].copy()), device.to_device(value[:k].copy()), sum_)
        same("scatter", (sum_, acc))
    drawn, mine = np.zeros(n // 3, np.uint32), device.to_device(np.zeros(n // 3, np.uint32))
    _native.strata(n, KEY, drawn)
    cuda.strata(n, KEY, mine)
    same("strata", (mine, drawn))


if __name__ == "__main__":
    for size in map(int, sys.argv[1:]):
        quantisers(size)
        casts(min(size, 200))
        inputs(size)
        selection(size)
    print("same bytes")
