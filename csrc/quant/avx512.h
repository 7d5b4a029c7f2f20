// 16 lanes; only what the compiler's vectors cannot say well is written with intrinsics.
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2")
#define LANES avx512
#define W 16
namespace engine::quant::avx512 {
using Int = std::int32_t __attribute__((vector_size(64)));
using Float = float __attribute__((vector_size(64)));
INLINE unsigned bits(Int q) { return _mm512_movepi32_mask((__m512i)q); }
INLINE void narrow(void* out, Int q) { _mm_storeu_si128(static_cast<__m128i*>(out), _mm512_cvtepi32_epi8((__m512i)q)); }
template <bool positive = false, bool past = false>
INLINE void narrow64(std::uint8_t* out, const Int (&q)[4]) {  // |q| < 128, or 0..255 where `positive`; `past` the cache
    const __m512i a = _mm512_packs_epi32((__m512i)q[0], (__m512i)q[1]), b = _mm512_packs_epi32((__m512i)q[2], (__m512i)q[3]);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i c = _mm512_permutexvar_epi32(order, positive ? _mm512_packus_epi16(a, b) : _mm512_packs_epi16(a, b));
    if (past) _mm512_stream_si512(reinterpret_cast<__m512i*>(out), c);
    else _mm512_storeu_si512(out, c);
}
INLINE Int spread(const std::uint8_t* in, int j) {  // bit l of word j to the top of lane l
    std::uint16_t word;
    __builtin_memcpy(&word, in + 2 * j, 2);
    return (Int)_mm512_maskz_set1_epi32(word, std::int32_t(0x80000000));
}
INLINE Int round(Float y) { return (Int)_mm512_cvtps_epi32((__m512)y); }
INLINE Int bytes(const void* in) { return (Int)_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(in))); }
INLINE Int halves(const void* in) { return (Int)_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(in))); }
}  // namespace engine::quant::avx512
#include "quant/base.h"
#undef LANES
#undef W
#pragma GCC pop_options
