#pragma once
#include <immintrin.h>

#include "route/base.h"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of GCC 12's own headers

namespace engine::route::avx512 {

inline __m512i slots(const std::uint64_t* keys, __m128i shift) {
    const __m512i k = _mm512_loadu_si512(keys);
    const __m512i h = _mm512_mullo_epi64(_mm512_xor_si512(k, _mm512_srli_epi64(k, 32)), _mm512_set1_epi64(static_cast<long long>(0x9E3779B97F4A7C15ull)));
    return _mm512_srl_epi64(h, shift);
}

// A 16-bit entry is fetched with the 16 bits after it (the table ends with a spare entry), its sign spread over the lane.
template <class T>
inline __m256i fetch(const T* owner, __m512i at) {
    const __m256i v = _mm512_mask_i64gather_epi32(_mm256_setzero_si256(), 0xff, at, owner, sizeof(T));
    return sizeof(T) == 4 ? v : _mm256_srai_epi32(_mm256_slli_epi32(v, 16), 16);
}

// Two gathers in flight: each waits for the cache, not for the other.
template <class T>
inline void route(const Map<T>& map, const std::uint64_t* keys, std::size_t n, std::int32_t* owner) {
    const __m128i shift = _mm_cvtsi32_si128(64 - map.bits);
    std::size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i s = slots(keys + i, shift), t = slots(keys + i + 8, shift);
        const __m256i a = fetch(map.owner, s), b = fetch(map.owner, t);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(owner + i), a);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(owner + i + 8), b);
        if (__builtin_expect(_mm256_movepi32_mask(_mm256_or_si256(a, b)), 0)) base::route(map, keys + i, 16, owner + i);
    }
    base::route(map, keys + i, n - i, owner + i);
}

}  // namespace engine::route::avx512
#pragma GCC diagnostic pop
#pragma GCC pop_options
