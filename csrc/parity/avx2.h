#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2")

namespace engine::parity::avx2 {

struct V {  // a product is two look-ups of 16 entries, one a nibble
    static constexpr std::size_t width = 32;
    using R = __m256i;
    static R load(const u8* p) { return _mm256_loadu_si256(reinterpret_cast<const R*>(p)); }
    static void store(u8* p, R v) { _mm256_storeu_si256(reinterpret_cast<R*>(p), v); }
    static R zero() { return _mm256_setzero_si256(); }
    static R sum(R a, R b) { return _mm256_xor_si256(a, b); }
    static R twice(const u8* table) { return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table))); }
    struct X {
        R low, high;
        explicit X(R x) : low(_mm256_and_si256(x, _mm256_set1_epi8(15))), high(_mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15))) {}
    };
    struct Factor {
        R low, high;
        explicit Factor(u8 c) : low(twice(factors.low[c])), high(twice(factors.high[c])) {}
        R times(const X& x) const { return sum(_mm256_shuffle_epi8(low, x.low), _mm256_shuffle_epi8(high, x.high)); }
    };
};

#include "parity/lanes.h"

}  // namespace engine::parity::avx2
#pragma GCC pop_options
