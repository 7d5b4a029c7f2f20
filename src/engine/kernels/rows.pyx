# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Small hot calls over rows: the owner of one key."""
from libc.string cimport memcpy
from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void* at, int write, int locality) noexcept nogil

cdef enum:
    AHEAD = 12  # rows fetched in advance: the next ones lie anywhere


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
            if i + AHEAD < rows.shape[0]:
                prefetch(&block[0] + rows[i + AHEAD] * width, 1, 3)
            if width == 12:
                memcpy(&block[at], &data[i * 12], 12)
            else:
                memcpy(&block[at], &data[i * width], width)
            for chunk in range((start + at) >> shift, ((start + at + width - 1) >> shift) + 1):
                dirty[chunk] = 1


def gather(const unsigned char[::1] block, Py_ssize_t stride, Py_ssize_t width, const uint32_t[::1] rows,
           unsigned char[::1] out):
    """The first `width` bytes of rows `stride` bytes apart, one after another."""
    cdef Py_ssize_t i, n = rows.shape[0]
    cdef Py_ssize_t total = (block.shape[0] - width) // stride + 1 if stride > 0 and block.shape[0] >= width else 0
    if out.shape[0] != n * width or width < 0:
        raise ValueError(f"gather: {n} rows of {width} bytes into {out.shape[0]} bytes")
    with nogil:
        for i in range(n):
            if rows[i] >= total:
                with gil:
                    raise IndexError(f"gather: row {rows[i]} of {total}")
            if i + AHEAD < n:
                prefetch(&block[0] + rows[i + AHEAD] * stride, 0, 3)
            if width == 12:
                memcpy(&out[i * 12], &block[rows[i] * stride], 12)
            else:
                memcpy(&out[i * width], &block[rows[i] * stride], width)


cdef inline void merge(unsigned char* to, const unsigned char* a, const unsigned char* b, Py_ssize_t width) noexcept nogil:
    """to = a ^ b, eight bytes at a time."""
    cdef Py_ssize_t at = 0
    cdef uint64_t x, y
    while at + 8 <= width:
        memcpy(&x, a + at, 8)
        memcpy(&y, b + at, 8)
        x ^= y
        memcpy(to + at, &x, 8)
        at += 8
    while at < width:
        to[at] = a[at] ^ b[at]
        at += 1


def turn(unsigned char[::1] block, Py_ssize_t width, const uint32_t[::1] rows, const unsigned char[::1] data, unsigned int parts,
         uint32_t[::1] places, unsigned char[::1] change, int64_t[::1] ends):
    """Rows of `width` bytes of `block` become `data`; what each was xor what it is goes to `change`, grouped by part.

    Row r is row r // parts (`places`) of part r % parts, whose rows end at `ends[part]`.
    """
    cdef Py_ssize_t i, b, at, n = rows.shape[0]
    cdef Py_ssize_t total = block.shape[0] // width if width else 0
    cdef uint32_t part, whole
    cdef unsigned char* old
    cdef unsigned char* to
    cdef const unsigned char* new
    # A product and a shift for a division: exact below 2^31 (T. Granlund, P. Montgomery, Division by Invariant Integers, 1994).
    cdef unsigned int shift = 32
    cdef uint64_t magic
    while parts >> (shift - 31):
        shift += 1
    magic = ((<uint64_t>1 << shift) // parts + 1) if parts else 0
    if total > 1 << 31:
        raise ValueError(f"turn: {total} rows, at most 2^31 can be turned")
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
            ends[rows[i] - <uint32_t>(rows[i] * magic >> shift) * parts] += 1
        at = 0
        for part in range(parts):
            b = ends[part]
            ends[part] = at
            at += b
        for i in range(n):
            if i + AHEAD < n:
                prefetch(&block[0] + rows[i + AHEAD] * width, 1, 3)
            whole = rows[i] * magic >> shift
            part = rows[i] - whole * parts
            at = ends[part]
            ends[part] = at + 1
            places[at] = whole
            old, new, to = &block[rows[i] * width], &data[i * width], &change[at * width]
            if width == 12:
                merge(to, old, new, 12)
                memcpy(old, new, 12)
            else:
                merge(to, old, new, width)
                memcpy(old, new, width)


def mix(unsigned char[::1] block, Py_ssize_t width, const uint32_t[::1] rows, const unsigned char[::1] data,
        unsigned char[::1] mark):
    """Rows of `width` bytes of `block` are xored with those of `data`, and marked."""
    cdef Py_ssize_t i, n = rows.shape[0]
    cdef Py_ssize_t total = block.shape[0] // width if width else 0
    cdef unsigned char* to
    cdef const unsigned char* new
    if data.shape[0] != n * width or mark.shape[0] != total:
        raise ValueError(f"mix: {n} rows of {width} bytes, {data.shape[0]} bytes, {mark.shape[0]} marks of {total} rows")
    with nogil:
        for i in range(n):
            if rows[i] >= total:
                with gil:
                    raise IndexError(f"mix: row {rows[i]} of {total}")
            if i + AHEAD < n:
                prefetch(&block[0] + rows[i + AHEAD] * width, 1, 3)
            to, new = &block[rows[i] * width], &data[i * width]
            if width == 12:
                merge(to, to, new, 12)
            else:
                merge(to, to, new, width)
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
