#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2")

namespace engine::check::avx2 {

inline std::uint64_t hash64(const std::uint8_t* data, std::size_t size, std::uint64_t first) {
    const auto set = [](std::uint64_t v) { return _mm256_set1_epi64x(static_cast<long long>(v)); };
    const auto k = [first](std::uint64_t i) { return static_cast<long long>((first + i + 1) * base::odd); };
    __m256i key = _mm256_set_epi64x(k(3), k(2), k(1), k(0)), sum = _mm256_setzero_si256(), more = sum;
    std::size_t i = 0;
    for (; i + 32 <= size; i += 32) {
        const __m256i mixed = _mm256_add_epi64(key, _mm256_mul_epu32(key, _mm256_srli_epi64(key, 32)));
        const __m256i v = _mm256_xor_si256(mixed, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + i)));
        sum = _mm256_add_epi64(sum, v);
        more = _mm256_add_epi64(more, _mm256_mul_epu32(v, _mm256_srli_epi64(v, 32)));
        key = _mm256_add_epi64(key, set(4 * base::odd));
    }
    alignas(32) std::uint64_t lane[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lane), _mm256_add_epi64(sum, more));
    return lane[0] + lane[1] + lane[2] + lane[3] + base::hash64(data + i, size - i, first + i / 8);
}

}  // namespace engine::check::avx2
#pragma GCC pop_options
