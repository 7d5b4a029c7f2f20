// 8 lanes; only what the compiler's vectors cannot say well is written with intrinsics.
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2")
#define LANES avx2
#define W 8
namespace engine::quant::avx2 {
using Int = std::int32_t __attribute__((vector_size(32)));
using Float = float __attribute__((vector_size(32)));
INLINE unsigned bits(Int q) { return static_cast<unsigned>(_mm256_movemask_ps((__m256)q)); }
INLINE void narrow(void* out, Int q) {  // low bytes of 8 words
    const __m256i low = _mm256_shuffle_epi8((__m256i)q, _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1));
    const __m128i eight = _mm_or_si128(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    _mm_storel_epi64(static_cast<__m128i*>(out), eight);
}
template <bool positive = false, bool past = false>
INLINE void narrow64(std::uint8_t* out, const Int (&q)[8]) {  // |q| < 128, or 0..255 where `positive`; `past` the cache
    for (int j = 0; j < 8; j += 4) {
        const __m256i a = _mm256_packs_epi32((__m256i)q[j], (__m256i)q[j + 1]), b = _mm256_packs_epi32((__m256i)q[j + 2], (__m256i)q[j + 3]);
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        const __m256i c = _mm256_permutevar8x32_epi32(positive ? _mm256_packus_epi16(a, b) : _mm256_packs_epi16(a, b), order);
        auto* to = reinterpret_cast<__m256i*>(out + j * 8);
        if (past) _mm256_stream_si256(to, c);
        else _mm256_storeu_si256(to, c);
    }
}
INLINE Int spread(const std::uint8_t* in, int j) {  // bit l of byte j to the top of lane l
    const __m256i shift = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    return (Int)_mm256_sllv_epi32(_mm256_set1_epi32(in[j]), shift);
}
INLINE Int round(Float y) { return (Int)_mm256_cvtps_epi32((__m256)y); }
INLINE Int bytes(const void* in) { return (Int)_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(in))); }
INLINE Int halves(const void* in) { return (Int)_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(in))); }
}  // namespace engine::quant::avx2
#include "quant/base.h"
#undef LANES
#undef W
#pragma GCC pop_options
