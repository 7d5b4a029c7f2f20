#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,popcnt")

namespace engine::sparse::avx512 {

// Compress to a register, then store it whole: a compressing store to memory is microcoded on Zen 4.
inline Scan threshold(const float* g, float* e, std::size_t start, std::size_t n, float t, std::uint32_t* index, float* value, std::size_t room) {
    const __m512 edge = _mm512_set1_ps(t), inf = _mm512_castsi512_ps(_mm512_set1_epi32(0x7f800000));
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    std::size_t count = 0, bad = 0, i = start;
    for (; i + 16 <= n && count + 64 <= room; i += 16) {
        __m512 x = _mm512_loadu_ps(e + i);
        if (g) {
            const __m512 y = _mm512_add_ps(_mm512_loadu_ps(g + i), x);
            const __mmask16 ok = _mm512_cmp_ps_mask(_mm512_abs_ps(y), inf, _CMP_LT_OQ);
            x = _mm512_mask_mov_ps(x, ok, y);
            if (__builtin_expect(ok != 0xffff, 0)) bad += 16 - static_cast<std::size_t>(__builtin_popcount(ok));
        }
        const __mmask16 on = _mm512_cmp_ps_mask(_mm512_abs_ps(x), edge, _CMP_GE_OQ);
        _mm512_storeu_ps(e + i, _mm512_maskz_mov_ps(static_cast<__mmask16>(~on), x));
        // Always stored, 64 places stay free: at 1 % a branch is mispredicted every seventh time.
        _mm512_storeu_ps(value + count, _mm512_maskz_compress_ps(on, x));
        _mm512_storeu_si512(index + count, _mm512_maskz_compress_epi32(on, _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(i)))));
        count += static_cast<std::size_t>(__builtin_popcount(on));
    }
    if (i + 16 <= n) return {i, count, bad};
    const Scan tail = base::threshold(g, e, i, n, t, index + count, value + count, room - count);
    return {tail.next, count + tail.count, bad + tail.bad};
}

}  // namespace engine::sparse::avx512
#pragma GCC pop_options
