#pragma once
#include <algorithm>
#include <cstring>

#include "parity/ops.h"

namespace engine::parity {

constexpr u8 product(unsigned a, unsigned b) {
    unsigned sum = 0;
    for (; b; b >>= 1, a = a << 1 ^ (a & 0x80 ? 0x11D : 0))
        if (b & 1) sum ^= a;
    return static_cast<u8>(sum);
}

// Of each factor: products with the 16 low and the 16 high nibbles, and its 8 x 8 bit matrix as GFNI wants it.
struct Factors {
    alignas(64) u8 low[256][16], high[256][16];
    std::uint64_t bits[256];
    constexpr Factors() : low{}, high{}, bits{} {
        for (unsigned c = 0; c < 256; ++c) {
            for (unsigned x = 0; x < 16; ++x) {
                low[c][x] = product(c, x);
                high[c][x] = product(c, x << 4);
            }
            for (unsigned b = 0; b < 8; ++b)
                for (unsigned i = 0; i < 8; ++i)
                    if (product(c, 1u << b) >> i & 1) bits[c] |= std::uint64_t(1) << (8 * (7 - i) + b);
        }
    }
};
inline constexpr Factors factors{};

inline constexpr std::size_t strip = 4096;  // bytes of every array worked on before the next: they stay in the first cache

namespace base {

inline void sum(u8* out, const u8* data, std::size_t n) {
    for (std::size_t p = 0; p < n; ++p) out[p] ^= data[p];
}

// Bytes [start, stop) of every out.
inline void part(const u8* matrix, std::size_t k, std::size_t m, const u8* const* data, u8* const* out, std::size_t start, std::size_t stop, bool keep) {
    for (std::size_t at = start; at < stop; at += strip) {
        const std::size_t n = std::min(strip, stop - at);
        for (std::size_t j = 0; j < m; ++j) {
            if (!keep) std::memset(out[j] + at, 0, n);
            for (std::size_t i = 0; i < k; ++i) {
                const u8 c = matrix[j * k + i];
                if (c == 1) sum(out[j] + at, data[i] + at, n);
                if (c < 2) continue;
                u8 row[256];
                for (unsigned x = 0; x < 256; ++x) row[x] = static_cast<u8>(factors.low[c][x & 15] ^ factors.high[c][x >> 4]);
                for (std::size_t p = at; p < at + n; ++p) out[j][p] ^= row[data[i][p]];
            }
        }
    }
}

inline void dot(const u8* matrix, std::size_t k, std::size_t m, const u8* const* data, u8* const* out, std::size_t n, bool keep) {
    part(matrix, k, m, data, out, 0, n, keep);
}

}  // namespace base
}  // namespace engine::parity
