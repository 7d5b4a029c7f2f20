// 32 bytes a compare; a number of at most 16 characters in one register.
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
namespace engine::parse::avx2 {
#include "parse/number.h"

struct Marks {
    __m256i a, b, line = _mm256_set1_epi8('\n');
    Marks(Byte a, Byte b) : a(_mm256_set1_epi8(static_cast<char>(a))), b(_mm256_set1_epi8(static_cast<char>(b))) {}
    std::uint32_t half(const Byte* p) const {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        const __m256i hit = _mm256_or_si256(_mm256_or_si256(_mm256_cmpeq_epi8(x, a), _mm256_cmpeq_epi8(x, b)), _mm256_cmpeq_epi8(x, line));
        return static_cast<std::uint32_t>(_mm256_movemask_epi8(hit));
    }
    std::uint16_t* places(const Byte* p, std::size_t from, std::uint16_t* out) const {
        std::uint64_t bits = half(p) | static_cast<std::uint64_t>(half(p + 32)) << 32;
        std::uint16_t* end = out + __builtin_popcountll(bits);
        while (bits) {  // eight at a time: what is written past the end is overwritten
            for (int j = 0; j < 8; ++j, bits = _blsr_u64(bits)) *out++ = static_cast<std::uint16_t>(from + _tzcnt_u64(bits));
        }
        return end;
    }
};

#include "parse/fast.h"
}  // namespace engine::parse::avx2
#pragma GCC pop_options
