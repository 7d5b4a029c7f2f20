"""CUDA kernels beside `e += g` on the same device: time by events, arrays that never leave it."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import yardstick
from bench.registry import Setting
from bench.row import Row, row
from bench.timing import Sample, paired

LARGE = 1 << 26
CASES = {"sign": 2304, "int8": 1024, "int4": 1024, "int8s": 1024}


def rows(setting: Setting) -> Iterator[Row]:
    """Encode and decode_add of each, as a share of the bandwidth of `e += g`; the bytes are held to the native ones."""
    from numba import cuda as numba

    if not numba.is_available():
        for mode in CASES:
            yield row(f"cuda.ef.{mode}", None, "s", "e += g", note="unverified: no CUDA device here")
        return
    from engine.kernels import _native, cuda
    from engine.kernels.plain.quant import payload_size

    def timed(call: Callable[[], Any]) -> Callable[[], Sample]:
        def run() -> Sample:
            start, end = numba.event(), numba.event()
            start.record()
            call()
            end.record()
            end.synchronize()
            seconds = numba.event_elapsed_time(start, end) / 1e3
            return Sample(seconds, seconds)
        return run

    host = yardstick.heavy(LARGE)
    g, e, twin, acc, tally = (numba.to_device(a) for a in (host, host * 0, host * 0, host * 0, np.zeros(1, np.int32)))
    for mode, block in CASES.items():
        out, scales = np.zeros(payload_size(mode, LARGE), np.uint8), np.zeros(-(-LARGE // block), np.float32)
        codes, sizes = numba.to_device(out), numba.to_device(scales)
        e.copy_to_device(host * 0)
        cuda.quant_encode(mode, g, e, block, codes, sizes, 1, tally=tally)
        _native.quant_encode(mode, host, host * 0, block, out, scales, 1)
        same = codes.copy_to_host().tobytes() == out.tobytes() and sizes.copy_to_host().tobytes() == scales.tobytes()
        pair = paired(timed(lambda m=mode, b=block, c=codes, s=sizes: cuda.quant_encode(m, g, e, b, c, s, 1, tally=tally)),
                      timed(lambda: cuda.add(g, twin)), setting.rounds, setting.seconds)
        yield row(f"cuda.ef.{mode}", pair.ours.median(), "s", "e += g", pair.theirs.median(), pair.ratio(), pair.spread(),
                  {"ratio": "<= 1.43", "same": ">= 1"}, same=int(same))
        pair = paired(timed(lambda m=mode, b=block, c=codes, s=sizes: cuda.quant_decode_add(m, c, s, b, acc)),
                      timed(lambda: cuda.add(g, twin)), setting.rounds, setting.seconds)
        yield row(f"cuda.decode_add.{mode}", pair.ours.median(), "s", "e += g", pair.theirs.median(), pair.ratio(), pair.spread())
