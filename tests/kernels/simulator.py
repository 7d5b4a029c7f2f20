"""Mends Numba's CUDA simulator for kernels whose device functions are in another module; import it before any kernel runs.

The simulator looks a shared array up and makes it in two steps, so two threads may each get their own: here in one. It puts
its own `cuda` into a module while a device function of it runs, and the first thread that leaves takes it away from those
still inside: here the last one does.
"""
import sys
import threading
from contextlib import contextmanager

import numpy as np
from numba import cuda
from numba.core import types
from numba.cuda.simulator import kernel
from numba.cuda.simulator.kernelapi import FakeCUDAShared
from numba.np import numpy_support

lock = threading.Lock()
inside: dict[int, tuple[int, dict]] = {}


def array(self, shape, dtype):
    frame = sys._getframe(1)
    kind = numpy_support.as_dtype(dtype) if isinstance(dtype, types.Type) else dtype
    with lock:
        return self._allocations.setdefault((frame.f_code.co_filename, frame.f_lineno), np.empty(shape, kind))


@contextmanager
def swapped(function, fake):
    names = function.__globals__
    with lock:
        count, taken = inside.get(id(names), (0, {}))
        if not count:
            taken = {name: value for name, value in names.items() if value is cuda}
            names.update(dict.fromkeys(taken, fake))
        inside[id(names)] = count + 1, taken
    try:
        yield
    finally:
        with lock:
            count, taken = inside[id(names)]
            inside[id(names)] = count - 1, taken
            if count == 1:
                names.update(taken)


FakeCUDAShared.array = array
kernel.swapped_cuda_module = swapped
