#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vbmi,avx512vbmi2")

namespace engine::entropy::avx512 {

using base::one_emit;
using base::one_run;

struct V {
    static constexpr std::size_t width = 16;
    using R = __m512i;
    using M = __mmask16;
    static R set(u32 v) { return _mm512_set1_epi32(static_cast<int>(v)); }
    static R load(const void* p) { return _mm512_loadu_si512(p); }
    static R load8(const u8* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
    static void store(void* p, R v) { _mm512_storeu_si512(p, v); }
    static void store8(u8* p, R v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v)); }
    static R add(R a, R b) { return _mm512_add_epi32(a, b); }
    static R sub(R a, R b) { return _mm512_sub_epi32(a, b); }
    static R or_(R a, R b) { return _mm512_or_si512(a, b); }
    static R sll(R a, R n) { return _mm512_sllv_epi32(a, n); }
    static R srl(R a, R n) { return _mm512_srlv_epi32(a, n); }
    static R low(R a, R n) { return _mm512_andnot_si512(_mm512_sllv_epi32(set(~0u), n), a); }  // the low n bits
    static R join(R lo, R hi, R n) { return _mm512_shrdv_epi32(lo, hi, n); }                   // hi:lo >> n, low half
    static R less_one(R a) { return _mm512_subs_epu16(a, set(1)); }                            // of a small number, not below 0
    static R width_of(R a) { return sub(set(32), _mm512_lzcnt_epi32(a)); }
    static M above(R a, R b) { return _mm512_cmpgt_epu32_mask(a, b); }
    static M equal(R a, R b) { return _mm512_cmpeq_epi32_mask(a, b); }
    static M either(M a, M b) { return static_cast<M>(a | b); }
    static M neither(M a, M b) { return static_cast<M>(~(a | b)); }
    static M none() { return 0; }
    static bool any(M m) { return m != 0; }
    static std::size_t number(M m) { return static_cast<std::size_t>(__builtin_popcount(m)); }
    static R pick(M m, R yes, R no) { return _mm512_mask_mov_epi32(no, m, yes); }
    static R expand(const u8* p, M m) { return _mm512_maskz_expand_epi32(m, load(p)); }
    static u32* push(u32* p, M m, R v) {
        const auto k = number(m);
        _mm512_mask_storeu_epi32(p - k, static_cast<M>((1u << k) - 1), _mm512_maskz_compress_epi32(m, v));
        return p - k;
    }
    static R pull(const u8*& p, const u8* end, M m, R v, bool& bad) {
        if (static_cast<std::size_t>(end - p) < 4 * number(m)) { bad = true; return v; }
        v = _mm512_mask_expandloadu_epi32(v, m, p);
        p += 4 * number(m);
        return v;
    }
    struct Codes {
        R length, bits;
        explicit Codes(const Code& c) : length(load(c.length)), bits(load(c.bits)) {}
        void find(R s, R& size, R& code) const {
            size = _mm512_and_si512(_mm512_permutexvar_epi8(s, length), set(255));
            code = _mm512_and_si512(_mm512_permutexvar_epi8(s, bits), set(255));
        }
    };
    struct Symbols {
        R low, high, length;
        explicit Symbols(const Decoder& d) : low(load(d.symbol)), high(load(d.symbol + 64)), length(load(d.length)) {}
        void find(R word, R& s, R& size) const {
            s = _mm512_maskz_permutex2var_epi8(0x1111111111111111ull, low, word, high);
            size = _mm512_maskz_permutexvar_epi8(0x1111111111111111ull, s, length);
        }
    };
};

#include "entropy/coder.h"

inline void gaps(const u32* index, std::size_t n, u32 before, u32* gap) {
    __m512i last = V::set(before);
    const __m512i one = V::set(1);
    std::size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i v = V::load(index + i);
        V::store(gap + i, V::sub(V::sub(v, _mm512_alignr_epi32(v, last, 15)), one));
        last = v;
    }
    base::gaps(index + i, n - i, i ? index[i - 1] : before, gap + i);
}

inline bool ungaps(u32* index, std::size_t n, u32 before) {
    const __m512i zero = V::set(0), one = V::set(1), end = V::set(15);
    __m512i last = V::set(before);
    __mmask16 ok = 0xffff, skip = before == ~u32(0);
    std::size_t i = 0;
    for (; i + 16 <= n; i += 16, skip = 0) {
        __m512i v = V::add(V::load(index + i), one);
        v = V::add(v, _mm512_alignr_epi32(v, zero, 15));
        v = V::add(v, _mm512_alignr_epi32(v, zero, 14));
        v = V::add(v, _mm512_alignr_epi32(v, zero, 12));
        v = V::add(v, _mm512_alignr_epi32(v, zero, 8));
        v = V::add(v, last);
        ok &= static_cast<__mmask16>(_mm512_cmpgt_epu32_mask(v, _mm512_alignr_epi32(v, last, 15)) | skip);
        V::store(index + i, v);
        last = _mm512_permutexvar_epi32(end, v);
    }
    return (!i || ok == 0xffff) & base::ungaps(index + i, n - i, i ? index[i - 1] : before);
}

}  // namespace engine::entropy::avx512
#pragma GCC pop_options
