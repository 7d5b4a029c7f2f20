#pragma once
#include <cstring>

#include "check/ops.h"

namespace engine::check::base {

struct Crc {
    std::uint32_t t[8][256];
    constexpr Crc() : t{} {
        for (std::uint32_t n = 0; n < 256; ++n) {
            std::uint32_t c = n;
            for (int k = 0; k < 8; ++k) c = c & 1 ? (c >> 1) ^ 0x82F63B78u : c >> 1;
            t[0][n] = c;
        }
        for (std::uint32_t n = 0; n < 256; ++n)
            for (int s = 1; s < 8; ++s) t[s][n] = (t[s - 1][n] >> 8) ^ t[0][t[s - 1][n] & 255];
    }
};
inline constexpr Crc crc{};

inline std::uint32_t crc32c(const std::uint8_t* data, std::size_t size, std::uint32_t seed) {
    std::uint32_t c = ~seed;
    for (; size >= 8; size -= 8, data += 8) {
        std::uint64_t word;
        std::memcpy(&word, data, 8);
        word ^= c;
        c = crc.t[7][word & 255] ^ crc.t[6][word >> 8 & 255] ^ crc.t[5][word >> 16 & 255] ^ crc.t[4][word >> 24 & 255] ^
            crc.t[3][word >> 32 & 255] ^ crc.t[2][word >> 40 & 255] ^ crc.t[1][word >> 48 & 255] ^ crc.t[0][word >> 56];
    }
    for (; size; --size) c = (c >> 8) ^ crc.t[0][(c ^ *data++) & 255];
    return ~c;
}

// a * b modulo the polynomial, bit-reversed: x^0 is the highest bit.
inline std::uint32_t times(std::uint32_t a, std::uint32_t b) {
    std::uint32_t out = 0;
    for (std::uint32_t bit = 1u << 31; bit; bit >>= 1) {
        if (a & bit) out ^= b;
        b = b & 1 ? (b >> 1) ^ 0x82F63B78u : b >> 1;
    }
    return out;
}

// The sum of bytes with sum `first` and then `size` bytes with sum `second`: first * x^(8 size) + second.
inline std::uint32_t join(std::uint32_t first, std::uint32_t second, std::uint64_t size) {
    std::uint32_t shift = 1u << 31, square = 1u << 23;  // x^0, x^8
    for (; size; size >>= 1) {
        if (size & 1) shift = times(shift, square);
        square = times(square, square);
    }
    return times(first, shift) ^ second;
}

inline constexpr std::uint64_t odd = 0x9E3779B97F4A7C15ull;

// lo * hi + v of the halves of v: (lo + 2^32)(hi + 1) but for a constant, so no change within one half of a word is lost.
// The keys are mixed as well: those of an even sequence would let faults of a pattern cancel.
inline std::uint64_t mix(std::uint64_t v) { return (v & 0xffffffffu) * (v >> 32) + v; }

inline std::uint64_t hash64(const std::uint8_t* data, std::size_t size, std::uint64_t first) {
    std::uint64_t sum = 0, key = (first + 1) * odd, word = 0;
    for (; size >= 8; size -= 8, data += 8, key += odd) {
        std::memcpy(&word, data, 8);
        sum += mix(word ^ mix(key));
    }
    if (!size) return sum;
    word = 0;
    std::memcpy(&word, data, size);
    return sum + mix(word ^ mix(key));
}

}  // namespace engine::check::base
