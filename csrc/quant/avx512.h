// 16 lanes; only what the compiler's vectors cannot say well is written with intrinsics.
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2")
#define LANES avx512
#define W 16
namespace engine::quant::avx512 {
using Int = std::int32_t __attribute__((vector_size(64)));
INLINE unsigned bits(Int q) { return _mm512_movepi32_mask((__m512i)q); }
INLINE void narrow(void* out, Int q) { _mm_storeu_si128(static_cast<__m128i*>(out), _mm512_cvtepi32_epi8((__m512i)q)); }
INLINE Int spread(const std::uint8_t* in, int j) {  // bit l of word j to the top of lane l
    std::uint16_t word;
    __builtin_memcpy(&word, in + 2 * j, 2);
    return (Int)_mm512_maskz_set1_epi32(word, std::int32_t(0x80000000));
}
}  // namespace engine::quant::avx512
#include "quant/base.h"
#undef LANES
#undef W
#pragma GCC pop_options
