#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,avx512f,avx512bw,avx512vl,gfni")

namespace engine::parity::gfni {

struct V {  // a product is one instruction: the affine map, since the multiply of GFNI is fixed to another polynomial
    static constexpr std::size_t width = 64;
    using R = __m512i;
    using X = R;
    static R load(const u8* p) { return _mm512_loadu_si512(p); }
    static void store(u8* p, R v) { _mm512_storeu_si512(p, v); }
    static R zero() { return _mm512_setzero_si512(); }
    static R sum(R a, R b) { return _mm512_xor_si512(a, b); }
    struct Factor {
        R bits;
        explicit Factor(u8 c) : bits(_mm512_set1_epi64(static_cast<long long>(factors.bits[c]))) {}
        R times(X x) const { return _mm512_gf2p8affine_epi64_epi8(x, bits, 0); }
    };
};

#include "parity/lanes.h"

}  // namespace engine::parity::gfni
#pragma GCC pop_options
