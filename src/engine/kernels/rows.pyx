# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Small hot calls over rows: the owner of one key."""
from libc.string cimport memcpy
from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t

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


def turn(unsigned char[::1] block, Py_ssize_t width, const uint32_t[::1] rows, const unsigned char[::1] data, unsigned int parts,
         uint32_t[::1] places, unsigned char[::1] change, int64_t[::1] ends):
    """Rows of `width` bytes of `block` become `data`; what each was xor what it is goes to `change`, grouped by part.

    Row r is row r // parts (`places`) of part r % parts, whose rows end at `ends[part]`.
    """
    cdef Py_ssize_t i, b, at, n = rows.shape[0]
    cdef Py_ssize_t total = block.shape[0] // width if width else 0
    cdef unsigned int part
    cdef unsigned char* old
    cdef unsigned char* to
    cdef const unsigned char* new
    if (not parts or ends.shape[0] != parts or places.shape[0] != n or data.shape[0] != n * width
            or change.shape[0] != data.shape[0]):
        raise ValueError(f"turn: {n} rows of {width} bytes, {data.shape[0]} bytes, {parts} parts")
    with nogil:
        for part in range(parts):
            ends[part] = 0
        for i in range(n):
            if rows[i] >= total:
                with gil:
                    raise IndexError(f"turn: row {rows[i]} of {total}")
            ends[rows[i] % parts] += 1
        at = 0
        for part in range(parts):
            b = ends[part]
            ends[part] = at
            at += b
        for i in range(n):
            part = rows[i] % parts
            at = ends[part]
            ends[part] = at + 1
            places[at] = rows[i] // parts
            old, new, to = &block[rows[i] * <Py_ssize_t>width], &data[i * width], &change[at * width]
            for b in range(width):
                to[b] = old[b] ^ new[b]
            memcpy(old, new, width)


def mix(unsigned char[::1] block, Py_ssize_t width, const uint32_t[::1] rows, const unsigned char[::1] data,
        const unsigned char[::1] products, unsigned char[::1] mark):
    """Rows of `width` bytes of `block` are xored with `products[byte]` of the bytes of `data`, and marked."""
    cdef Py_ssize_t i, b, n = rows.shape[0]
    cdef Py_ssize_t total = block.shape[0] // width if width else 0
    cdef unsigned char* to
    cdef const unsigned char* new
    cdef bint plain = products[1] == 1
    if data.shape[0] != n * width or products.shape[0] != 256 or mark.shape[0] != total:
        raise ValueError(f"mix: {n} rows of {width} bytes, {data.shape[0]} bytes, {mark.shape[0]} marks of {total} rows")
    with nogil:
        for i in range(n):
            if rows[i] >= total:
                with gil:
                    raise IndexError(f"mix: row {rows[i]} of {total}")
            to, new = &block[rows[i] * <Py_ssize_t>width], &data[i * width]
            if plain:
                for b in range(width):
                    to[b] ^= new[b]
            else:
                for b in range(width):
                    to[b] ^= products[new[b]]
            mark[rows[i]] = 1


def lay(unsigned char[:, :] to, const unsigned char[:, :] of):
    """The rows of `of`, bytes side by side, over those of `to`; either may be some columns of wider rows."""
    cdef Py_ssize_t i, n = of.shape[0], width = of.shape[1]
    cdef Py_ssize_t there = to.strides[0], here = of.strides[0]
    cdef unsigned char* a
    cdef const unsigned char* b
    if to.shape[0] != n or to.shape[1] != width or (width > 1 and (to.strides[1] != 1 or of.strides[1] != 1)):
        raise ValueError(f"lay: {n} rows of {width} bytes over {to.shape[0]} of {to.shape[1]}, or bytes apart")
    if not n or not width:
        return
    a, b = &to[0, 0], &of[0, 0]
    with nogil:
        if width == 12 and there == 12 and here >= 16:  # the rows of a linear model: what is too much is written over by the next
            for i in range(n - 1):
                memcpy(a, b, 16)
                a += 12
                b += here
            memcpy(a, b, 12)
        elif width == 12:
            for i in range(n):
                memcpy(a, b, 12)
                a += there
                b += here
        else:
            for i in range(n):
                memcpy(a, b, width)
                a += there
                b += here
