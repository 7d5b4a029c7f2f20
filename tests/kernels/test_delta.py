"""Delta kernels: every instruction set gives the chunks that plain defines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec.delta import ROW
from engine.codec.frame import numpy_dtype
from engine.kernels import _native
from engine.kernels.plain import delta as plain

KIND = {"int8": 0, "uint16": 1, "int32": 2, "uint64": 3, "float16": 4, "bfloat16": 5, "float32": 6, "float64": 7}


def native(now, base, isa, fast=False, previous=None, beta=0.0, chunk=65536):
    """Mode and bytes of each chunk."""
    kind = KIND[now.dtype.name]
    views = [None if one is None else one.view(np.uint8) for one in (now, base, previous)]
    out = np.empty(_native.delta_bound(kind, now.nbytes, chunk), np.uint8)
    rows = np.empty(-(-len(now) // chunk) * 32, np.uint8)
    _native.delta_encode(kind, views[0], views[1], views[2], beta, 0.0, fast, chunk, 0, out, rows, isa=isa)
    return [(int(row["mode"]), out[row["offset"] :][: row["length"]].tobytes()) for row in rows.view(ROW)]


@settings(max_examples=60)
@given(st.sampled_from(sorted(KIND)), st.sampled_from([1, 3, 600, 17_000, 40_000]), st.sampled_from([0, 0.01, 0.3, 0.6, 1]),
       st.sampled_from([1e-6, 1e-3, 1.0]), st.booleans(), st.integers(0, 99))
def test_plain_is_the_definition(dtype, n, share, step, fast, seed):
    draw = np.random.default_rng(seed)
    kind = numpy_dtype(dtype)
    base = (draw.standard_normal(n) * 30).astype(kind)
    with np.errstate(all="ignore"):
        moved = (base.astype(np.float64) * (1 + step * draw.standard_normal(n)) + (kind.kind in "iu")).astype(kind)
    now = np.where(draw.random(n) < share, moved, base)
    assert plain.join(plain.diff(now, base), base).tobytes() == now.tobytes()
    want = plain.chunk_encode(now, base, fast=fast)
    if fast and want[0] & 255 == plain.SPARSE:
        want = None  # index sets are then bit-packed, which plain leaves to the native form
    for isa in _native.isa_runs():
        got = native(now, base, isa, fast)
        assert want is None or got == [want], isa


@pytest.mark.parametrize("chunk", [65536, 1 << 20])
def test_large_chunks_and_the_predictor(chunk):
    draw = np.random.default_rng(2)
    previous = draw.standard_normal(140_000).astype(np.float32)
    base = previous + (1e-4 * draw.standard_normal(140_000)).astype(np.float32)
    now = base + np.float32(0.9) * (base - previous) + (1e-6 * draw.standard_normal(140_000)).astype(np.float32)
    few = base.copy()
    few[::50] += 1
    for new, before in ((now, None), (now, previous), (few, None), (few, base)):
        want = []
        for i in range(0, len(now), chunk):
            part = slice(i, i + chunk)
            want.append(plain.chunk_encode(new[part], base[part], None if before is None else before[part], 0.9))
        for isa in _native.isa_runs():
            assert native(new, base, isa, previous=before, beta=0.9, chunk=chunk) == want


@settings(max_examples=30)
@given(st.sampled_from(sorted(KIND)), st.sampled_from([1, 600, 20_000]), st.sampled_from([0, 0.01, 0.3, 1]), st.booleans(),
       st.integers(0, 99))
def test_plain_reads_what_it_defines(dtype, n, share, fast, seed):
    draw = np.random.default_rng(seed)
    base = (draw.standard_normal(n) * 30).astype(numpy_dtype(dtype))
    now = np.where(draw.random(n) < share, (base.astype(np.float64) * 1.001 + 1).astype(base.dtype), base)
    mode, body = plain.chunk_encode(now, base, fast=fast)
    assert plain.chunk_decode(mode, body, base).tobytes() == now.tobytes()


def backend(name, *sizes, **env):
    line = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "delta_backend.py"), name, *map(str, sizes)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=280, env={**os.environ, **env})
    assert done.stdout == "same bytes\n", done.stderr[-3000:]


def test_numba_gives_the_same_bytes():
    backend("jit_delta", 1, 40, 2000, 17_000)


def test_simulated_cuda_gives_the_same_bytes():
    backend("cuda_delta", 70, NUMBA_ENABLE_CUDASIM="1")


@pytest.mark.long
def test_simulated_cuda_gives_the_same_bytes_over_more():
    backend("cuda_delta", 1, 33, 700, NUMBA_ENABLE_CUDASIM="1")
