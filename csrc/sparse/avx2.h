#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,popcnt")

namespace engine::sparse::avx2 {

struct Table {
    std::uint32_t lane[256][8];
    constexpr Table() : lane{} {
        for (int m = 0; m < 256; ++m)
            for (int j = 0, k = 0; j < 8; ++j)
                if (m >> j & 1) lane[m][k++] = static_cast<std::uint32_t>(j);
    }
};
inline constexpr Table table{};

inline Scan threshold(const float* g, float* e, std::size_t start, std::size_t n, float t, std::uint32_t* index, float* value, std::size_t room) {
    const __m256 edge = _mm256_set1_ps(t), abs = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const __m256 inf = _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000));
    std::size_t count = 0, bad = 0, i = start;
    for (; i + 8 <= n && count + 64 <= room; i += 8) {
        __m256 x = _mm256_loadu_ps(e + i);
        if (g) {
            const __m256 y = _mm256_add_ps(_mm256_loadu_ps(g + i), x);
            const __m256 ok = _mm256_cmp_ps(_mm256_and_ps(y, abs), inf, _CMP_LT_OQ);
            x = _mm256_blendv_ps(x, y, ok);
            bad += 8 - static_cast<std::size_t>(__builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(ok))));
        }
        const __m256 on = _mm256_cmp_ps(_mm256_and_ps(x, abs), edge, _CMP_GE_OQ);
        _mm256_storeu_ps(e + i, _mm256_andnot_ps(on, x));
        const auto mask = static_cast<unsigned>(_mm256_movemask_ps(on));
        if (mask) {
            const __m256i lane = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table.lane[mask]));
            _mm256_storeu_ps(value + count, _mm256_permutevar8x32_ps(x, lane));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(index + count), _mm256_add_epi32(lane, _mm256_set1_epi32(static_cast<int>(i))));
            count += static_cast<std::size_t>(__builtin_popcount(mask));
        }
    }
    if (i + 8 <= n) return {i, count, bad};
    const Scan tail = base::threshold(g, e, i, n, t, index + count, value + count, room - count);
    return {tail.next, count + tail.count, bad + tail.bad};
}

}  // namespace engine::sparse::avx2
#pragma GCC pop_options
