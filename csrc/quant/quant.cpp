#include "quant/ops.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors wider than the ABI floor never cross a call: all is inlined
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own AVX-512 header, in _mm512_undefined_epi32
#define INLINE __attribute__((always_inline)) static inline

#define LANES base
#define W 4
namespace engine::quant::base {
using Int = std::int32_t __attribute__((vector_size(16)));
using Float = float __attribute__((vector_size(16)));
INLINE unsigned bits(Int q) {
#if defined(__SSE2__)
    return static_cast<unsigned>(_mm_movemask_ps((__m128)q));
#endif
    unsigned sum = 0;
    for (int j = 0; j < 4; ++j) sum |= static_cast<std::uint32_t>(q[j]) >> 31 << j;
    return sum;
}
INLINE void narrow(void* out, Int q) {
    for (int j = 0; j < 4; ++j) static_cast<std::uint8_t*>(out)[j] = static_cast<std::uint8_t>(q[j]);
}
template <bool positive = false, bool past = false>
INLINE void narrow64(std::uint8_t* out, const Int (&q)[16]) {
#if defined(__SSE2__)
    for (int j = 0; j < 16; j += 4) {
        const __m128i a = _mm_packs_epi32((__m128i)q[j], (__m128i)q[j + 1]), b = _mm_packs_epi32((__m128i)q[j + 2], (__m128i)q[j + 3]);
        const __m128i c = positive ? _mm_packus_epi16(a, b) : _mm_packs_epi16(a, b);
        auto* to = reinterpret_cast<__m128i*>(out + j * 4);
        if (past) _mm_stream_si128(to, c);
        else _mm_storeu_si128(to, c);
    }
#else
    for (int j = 0; j < 16; ++j) narrow(out + j * 4, q[j]);
#endif
}
INLINE Int spread(const std::uint8_t* in, int j) {  // bit l of nibble j to the top of lane l
    const std::uint32_t nibble = in[j / 2] >> j % 2 * 4;
    return Int{std::int32_t(nibble << 31), std::int32_t(nibble >> 1 << 31), std::int32_t(nibble >> 2 << 31), std::int32_t(nibble >> 3 << 31)};
}
INLINE Int round(Float y) {  // nearest even; |y| < 2^31
#if defined(__SSE2__)
    return (Int)_mm_cvtps_epi32((__m128)y);
#elif defined(__aarch64__)
    return (Int)vcvtnq_s32_f32((float32x4_t)y);
#else
    Int q;
    for (int j = 0; j < 4; ++j) q[j] = static_cast<std::int32_t>(__builtin_nearbyintf(y[j]));
    return q;
#endif
}
INLINE Int bytes(const void* in) {
    Int q;
    for (int j = 0; j < 4; ++j) q[j] = static_cast<const std::int8_t*>(in)[j];
    return q;
}
INLINE Int halves(const void* in) {
    std::uint16_t h[4];
    __builtin_memcpy(h, in, 8);
    return Int{h[0], h[1], h[2], h[3]};
}
}  // namespace engine::quant::base
#include "quant/base.h"
#undef LANES
#undef W
#if defined(__x86_64__)
#include "quant/avx2.h"
#include "quant/avx512.h"
#endif

namespace engine::quant {

const Ops& ops(Isa level) {
#if defined(__x86_64__)
    if (level == Isa::avx512) return avx512::table;
    if (level == Isa::avx2) return avx2::table;
#endif
    (void)level;
    return base::table;
}

}  // namespace engine::quant
