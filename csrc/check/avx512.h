#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,avx512f,avx512bw,avx512vl,avx512dq")

namespace engine::check::avx512 {

inline __m512i mix(__m512i v) { return _mm512_add_epi64(v, _mm512_mul_epu32(v, _mm512_srli_epi64(v, 32))); }

inline std::uint64_t hash64(const std::uint8_t* data, std::size_t size, std::uint64_t first) {
    const auto set = [](std::uint64_t v) { return _mm512_set1_epi64(static_cast<long long>(v)); };
    const __m512i step = set(16 * base::odd);
    __m512i key = _mm512_mullo_epi64(_mm512_add_epi64(set(first + 1), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0)), set(base::odd));
    __m512i other = _mm512_add_epi64(key, set(8 * base::odd)), sum[4] = {};
    std::size_t i = 0;
    for (; i + 128 <= size; i += 128) {
        const __m512i v = _mm512_xor_si512(mix(key), _mm512_loadu_si512(data + i)), w = _mm512_xor_si512(mix(other), _mm512_loadu_si512(data + i + 64));
        sum[0] = _mm512_add_epi64(sum[0], v);
        sum[1] = _mm512_add_epi64(sum[1], _mm512_mul_epu32(v, _mm512_srli_epi64(v, 32)));
        sum[2] = _mm512_add_epi64(sum[2], w);
        sum[3] = _mm512_add_epi64(sum[3], _mm512_mul_epu32(w, _mm512_srli_epi64(w, 32)));
        key = _mm512_add_epi64(key, step);
        other = _mm512_add_epi64(other, step);
    }
    const __m512i all = _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3]));
    alignas(64) std::uint64_t lane[8];
    _mm512_store_si512(lane, all);
    std::uint64_t total = base::hash64(data + i, size - i, first + i / 8);
    for (const std::uint64_t part : lane) total += part;
    return total;
}

}  // namespace engine::check::avx512
#pragma GCC pop_options
