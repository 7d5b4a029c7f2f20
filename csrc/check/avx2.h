#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2")

namespace engine::check::avx2 {

inline __m256i product(__m256i a, std::uint64_t factor) {  // low 64 bits of each; AVX2 has no such instruction
    const __m256i f = _mm256_set1_epi64x(static_cast<long long>(factor)), g = _mm256_set1_epi64x(static_cast<long long>(factor >> 32));
    const __m256i cross = _mm256_add_epi64(_mm256_mul_epu32(a, g), _mm256_mul_epu32(_mm256_srli_epi64(a, 32), f));
    return _mm256_add_epi64(_mm256_mul_epu32(a, f), _mm256_slli_epi64(cross, 32));
}

inline std::uint64_t hash64(const std::uint32_t* words, std::size_t count, std::uint64_t offset) {
    const std::uint64_t start = (offset + 1) * base::odd;
    __m256i key = _mm256_set_epi64x(static_cast<long long>(start + 3 * base::odd), static_cast<long long>(start + 2 * base::odd),
                                    static_cast<long long>(start + base::odd), static_cast<long long>(start));
    const __m256i step = _mm256_set1_epi64x(static_cast<long long>(4 * base::odd));
    __m256i sum = _mm256_setzero_si256();
    std::size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        __m256i x = _mm256_xor_si256(key, _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words + i))));
        x = product(_mm256_xor_si256(x, _mm256_srli_epi64(x, 30)), base::first);
        x = product(_mm256_xor_si256(x, _mm256_srli_epi64(x, 27)), base::second);
        sum = _mm256_add_epi64(sum, _mm256_xor_si256(x, _mm256_srli_epi64(x, 31)));
        key = _mm256_add_epi64(key, step);
    }
    alignas(32) std::uint64_t lane[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lane), sum);
    return lane[0] + lane[1] + lane[2] + lane[3] + base::hash64(words + i, count - i, offset + i);
}

}  // namespace engine::check::avx2
#pragma GCC pop_options
