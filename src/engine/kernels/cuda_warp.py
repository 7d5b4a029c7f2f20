"""What CUDA kernels are written in: two warp operations, floating point that rounds each step, bits, and arguments.

Numba's simulator (NUMBA_ENABLE_CUDASIM=1: one thread of the host a CUDA thread, so take n <= 2048) lacks warp operations:
`ballot` and `shuffle` are the only two used, and have a form in shared memory for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, float32, int32
from numba import cuda as numba_cuda

cuda: Any = numba_cuda  # its own annotations describe the simulator and the device at once
SIMULATED = bool(vars(config)["ENABLE_CUDASIM"])
LANES = 64  # threads of a block: one for each lane of the definition
ALL = 0xFFFFFFFF

if SIMULATED:

    @cuda.jit(device=True)
    def ballot(on: Any) -> Any:
        """Bit l of the result: `on` of lane l of this warp. All threads of the block call it."""
        seen = cuda.shared.array(1024, int32)
        seen[cuda.threadIdx.x] = 1 if on else 0
        cuda.syncthreads()
        first, mask = cuda.threadIdx.x // 32 * 32, 0
        for lane in range(32):
            mask |= int(seen[first + lane]) << lane
        cuda.syncthreads()
        return mask

    @cuda.jit(device=True)
    def shuffle(value: Any, down: int) -> Any:
        """`value` of the lane `down` places up in this warp, float32; the own one past its end."""
        seen = cuda.shared.array(1024, float32)
        seen[cuda.threadIdx.x] = value
        cuda.syncthreads()
        lane = cuda.threadIdx.x % 32
        found = seen[cuda.threadIdx.x + (down if lane + down < 32 else 0)]
        cuda.syncthreads()
        return found

    @cuda.jit(device=True)
    def ones(mask: Any) -> int:
        return int(mask).bit_count()

    @cuda.jit(device=True)
    def mul(a: Any, b: Any) -> Any:
        return np.float32(np.float32(a) * np.float32(b))

    @cuda.jit(device=True)
    def plus(a: Any, b: Any) -> Any:
        return np.float32(np.float32(a) + np.float32(b))

    @cuda.jit(device=True)
    def over(a: Any, b: Any) -> Any:
        return np.float32(np.float32(a) / np.float32(b))

    @cuda.jit(device=True)
    def nearest(a: Any) -> Any:
        return int(np.rint(a))

    @cuda.jit(device=True)
    def word_of(a: Any) -> Any:
        return int(np.float32(a).view(np.int32))

    @cuda.jit(device=True)
    def float_of(a: Any) -> Any:
        return np.int32(a).view(np.float32)

else:
    from numba.cuda import libdevice

    @cuda.jit(device=True)
    def ballot(on: Any) -> Any:
        return cuda.ballot_sync(ALL, on) & ALL

    @cuda.jit(device=True)
    def shuffle(value: Any, down: int) -> Any:
        return cuda.shfl_down_sync(ALL, value, down)

    @cuda.jit(device=True)
    def ones(mask: Any) -> int:
        return cuda.popc(np.uint32(mask))

    @cuda.jit(device=True)
    def mul(a: Any, b: Any) -> Any:
        return libdevice.fmul_rn(np.float32(a), np.float32(b))

    @cuda.jit(device=True)
    def plus(a: Any, b: Any) -> Any:
        return libdevice.fadd_rn(np.float32(a), np.float32(b))

    @cuda.jit(device=True)
    def over(a: Any, b: Any) -> Any:
        return libdevice.fdiv_rn(np.float32(a), np.float32(b))

    @cuda.jit(device=True)
    def nearest(a: Any) -> Any:
        return libdevice.float2int_rn(np.float32(a))

    @cuda.jit(device=True)
    def word_of(a: Any) -> Any:
        return libdevice.float_as_int(np.float32(a))

    @cuda.jit(device=True)
    def float_of(a: Any) -> Any:
        return libdevice.int_as_float(np.int32(a))


@cuda.jit(device=True)
def less(a: Any, b: Any) -> Any:
    """The smaller; Numba's own CUDA target compiles no `min`."""
    return a if a < b else b


@cuda.jit(device=True)
def more(a: Any, b: Any) -> Any:
    return a if a > b else b


@cuda.jit(device=True)
def take(g: Any, e: Any, i: int, form: int) -> Any:
    """1 where g + e of element i is not finite; else e becomes it. `form` of g: 0 none, 1 float, 2 bits of bfloat16."""
    if form == 0:
        return 0
    bits = np.int64(g[i]) << 16 if form == 2 else 0
    x = plus(float_of(bits if bits < 1 << 31 else bits - (1 << 32)) if form == 2 else g[i], e[i])
    if word_of(x) & 0x7FFFFFFF >= 0x7F800000:
        return 1
    e[i] = x
    return 0


Device = Any  # an array with __cuda_array_interface__


def on_device(array: Device) -> Any:
    """The array as Numba sees it, without a copy."""
    return array if cuda.cudadrv.devicearray.is_cuda_ndarray(array) else cuda.as_cuda_array(array)


def views(g: Device | None, e: Device) -> tuple[Any, int, Any]:
    """(g, its form, e) on the device; without g, e stands in for it and is not read."""
    e = on_device(e)
    if g is None:
        return e, 0, e
    g = on_device(g)
    if g.shape != e.shape or g.dtype not in (np.float32, np.float64, np.uint16):
        raise ValueError(f"cuda: expected g of {e.shape} float32, float64 or uint16, found {g.shape} {g.dtype}")
    return g, 2 if g.dtype == np.uint16 else 1, e


def made(tally: Device | None, size: int = 1) -> Any:
    """The device array of counts: the caller's, or a new one; zeroed."""
    tally = cuda.device_array(size, np.int32) if tally is None else on_device(tally)
    if size:
        zero_kernel[1, LANES](tally)
    return tally


@cuda.jit
def zero_kernel(tally: Any) -> None:
    for i in range(cuda.grid(1), len(tally), cuda.gridsize(1)):
        tally[i] = 0


def grid(n: int, threads: int = 256) -> tuple[int, int]:
    threads = LANES if SIMULATED else threads
    return max(1, -(-n // threads)), threads
