"""Arrays of other libraries as NumPy arrays: buffers, `__array_interface__`, DLPack, and CUDA arrays copied to the host."""
from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.types import Array

DLPACK_CPU = 1, 3, 10, 11, 13  # cpu, pinned host memory (CUDA, ROCm), CUDA managed memory
FIX = "pass an array of NumPy, a buffer, an object with __dlpack__ or with __cuda_array_interface__"


def host(data: Any) -> Array:
    """`data` as an array in main memory: a view wherever that is possible, a copy of what lies on a device.

    DataError where it is no array, or its device cannot be read here.
    """
    if isinstance(data, np.ndarray):
        return data
    if hasattr(data, "__cuda_array_interface__"):
        return from_cuda(data.__cuda_array_interface__)
    if hasattr(data, "__dlpack__") and not hasattr(data, "__array__"):
        kind = int(data.__dlpack_device__()[0])
        if kind not in DLPACK_CPU:
            raise DataError(f"array: expected memory of the host or of a CUDA array, found DLPack device {kind}",
                            fix="copy it to the host first")
        return np.from_dlpack(data)
    try:
        found = np.asarray(data)
    except Exception as error:
        raise DataError(f"array: {type(data).__name__} cannot be read ({error})", fix=FIX) from None
    if found.dtype.kind not in "biuf" and found.dtype.name not in ("bfloat16", "float16"):
        raise DataError(f"array: expected numbers, found {type(data).__name__} of {found.dtype}", fix=FIX)
    return found


def at_address(address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any],
               *, device: int = 0) -> Array:
    """The array that lies at `address`: a view (device 0), or a copy from CUDA device `device` - 1. Strides in bytes."""
    if not all(shape):
        return np.empty(shape, dtype)
    low = sum(min(0, (n - 1) * step) for n, step in zip(shape, strides, strict=True))
    high = sum(max(0, (n - 1) * step) for n, step in zip(shape, strides, strict=True)) + dtype.itemsize
    if device:
        span = np.empty(high - low, np.uint8)
        copy_from_cuda(span, address + low, device - 1)
        return np.ndarray(shape, dtype, span.data, -low, strides)
    span_of = (ctypes.c_char * (high - low)).from_address(address + low)
    return np.ndarray(shape, dtype, memoryview(span_of), -low, strides)


def c_strides(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Strides in bytes of a C-contiguous array of items of `size` bytes."""
    found = []
    for n in reversed(shape):
        found.append(size)
        size *= n
    return tuple(reversed(found))


def from_cuda(interface: dict[str, Any]) -> Array:
    """The array of a CUDA array interface (versions 2 and 3), copied to the host."""
    dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
    strides = interface.get("strides") or c_strides(shape, dtype.itemsize)
    return at_address(int(interface["data"][0]), shape, tuple(strides), dtype, device=1)


@cache
def cuda() -> Any:
    """The CUDA driver, initialised; DataError where this machine has none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DataError(f"array: it lies on a CUDA device, but the driver cannot be loaded ({error})",
                        fix="copy it to the host first, or run where libcuda.so.1 is") from None
    _must(driver, driver.cuInit(0), "cuInit")
    return driver


def copy_from_cuda(out: Array, address: int, device: int) -> None:
    """Fills `out` (bytes) from device memory, in the device's primary context, and waits for it."""
    driver = cuda()
    handle, context, before = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    _must(driver, driver.cuDeviceGet(ctypes.byref(handle), device), f"device {device}")
    _must(driver, driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), "context")
    try:
        _must(driver, driver.cuCtxPushCurrent_v2(context), "context")
        try:
            _must(driver, driver.cuMemcpyDtoH_v2(out.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(address),
                                                 ctypes.c_size_t(out.nbytes)), f"copy of {out.nbytes} bytes from {address:#x}")
        finally:
            driver.cuCtxPopCurrent_v2(ctypes.byref(before))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(handle)


def _must(driver: Any, status: int, what: str) -> None:
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        raise DataError(f"array: CUDA {what}: {(text.value or b'error').decode()} ({status})", fix="copy it to the host first")
