# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Small hot calls over rows: the owner of one key."""
from libc.string cimport memcpy
from libc.stdint cimport int16_t, int32_t, uint32_t, uint64_t

ctypedef fused Rank:
    int16_t
    int32_t


cdef int find(uint64_t key, const Rank[::1] owner, const uint32_t[:, ::1] forks, int bits) noexcept nogil:
    """As slots() of kernels/plain/route.py, of one key."""
    cdef uint64_t h = (key ^ key >> 32) * <uint64_t>0x9E3779B97F4A7C15
    cdef Py_ssize_t slot = h >> (64 - bits)
    cdef int v = owner[slot]
    h <<= bits
    while v < 0:
        slot = forks[~v, 0] + (h >> (64 - forks[~v, 1]))
        h <<= forks[~v, 1]
        v = owner[slot]
    return v


cdef class Router:
    """`Router(owner, forks, bits)(key)`: the rank of one uint64 key, without making an array."""
    cdef const int16_t[::1] narrow
    cdef const int32_t[::1] wide
    cdef const uint32_t[:, ::1] forks
    cdef int bits
    cdef bint short

    def __init__(self, owner, const uint32_t[:, ::1] forks, int bits):
        self.short = owner.dtype.itemsize == 2
        if bits < 1 or owner.shape[0] < 1 << bits:
            raise ValueError(f"Router: expected 2^{bits} slots, found {owner.shape[0]}")
        if self.short:
            self.narrow = owner
        else:
            self.wide = owner
        self.forks, self.bits = forks, bits

    def __call__(self, uint64_t key):
        return find(key, self.narrow, self.forks, self.bits) if self.short else find(key, self.wide, self.forks, self.bits)


def scatter(unsigned char[::1] block, Py_ssize_t width, const uint32_t[::1] rows, const unsigned char[::1] data,
            unsigned char[::1] dirty, Py_ssize_t start, int shift):
    """Rows of `width` bytes into `block` at the given row numbers; `dirty[(start + place) >> shift]` = 1 for each chunk met."""
    cdef Py_ssize_t i, at, chunk
    cdef Py_ssize_t total = block.shape[0] // width if width else 0
    if data.shape[0] != rows.shape[0] * width or (start + block.shape[0] - 1) >> shift >= dirty.shape[0]:
        raise ValueError(f"scatter: {rows.shape[0]} rows of {width} bytes, {data.shape[0]} bytes, {dirty.shape[0]} chunks")
    with nogil:
        for i in range(rows.shape[0]):
            if rows[i] >= total:
                with gil:
                    raise IndexError(f"scatter: row {rows[i]} of {total}")
            at = rows[i] * width
            if width == 12:
                memcpy(&block[at], &data[i * 12], 12)
            else:
                memcpy(&block[at], &data[i * width], width)
            for chunk in range((start + at) >> shift, ((start + at + width - 1) >> shift) + 1):
                dirty[chunk] = 1
