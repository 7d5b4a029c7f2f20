#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vbmi,avx512vbmi2,prefer-vector-width=512")

namespace engine::delta::avx512 {

#include "delta/loops.h"

// Compress to a register and store whole: the compressing store is several times slower on Zen 4.
inline std::size_t pick(const u32* z, std::size_t n, u32 at, u32* index, u32* change) {
    const __m512i count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), one = _mm512_set1_epi32(1);
    std::size_t k = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i v = _mm512_loadu_si512(z + i);
        const __mmask16 m = _mm512_test_epi32_mask(v, v);
        if (!m) continue;
        _mm512_storeu_si512(index + k, _mm512_maskz_compress_epi32(m, _mm512_add_epi32(count, _mm512_set1_epi32(static_cast<int>(at + i)))));
        _mm512_storeu_si512(change + k, _mm512_maskz_compress_epi32(m, _mm512_sub_epi32(v, one)));
        k += static_cast<std::size_t>(__builtin_popcount(m));
    }
    return k + base::pick(z + i, n - i, at + static_cast<u32>(i), index + k, change + k);
}

inline void stream(u8* out, const u8* in, std::size_t n) {
    const std::size_t head = std::min(n, (64 - reinterpret_cast<std::uintptr_t>(out) % 64) % 64);
    std::memcpy(out, in, head);
    std::size_t i = head;
    for (; i + 64 <= n; i += 64) _mm512_stream_si512(reinterpret_cast<__m512i*>(out + i), _mm512_loadu_si512(in + i));
    std::memcpy(out + i, in + i, n - i);
}

}  // namespace engine::delta::avx512
#pragma GCC pop_options
