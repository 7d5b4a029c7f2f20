"""Numba on the CPU gives the bytes of the native module, kernel by kernel, and serves where that is absent."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from engine.kernels import _native, jit
from engine.kernels.plain import quant as plain

LENGTHS = [0, 1, 63, 64, 65, 1021, 5001]
KEY, COUNTER = 0x123456789ABCDEF, 1 << 40


def data(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(n).astype(np.float32)) ** 3


def gradient(n: int) -> np.ndarray:
    g = data(n)
    if n > 20:
        g[[3, 17]] = np.nan, -np.inf
    return g


def same(run, *arrays) -> None:
    """`run(backend, copies)` returns and leaves the same in both backends."""
    left, right = [a.copy() for a in arrays], [a.copy() for a in arrays]
    assert run(_native, *left) == run(jit, *right)
    for a, b in zip(left, right, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("mode", list(plain.BITS))
def test_quantisers(mode):
    for n in LENGTHS:
        g, block = gradient(n), 2304 if mode == "sign" else 1024
        out, scales = np.zeros(plain.payload_size(mode, n), np.uint8), np.zeros(-(-n // block), np.float32)
        same(lambda k, e, o, s, g=g, b=block: k.quant_encode(mode, g, e, b, o, s, KEY, COUNTER), data(n, 1), out, scales)
        _native.quant_encode(mode, g, data(n, 1), block, out, scales, KEY)
        same(lambda k, acc, o=out, s=scales, b=block: k.quant_decode_add(mode, o, s, b, acc), data(n, 2))


@pytest.mark.parametrize("mode", list(plain.FORMATS))
def test_casts(mode):
    for n in LENGTHS:
        bits = np.random.default_rng(1).integers(0, 2**32, n, dtype=np.uint64).astype(np.uint32).view(np.float32)
        out = np.zeros(n * (1 if mode == "fp8" else 2), np.uint8)
        same(lambda k, e, o, g=bits: k.cast_encode(mode, g, e, o), np.zeros(n, np.float32), out)
        _native.cast_encode(mode, bits, np.zeros(n, np.float32), out)
        same(lambda k, acc, o=out: k.cast_decode_add(mode, o, acc), data(n))


def test_shared_integers():
    for n in LENGTHS:
        g = gradient(n)
        for bits in (8, 16, 32):
            out = np.zeros(n * bits // 8, np.uint8)
            same(lambda k, e, o, g=g, b=bits: k.shared_encode(g, e, 2.0, 100, o, b), data(n, 1), out)
            codes = np.random.default_rng(0).integers(0, 256, n * bits // 8, dtype=np.uint8)
            same(lambda k, acc, c=codes, b=bits: k.shared_add(c, 0.37, acc, b), data(n, 1))
        same(lambda k, e, g=g: k.shared_peak(g, e), data(n, 1))


def test_selection():
    for n in LENGTHS:
        for room in (n + 128, 200):
            got = {}
            for kernels in (_native, jit):
                e, at, pairs, bad = data(n, 1), 0, [], 0
                while at < n:
                    i, v = np.zeros(room, np.uint32), np.zeros(room, np.float32)
                    at, count, more = kernels.threshold_encode(gradient(n), e, at, 0.5, i, v)
                    pairs += zip(i[:count].tolist(), v[:count].tolist(), strict=True)
                    bad += more
                got[kernels] = pairs, bad, e.tobytes()
            assert got[_native] == got[jit]
        if n:
            values = np.round(data(n), 1)
            same(lambda k, i, v, e, n=n: k.topk_keep(i, v, n, n // 3 + 1, e), np.arange(n, dtype=np.uint32), values, values * 0)
        index = np.zeros(n // 3, np.uint32)
        same(lambda k, i, n=n: k.strata(n, KEY, i), index)
        same(lambda k, acc: k.scatter_add(np.array([0, 0, 2], np.uint32), data(3), acc), data(3, 1))


def test_codecs_run_without_the_native_kernels():
    """A process that is asked for Numba makes the same frames."""
    code = (
        "import numpy as np, hashlib; from engine import codec; from engine.kernels.table import ops; import sys\n"
        "g = (np.random.default_rng(0).standard_normal(3000) ** 3).astype(np.float32); h = hashlib.sha256()\n"
        "for name in ('int8s', 'sign', 'topk', 'randomk', 'topk | int4', 'fp8'):\n"
        "    made = codec.make(name); state = made.init(3000)\n"
        "    for step in range(2):\n"
        "        h.update(made.encode(g, state, step))\n"
        "    h.update(state['residual'].tobytes())\n"
        "print(ops.__name__, h.hexdigest())"
    )
    seen = []
    for kernels in ("jit", ""):
        env = {**os.environ, "ENGINE_KERNELS": kernels}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env=env)
        seen.append(done.stdout.split())
    assert seen[0][0] == "engine.kernels.jit" and seen[1][0] == "engine.kernels._native"
    assert seen[0][1] == seen[1][1]
