"""Run as a program: the loops of a backend against plain on small chunks; the CUDA ones under NUMBA_ENABLE_CUDASIM=1."""

import os
import sys
from functools import partial
from importlib import import_module

import numpy as np

from engine.codec.frame import numpy_dtype
from engine.kernels.plain import delta as plain
from engine.kernels.plain import entropy

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    import simulator  # noqa: F401
    sys.setswitchinterval(1e-4)

loops = import_module(f"engine.kernels.{sys.argv[1]}").LOOPS
sizes = [int(word) for word in sys.argv[2:]]
draw = np.random.default_rng(3)
for n in sizes:
    for dtype in ("float32", "bfloat16", "float64", "int16") if "jit" in sys.argv[1] else ("float32", "float64"):
        base = (draw.standard_normal(n) * 9).astype(numpy_dtype(dtype))
        for share in (0.05, 1):
            moved = (base.astype(np.float64) * (1 + 1e-3 * draw.standard_normal(n)) + (dtype == "int16")).astype(base.dtype)
            now = np.where(draw.random(n) < share, moved, base)
            mode, body = plain.chunk_encode(now, base, loops=loops)
            assert (mode, body) == plain.chunk_encode(now, base), (dtype, n, share)
            assert plain.chunk_decode(mode, body, base, loops=loops).tobytes() == now.tobytes(), (dtype, n, share)
    # The warp: 32 lanes on a block too short for them, rare values and conditions among them.
    values = (draw.integers(0, 2**32, n, np.uint64) >> draw.integers(0, 34, n).astype(np.uint64)).astype(np.uint32)
    cond = draw.integers(100, 104, n).astype(np.uint8)
    for under in (None, cond):
        code = entropy.class_encode(values, under, 32)
        assert code == entropy.class_encode(values, under, 32, partial(loops.emit))
        assert np.array_equal(entropy.class_decode(code, under, n, loops.read)[0], values)
print("same bytes")
