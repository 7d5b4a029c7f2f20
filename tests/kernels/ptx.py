"""Every CUDA kernel compiles for a real device (sm_80), and none of its multiplications is fused with an addition.

Needs libnvvm (`pip install nvidia-cuda-nvcc-cu12`, or a CUDA toolkit), no driver: the compute capability is given.
"""

from __future__ import annotations

from types import SimpleNamespace

from numba import cuda, types
from numba.cuda import dispatcher

from engine.kernels import cuda as dense
from engine.kernels import cuda_sparse as sparse
from engine.kernels import cuda_warp as warp

dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(8, 0))
F, D, U8, U16, U32, I32 = (getattr(types, name)[::1] for name in ("float32", "float64", "uint8", "uint16", "uint32", "int32"))
f, i, u, b = types.float32, types.int64, types.uint64, types.boolean
KERNELS = [
    *((dense.quant_kernel, (i, i, b, g, i, F, i, U8, F, u, u, I32)) for g in (F, D, U16)),
    (dense.quant_sum_kernel, (i, U8, F, i, F)),
    *((dense.cast_kernel, (g, i, F, out, i, i, i, i, I32)) for g in (F, D, U16) for out in (U8, U16)),
    *((dense.widen_kernel, (codes, F, i, i, i)) for codes in (U8, U16)),
    *((dense.shared_kernel, (F, i, F, f, f, f, out, I32)) for out in (types.int8[::1], types.int16[::1], I32)),
    (dense.add_kernel, (F, F)),
    *((sparse.count_kernel, (g, i, F, f, I32, I32)) for g in (F, D, U16)),
    (sparse.offset_kernel, (I32, I32)),
    (sparse.gather_kernel, (F, f, I32, U32, F)),
    (sparse.select_kernel, (F, i, i, I32)),
    (sparse.keep_kernel, (U32, F, i, I32, F)),
    (sparse.scatter_kernel, (U32, F, F)),
    (sparse.strata_kernel, (u, u, U32)),
    (warp.zero_kernel, (I32,)),
]

if __name__ == "__main__":
    for kernel, signature in KERNELS:
        text, _ = cuda.compile_ptx(kernel.py_func, signature, cc=(8, 0))
        assert "fma." not in text and "mad.f" not in text, f"{kernel.py_func.__name__}: a fused multiply-add"
    print(f"{len(KERNELS)} kernels compile")
