// Kernels over vectors of W floats, compiled once for each ISA: avx2.h and avx512.h include this file inside their target
// region after defining LANES (the namespace), W, and `bits`. Vectors of the compiler keep the same IEEE operations on all.
// No #pragma once: it is included three times.
#include "quant/lanes.h"

namespace engine::quant::LANES {

// x = g + e, or e alone where that is not finite; counts the latter.
INLINE F take(const float* g, const float* e, I& bad) {
    const F old = load<F>(e);
    if (!g) return old;
    const F x = load<F>(g) + old;
    const I ok = (as<I>(x) & 0x7fffffff) < 0x7f800000;
    bad -= ~ok;
    return as<F>((as<I>(x) & ok) | (as<I>(old) & ~ok));
}

INLINE F plus(const float* g, const float* e, std::size_t i) {
    return g ? load<F>(g + i) + load<F>(e + i) : load<F>(e + i);
}

INLINE float tree(const F (&lane)[V64]) {  // 64 lanes to one: halves added to halves
    float s[64];
    for (int j = 0; j < V64; ++j) store(s + j * W, lane[j]);
    for (int half = 32; half; half /= 2)
        for (int j = 0; j < half; ++j) s[j] += s[j + half];
    return s[0];
}

INLINE std::size_t total(const I& bad) {
    std::size_t sum = 0;
    for (int j = 0; j < W; ++j) sum += static_cast<std::size_t>(bad[j]);
    return sum;
}

INLINE I larger(I a, I b) { return a > b ? a : b; }

INLINE U mix(U x, std::uint32_t high) {  // two 16-bit draws: the upper half, and the lower half with the upper folded in
    x ^= x >> 16;
    x *= 0x7feb352du;
    x += high;
    x ^= x >> 15;
    return x * 0x846ca68bu;
}

template <int mode>
inline constexpr int width = mode == sign ? 1 : mode == int8 || mode == int8s ? 8 : mode == int4 || mode == int4s ? 4 : 2;

// One block of m elements, a multiple of 64: `out` gets m * width / 8 bytes, e is the residual.
template <int mode>
INLINE float block_encode(const float* g, float* e, std::size_t m, std::size_t real, std::uint8_t* out, Key key, I& bad) {
    constexpr float levels = width<mode> == 8 ? 127 : width<mode> == 4 ? 7 : 1;
    constexpr bool stochastic = mode == int2s || mode == int4s || mode == int8s, l1 = mode == sign || mode == ternary;
    float scale = 0, inverse = 0, edge = 0, top = 0;
    F sum[l1 ? V64 : 1] = {};
    I most{};
    for (std::size_t i = 0; i < m; i += 64) {  // x to e, where the second pass finds it in L1
        F x[V64];
        I over{};
        for (int j = 0; j < V64; ++j) {
            x[j] = plus(g, e, i + j * W);
            over = larger(over, as<I>(x[j]) & 0x7fffffff);
        }
        if (__builtin_expect(bits(0x7f7fffff - over) != 0, 0)) {
            over = I{};
            for (int j = 0; j < V64; ++j) {
                x[j] = take(g ? g + i + j * W : g, e + i + j * W, bad);
                over = larger(over, as<I>(x[j]) & 0x7fffffff);
            }
        }
        most = larger(most, over);
        for (int j = 0; j < V64; ++j) {
            store(e + i + j * W, x[j]);
            if (l1) sum[j] += as<F>(as<I>(x[j]) & 0x7fffffff);
        }
    }
    if constexpr (l1) {
        scale = tree(sum) / static_cast<float>(real);
        if (!(scale <= largest_float)) scale = largest_float;
    } else {
        std::int32_t peak = 0;
        for (int k = 0; k < W; ++k) peak = most[k] > peak ? most[k] : peak;
        top = as<float>(peak);
        scale = top / levels;
        if (top < smallest) scale = 0;
        else inverse = levels / top;
        if (stochastic && inverse > 0) inverse = below(below(inverse));  // |y| <= levels, so no dither rounds past it
        if (scale * levels > largest_float) scale = below(scale);
    }
    if (mode == ternary) {
        edge = scale * .7f;
        F kept[V64] = {};
        I count{};
        for (std::size_t i = 0; i < m; i += 64)
            for (int j = 0; j < V64; ++j) {
                const F a = as<F>(as<I>(load<F>(e + i + j * W)) & 0x7fffffff);
                kept[j] = a > edge ? kept[j] + a : kept[j];
                count = a > edge ? count + 1 : count;
            }
        const std::size_t on = total(count);
        scale = on ? tree(kept) / static_cast<float>(on) : 0;
        if (!(scale <= largest_float)) scale = largest_float;
    }
    const float fine = stochastic ? inverse * 65536 : inverse;
    U slot = static_cast<std::uint32_t>(key.counter / 2) + key.low + iota();
    const std::uint32_t high = key.high + static_cast<std::uint32_t>(key.counter >> 33);
    for (std::size_t i = 0; i < m; i += 64) {
        I q[V64];
        I dither[stochastic ? V64 : 1];
        if constexpr (stochastic)
            for (int j = 0; j < V64 / 2; ++j, slot += W) {
                const U x = mix(slot, high), top = x >> 16;
                dither[j] = as<I>((x ^ top) & 0xffffu);
                dither[j + V64 / 2] = as<I>(top);
            }
        for (int j = 0; j < V64; ++j) {
            const F x = load<F>(e + i + j * W);
            if (mode == sign) {
                q[j] = as<I>(x);
                store(e + i + j * W, x - as<F>((as<I>(x) & std::int32_t(0x80000000)) | as<I>(F{} + scale)));
            } else if (mode == ternary) {
                const I on = as<F>(as<I>(x) & 0x7fffffff) > edge, minus = x < 0.f;
                q[j] = on & (minus | 1);
                store(e + i + j * W, x - as<F>(on & as<I>(__builtin_convertvector(q[j], F) * scale)));
            } else {
                q[j] = round(x * fine);  // stochastic: in 65536ths, so that a dither of 16 bits is added as an integer
                if (stochastic) q[j] = (q[j] + dither[j]) >> 16;
                store(e + i + j * W, x - __builtin_convertvector(q[j], F) * scale);
            }
        }
        pack<width<mode>>(q, out + i / 8 * width<mode>);
    }
    return scale;
}

template <int mode>
std::size_t encode(const float* g, float* e, std::size_t n, std::size_t block, std::uint8_t* out, float* scales, Key key) {
    I bad{};
    std::size_t at = 0, sum = 0;
    for (; at + block <= n; at += block, key.counter += block) {
        *scales++ = block_encode<mode>(g ? g + at : g, e + at, block, block, out + at / 8 * width<mode>, key, bad);
        sum += total(bad);
        bad = I{};
    }
    if (at == n) return sum;
    const std::size_t real = n - at, m = (real + 63) / 64 * 64;
    if (real >= largest || m == 0) __builtin_unreachable();
    alignas(64) float x[largest], y[largest];
    std::memset(x + m - 64, 0, 256);
    std::memset(y + m - 64, 0, 256);
    std::memcpy(y, e + at, real * 4);
    if (g) std::memcpy(x, g + at, real * 4);
    *scales = block_encode<mode>(g ? x : g, y, m, real, out + at / 8 * width<mode>, key, bad);
    std::memcpy(e + at, y, real * 4);
    if (mode == sign && real % 64) {  // -0 + 0 never sets a bit past the end; be sure of it
        std::uint64_t last;
        std::memcpy(&last, out + (at + m) / 8 - 8, 8);
        last &= (std::uint64_t(1) << real % 64) - 1;
        std::memcpy(out + (at + m) / 8 - 8, &last, 8);
    }
    return sum + total(bad);
}

template <int mode>
INLINE void group_decode(const std::uint8_t* in, float scale, float* acc) {
    I q[V64];
    unpack<width<mode>>(in, q);
    for (int j = 0; j < V64; ++j) {
        const F v = mode == sign ? as<F>((q[j] & std::int32_t(0x80000000)) | as<I>(F{} + scale)) : __builtin_convertvector(q[j], F) * scale;
        store(acc + j * W, load<F>(acc + j * W) + v);
    }
}

template <int mode>
void decode(const std::uint8_t* in, const float* scales, std::size_t n, std::size_t block, float* acc) {
    std::size_t at = 0;
    for (; at + block <= n; at += block) {
        const float scale = *scales++;
        for (std::size_t i = at; i < at + block; i += 64) group_decode<mode>(in + i / 8 * width<mode>, scale, acc + i);
    }
    for (; at + 64 <= n; at += 64) group_decode<mode>(in + at / 8 * width<mode>, *scales, acc + at);
    if (at == n) return;
    alignas(64) float x[64] = {};
    std::memcpy(x, acc + at, (n - at) * 4);
    group_decode<mode>(in + at / 8 * width<mode>, *scales, x);
    std::memcpy(acc + at, x, (n - at) * 4);
}

}  // namespace engine::quant::LANES

#include "quant/cast.h"
