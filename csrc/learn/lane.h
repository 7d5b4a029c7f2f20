// Four float lanes, and elementary functions from + - * / and sqrt only: the same bits on every machine.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define INLINE __attribute__((always_inline)) inline

namespace engine::learn {

typedef float F4 __attribute__((vector_size(16)));
typedef std::int32_t I4 __attribute__((vector_size(16)));

INLINE F4 set(float v) { return F4{v, v, v, v}; }
INLINE F4 load(const float* p) { F4 v; std::memcpy(&v, p, 16); return v; }
INLINE void store(float* p, F4 v) { std::memcpy(p, &v, 16); }
INLINE F4 root(F4 v) {
#if defined(__SSE2__)
    return (F4)_mm_sqrt_ps((__m128)v);
#else
    return F4{std::sqrt(v[0]), std::sqrt(v[1]), std::sqrt(v[2]), std::sqrt(v[3])};
#endif
}
INLINE F4 magnitude(F4 v) { return (F4)((I4)v & 0x7FFFFFFF); }
INLINE F4 sign_of(F4 magnitude, F4 v) { return (F4)((I4)magnitude | ((I4)v & INT32_MIN)); }
INLINE float total(F4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
INLINE bool any(I4 v) {
#if defined(__SSE2__)
    return _mm_movemask_epi8((__m128i)v) != 0;
#else
    return (v[0] | v[1] | v[2] | v[3]) != 0;
#endif
}
INLINE void transpose(F4& a, F4& b, F4& c, F4& d) {
    const F4 p = __builtin_shuffle(a, b, I4{0, 4, 1, 5}), q = __builtin_shuffle(c, d, I4{0, 4, 1, 5});
    const F4 r = __builtin_shuffle(a, b, I4{2, 6, 3, 7}), s = __builtin_shuffle(c, d, I4{2, 6, 3, 7});
    a = __builtin_shuffle(p, q, I4{0, 1, 4, 5});
    b = __builtin_shuffle(p, q, I4{2, 3, 6, 7});
    c = __builtin_shuffle(r, s, I4{0, 1, 4, 5});
    d = __builtin_shuffle(r, s, I4{2, 3, 6, 7});
}

// exp to about 1e-7 relative; the argument is held in [-87, 88]. Polynomial of degree 6, Estrin order.
INLINE float exp_lane(float x) {
    x = x < -87.f ? -87.f : x > 88.f ? 88.f : x;
    const auto k = static_cast<std::int32_t>(x * 1.44269504f + (x < 0 ? -.5f : .5f));
    const float f = static_cast<float>(k), r = (x - f * .693359375f) + f * 2.12194440e-4f, q = r * r;
    const float p = (1.f + r) + q * ((.5f + r * .166666667f) + q * ((.0416666667f + r * .00833333333f) + q * .00138888889f));
    const std::int32_t bits = (k + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return p * scale;
}

INLINE float sigmoid_lane(float m) { return 1.f / (1.f + exp_lane(-m)); }

// t to the power -p for t >= 1: log by the atanh series, exp by its own series; about 1e-14 relative.
inline double power_lane(double t, double p) {
    if (p == 0) return 1;
    if (p == .5) return 1 / std::sqrt(t);
    std::uint64_t bits;
    std::memcpy(&bits, &t, 8);
    double e = static_cast<double>(static_cast<std::int64_t>(bits >> 52) - 1023);
    bits = (bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
    double m;
    std::memcpy(&m, &bits, 8);
    if (m > 1.4142135623730951) m *= .5, e += 1;
    const double s = (m - 1) / (m + 1), q = s * s;
    double series = 0;
    for (int i = 21; i > 0; i -= 2) series = series * q + 1.0 / i;
    const double x = -p * (e * .6931471805599453 + 2 * s * series);
    const auto k = static_cast<std::int64_t>(x * 1.4426950408889634 - .5);
    const double r = x - static_cast<double>(k) * .6931471805599453;
    double value = 1;
    for (int i = 16; i > 0; --i) value = 1 + value * r / i;
    if (k < -1022) return 0;
    bits = static_cast<std::uint64_t>(k + 1023) << 52;
    std::memcpy(&m, &bits, 8);
    return value * m;
}

}  // namespace engine::learn
