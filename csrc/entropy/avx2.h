#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,bmi2,popcnt,lzcnt")

namespace engine::entropy::avx2 {

using base::one_emit;
using base::one_run;

struct Shuffles {  // of 8 lanes by mask: chosen ones to the top (push), the next ones to the chosen places (expand)
    alignas(32) u32 push[256][8], expand[256][8];
    constexpr Shuffles() : push{}, expand{} {
        for (int m = 0; m < 256; ++m) {
            int k = 0, at = 8;
            for (int j = 0; j < 8; ++j) expand[m][j] = m >> j & 1 ? static_cast<u32>(k++) : 0;
            for (int j = 7; j >= 0; --j)
                if (m >> j & 1) push[m][--at] = static_cast<u32>(j);
        }
    }
};
inline constexpr Shuffles shuffles{};

struct V {
    static constexpr std::size_t width = 8;
    using R = __m256i;
    using M = __m256i;
    static R set(u32 v) { return _mm256_set1_epi32(static_cast<int>(v)); }
    static R load(const void* p) { return _mm256_loadu_si256(static_cast<const R*>(p)); }
    static R load8(const u8* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
    static void store(void* p, R v) { _mm256_storeu_si256(static_cast<R*>(p), v); }
    static void store8(u8* p, R v) {
        v = _mm256_packus_epi16(_mm256_packus_epi32(v, v), v);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
    }
    static R add(R a, R b) { return _mm256_add_epi32(a, b); }
    static R sub(R a, R b) { return _mm256_sub_epi32(a, b); }
    static R or_(R a, R b) { return _mm256_or_si256(a, b); }
    static R sll(R a, R n) { return _mm256_sllv_epi32(a, n); }
    static R srl(R a, R n) { return _mm256_srlv_epi32(a, n); }
    static R low(R a, R n) { return _mm256_andnot_si256(_mm256_sllv_epi32(set(~0u), n), a); }
    static R join(R lo, R hi, R n) { return or_(srl(lo, n), sll(hi, sub(set(32), n))); }
    static R less_one(R a) { return _mm256_subs_epu16(a, set(1)); }
    // The exponent of the float: clearing what follows the first bit keeps it from rounding up.
    static R width_of(R a) {
        const auto f = _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_andnot_si256(_mm256_srli_epi32(a, 1), a)));
        return _mm256_max_epi32(sub(_mm256_and_si256(_mm256_srli_epi32(f, 23), set(255)), set(126)), set(0));
    }
    static M above(R a, R b) { return neither(_mm256_cmpeq_epi32(_mm256_max_epu32(a, b), b), none()); }
    static M equal(R a, R b) { return _mm256_cmpeq_epi32(a, b); }
    static M either(M a, M b) { return or_(a, b); }
    static M neither(M a, M b) { return _mm256_andnot_si256(or_(a, b), set(~0u)); }
    static M none() { return _mm256_setzero_si256(); }
    static int mask(M m) { return _mm256_movemask_ps(_mm256_castsi256_ps(m)); }
    static bool any(M m) { return mask(m) != 0; }
    static std::size_t number(M m) { return static_cast<std::size_t>(__builtin_popcount(static_cast<unsigned>(mask(m)))); }
    static R pick(M m, R yes, R no) { return _mm256_blendv_epi8(no, yes, m); }
    static R expand(const u8* p, M m) { return _mm256_and_si256(m, _mm256_permutevar8x32_epi32(load(p), load(shuffles.expand[mask(m)]))); }
    // All eight lanes are stored below p, the chosen ones next to it: what lies under them is written again later.
    static u32* push(u32* p, M m, R v) {
        store(p - 8, _mm256_permutevar8x32_epi32(v, load(shuffles.push[mask(m)])));
        return p - number(m);
    }
    static R pull(const u8*& p, const u8* end, M m, R v, bool& bad) {
        if (static_cast<std::size_t>(end - p) < 4 * number(m)) { bad = true; return v; }
        alignas(32) u32 lane[8];
        store(lane, v);
        for (int j = 0; j < 8; ++j)
            if (mask(m) >> j & 1) { lane[j] = load32(p); p += 4; }
        return load(lane);
    }
    struct Codes {
        u32 both[64];
        explicit Codes(const Code& c) {
            for (int s = 0; s < 64; ++s) both[s] = c.length[s] | u32(c.bits[s]) << 8;
        }
        void find(R s, R& size, R& code) const {
            const R v = _mm256_i32gather_epi32(reinterpret_cast<const int*>(both), s, 4);
            size = _mm256_and_si256(v, set(255));
            code = _mm256_srli_epi32(v, 8);
        }
    };
    struct Symbols {
        u32 both[128];
        explicit Symbols(const Decoder& d) {
            for (int k = 0; k < 128; ++k) both[k] = d.symbol[k] | u32(d.length[d.symbol[k]]) << 8;
        }
        void find(R word, R& s, R& size) const {
            const R v = _mm256_i32gather_epi32(reinterpret_cast<const int*>(both), _mm256_and_si256(word, set(127)), 4);
            s = _mm256_and_si256(v, set(255));
            size = _mm256_srli_epi32(v, 8);
        }
    };
};

#include "entropy/coder.h"

}  // namespace engine::entropy::avx2
#pragma GCC pop_options
