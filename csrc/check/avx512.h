#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,avx512f,avx512bw,avx512vl,avx512dq")

namespace engine::check::avx512 {

inline __m512i mix(__m512i x) {
    const __m512i a = _mm512_set1_epi64(static_cast<long long>(base::first)), b = _mm512_set1_epi64(static_cast<long long>(base::second));
    x = _mm512_mullo_epi64(_mm512_xor_si512(x, _mm512_srli_epi64(x, 30)), a);
    x = _mm512_mullo_epi64(_mm512_xor_si512(x, _mm512_srli_epi64(x, 27)), b);
    return _mm512_xor_si512(x, _mm512_srli_epi64(x, 31));
}

inline __m512i wide(const std::uint32_t* words) { return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words))); }

inline std::uint64_t hash64(const std::uint32_t* words, std::size_t count, std::uint64_t offset) {
    const __m512i lanes = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), odd = _mm512_set1_epi64(static_cast<long long>(base::odd));
    __m512i key = _mm512_mullo_epi64(_mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(offset + 1)), lanes), odd);
    const __m512i step = _mm512_set1_epi64(static_cast<long long>(8 * base::odd)), twice = _mm512_add_epi64(step, step);
    __m512i other = _mm512_add_epi64(key, step), sum = _mm512_setzero_si512(), more = sum;
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        sum = _mm512_add_epi64(sum, mix(_mm512_xor_si512(key, wide(words + i))));
        more = _mm512_add_epi64(more, mix(_mm512_xor_si512(other, wide(words + i + 8))));
        key = _mm512_add_epi64(key, twice);
        other = _mm512_add_epi64(other, twice);
    }
    return static_cast<std::uint64_t>(_mm512_reduce_add_epi64(_mm512_add_epi64(sum, more))) + base::hash64(words + i, count - i, offset + i);
}

}  // namespace engine::check::avx512
#pragma GCC pop_options
