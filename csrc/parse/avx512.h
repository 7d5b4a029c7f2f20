// 64 bytes a compare; places come out of one compressing shuffle (to a register: to memory it is slow on Zen 4).
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2")
namespace engine::parse::avx512 {
#include "parse/number.h"

struct Marks {
    __m512i a, b, line = _mm512_set1_epi8('\n'), steps;
    Marks(Byte a, Byte b) : a(_mm512_set1_epi8(static_cast<char>(a))), b(_mm512_set1_epi8(static_cast<char>(b))) {
        alignas(64) Byte all[64];
        for (int j = 0; j < 64; ++j) all[j] = static_cast<Byte>(j);
        steps = _mm512_load_si512(all);
    }
    std::uint16_t* places(const Byte* p, std::size_t from, std::uint16_t* out) const {
        const __m512i x = _mm512_loadu_si512(p);
        const __mmask64 bits = _mm512_cmpeq_epi8_mask(x, a) | _mm512_cmpeq_epi8_mask(x, b) | _mm512_cmpeq_epi8_mask(x, line);
        const __m512i found = _mm512_maskz_compress_epi8(bits, steps), base = _mm512_set1_epi16(static_cast<short>(from));
        _mm512_storeu_si512(out, _mm512_add_epi16(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(found)), base));
        _mm512_storeu_si512(out + 32, _mm512_add_epi16(_mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(found, 1)), base));
        return out + __builtin_popcountll(bits);
    }
};

#include "parse/fast.h"
}  // namespace engine::parse::avx512
#pragma GCC pop_options
