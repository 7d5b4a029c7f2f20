# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Small hot array calls over rows: routing of keys, gather and scatter of rows."""
from libc.stdint cimport int32_t, uint32_t, uint64_t


def route(const uint64_t[::1] keys, const int32_t[::1] owner, int32_t[::1] out):
    """Owner of each key through the slot table: slot = top bits of key * golden ratio, `len(owner)` a power of two."""
    cdef Py_ssize_t i
    cdef int shift = 64
    cdef Py_ssize_t slots = owner.shape[0]
    if slots < 2 or slots & (slots - 1):
        raise ValueError(f"route: expected a power of two of slots >= 2, found {slots}")
    if out.shape[0] != keys.shape[0]:
        raise ValueError(f"route: out has {out.shape[0]} places for {keys.shape[0]} keys")
    while slots > 1:
        slots >>= 1
        shift -= 1
    with nogil:
        for i in range(keys.shape[0]):
            out[i] = owner[(keys[i] * <uint64_t>0x9E3779B97F4A7C15) >> shift]
