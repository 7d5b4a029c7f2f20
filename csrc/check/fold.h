#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("sse4.2,avx2,avx512f,avx512bw,avx512vl,vpclmulqdq")

namespace engine::check::fold {

constexpr std::uint64_t power(int n) {  // x^n modulo the polynomial, bit-reversed, as the carry-less product wants it
    std::uint32_t r = 0x80000000u;
    for (; n; --n) r = r >> 1 ^ (r & 1 ? 0x82F63B78u : 0);
    return static_cast<std::uint64_t>(r) << 1;
}

inline constexpr std::size_t stride = 256;
inline constexpr std::uint64_t low = power(8 * stride + 32), high = power(8 * stride - 32);

// Four vectors are moved on by 256 bytes at a time (Gopal et al., Fast CRC Computation for Generic Polynomials, Intel 2009);
// the 256 bytes left are congruent to all before them and go through the crc32 instruction.
inline std::uint32_t crc32c(const std::uint8_t* data, std::size_t size, std::uint32_t seed) {
    if (size < 2 * stride) return crc32c_sse42(data, size, seed);
    const __m512i k = _mm512_set_epi64(static_cast<long long>(high), static_cast<long long>(low), static_cast<long long>(high), static_cast<long long>(low),
                                       static_cast<long long>(high), static_cast<long long>(low), static_cast<long long>(high), static_cast<long long>(low));
    __m512i x[4];
    for (int i = 0; i < 4; ++i) x[i] = _mm512_loadu_si512(data + 64 * i);
    x[0] = _mm512_xor_si512(x[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(~seed))));
    std::size_t at = stride;
    for (; at + stride <= size; at += stride)
        for (int i = 0; i < 4; ++i) {
            const __m512i next = _mm512_loadu_si512(data + at + 64 * i);
            x[i] = _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x[i], k, 0x00), _mm512_clmulepi64_epi128(x[i], k, 0x11), next, 0x96);
        }
    alignas(64) std::uint8_t rest[stride];
    for (int i = 0; i < 4; ++i) _mm512_store_si512(rest + 64 * i, x[i]);
    return crc32c_sse42(data + at, size - at, crc32c_sse42(rest, stride, ~0u));
}

}  // namespace engine::check::fold
#pragma GCC pop_options
