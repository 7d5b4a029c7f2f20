// `select` of split.h sixteen keys at a time (AVX-512) or eight (AVX2): the same keys in the same order.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>

#include "learn/split.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,bmi,bmi2,popcnt")
namespace engine::learn::avx512 {

inline std::size_t select(const Rows& rows, std::uint32_t first, std::uint32_t last, std::uint32_t members,
                          std::int64_t* indptr, std::uint32_t* keys, float* values) {
    const __m512i golden = _mm512_set1_epi32(static_cast<int>(0x9E3779B1u)), many = _mm512_set1_epi64(members);
    const __m512i low = _mm512_set1_epi32(static_cast<int>(first)), span = _mm512_set1_epi32(static_cast<int>(last - first));
    std::size_t n = 0;
    indptr[0] = 0;
    for (std::size_t i = 0; i < rows.count; ++i) {
        const auto stop = static_cast<std::size_t>(rows.indptr[i + 1]);
        for (auto at = static_cast<std::size_t>(rows.indptr[i]); at < stop; at += 16) {
            const __mmask16 there = stop - at >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (stop - at)) - 1);
            const __m512i k = _mm512_maskz_loadu_epi32(there, rows.keys + at);
            __m512i m = _mm512_mullo_epi32(_mm512_maskz_srli_epi32(0xFFFF, k, 2), golden);
            m = _mm512_xor_si512(m, _mm512_maskz_srli_epi32(0xFFFF, m, 15));
            const __m512i even = _mm512_maskz_srli_epi64(0xFF, _mm512_maskz_mul_epu32(0xFF, m, many), 32);
            const __m512i odd = _mm512_maskz_mul_epu32(0xFF, _mm512_maskz_srli_epi64(0xFF, m, 32), many);
            const __m512i owner = _mm512_mask_blend_epi32(0xAAAA, even, odd);
            const __mmask16 mine = _mm512_mask_cmplt_epu32_mask(there, _mm512_sub_epi32(owner, low), span);
            _mm512_storeu_si512(keys + n, _mm512_maskz_compress_epi32(mine, k));
            if (values) _mm512_storeu_ps(values + n, _mm512_maskz_compress_ps(mine, _mm512_maskz_loadu_ps(there, rows.values + at)));
            n += static_cast<std::size_t>(__builtin_popcount(mine));
        }
        indptr[i + 1] = static_cast<std::int64_t>(n);
    }
    return n;
}

}  // namespace engine::learn::avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
namespace engine::learn::avx2 {

// Lanes of the bits of `mask` in order, as a permutation; the rest is whatever follows.
inline __m256i gather_of(unsigned mask) {
    const std::uint64_t bytes = _pdep_u64(mask, 0x0101010101010101ull) * 0xFF;
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(_pext_u64(0x0706050403020100ull, bytes))));
}

inline std::size_t select(const Rows& rows, std::uint32_t first, std::uint32_t last, std::uint32_t members,
                          std::int64_t* indptr, std::uint32_t* keys, float* values) {
    const __m256i golden = _mm256_set1_epi32(static_cast<int>(0x9E3779B1u)), many = _mm256_set1_epi64x(members);
    const __m256i low = _mm256_set1_epi32(static_cast<int>(first)), lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i most = _mm256_set1_epi32(static_cast<int>(last - first - 1));
    if (first == last) {
        for (std::size_t i = 0; i <= rows.count; ++i) indptr[i] = 0;
        return 0;
    }
    std::size_t n = 0;
    indptr[0] = 0;
    for (std::size_t i = 0; i < rows.count; ++i) {
        const auto stop = static_cast<std::size_t>(rows.indptr[i + 1]);
        for (auto at = static_cast<std::size_t>(rows.indptr[i]); at < stop; at += 8) {
            const int left = stop - at < 8 ? static_cast<int>(stop - at) : 8;
            const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), lane);
            const __m256i k = _mm256_maskload_epi32(reinterpret_cast<const int*>(rows.keys + at), there);
            __m256i m = _mm256_mullo_epi32(_mm256_srli_epi32(k, 2), golden);
            m = _mm256_xor_si256(m, _mm256_srli_epi32(m, 15));
            const __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(m, many), 32);
            const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(m, 32), many);
            const __m256i owner = _mm256_sub_epi32(_mm256_blend_epi32(even, odd, 0xAA), low);
            const __m256i mine = _mm256_and_si256(there, _mm256_cmpeq_epi32(_mm256_min_epu32(owner, most), owner));
            const auto mask = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(mine)));
            const __m256i order = gather_of(mask);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys + n), _mm256_permutevar8x32_epi32(k, order));
            if (values) {
                const __m256 v = _mm256_maskload_ps(rows.values + at, there);
                _mm256_storeu_ps(values + n, _mm256_permutevar8x32_ps(v, order));
            }
            n += static_cast<std::size_t>(__builtin_popcount(mask));
        }
        indptr[i + 1] = static_cast<std::int64_t>(n);
    }
    return n;
}

}  // namespace engine::learn::avx2
#pragma GCC pop_options
#endif
