// Vectors of W floats and how codes are packed; part of base.h, included once for each ISA (no #pragma once).
#include <cstring>

namespace engine::quant::LANES {

using F = float __attribute__((vector_size(W * 4)));
using I = std::int32_t __attribute__((vector_size(W * 4)));
using U = std::uint32_t __attribute__((vector_size(W * 4)));
using H = std::int16_t __attribute__((vector_size(W * 2)));
static inline constexpr int V64 = 64 / W;
static inline constexpr float largest_float = 3.40282347e38f, smallest = 1e-30f;

template <class T, class S>
INLINE T as(S v) { return __builtin_bit_cast(T, v); }
template <class T>
INLINE T load(const void* p) {
    T v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class T>
INLINE void store(void* p, T v) { std::memcpy(p, &v, sizeof v); }

INLINE float below(float a) { return as<float>(as<std::int32_t>(a) - 1); }

INLINE U iota() {
    U v;
    for (unsigned j = 0; j < W; ++j) v[j] = j;
    return v;
}

// 64 codes to 8 * w bytes. w = 1: sign bits in order. w = 2, 4: code i of 16 in byte i % 16, planes of 16 a shift apart.
template <int w>
INLINE void pack(const I (&q)[V64], std::uint8_t* out) {
    if constexpr (w == 1) {
        for (int j = 0; j < V64; j += 16 / W) {
            std::uint16_t word = 0;
            for (int k = 0; k < 16 / W; ++k) word = static_cast<std::uint16_t>(word | bits(q[j + k]) << k * W);
            std::memcpy(out + j * W / 8, &word, 2);
        }
    } else if constexpr (w == 8) {
        narrow64(out, q);
    } else {
        constexpr int planes = 8 / w, per = 16 / W;
        for (int part = 0; part < w / 2; ++part)
            for (int k = 0; k < per; ++k) {
                I sum{};
                for (int p = 0; p < planes; ++p) sum |= (q[(part * planes + p) * per + k] & ((1 << w) - 1)) << p * w;
                narrow(out + part * 16 + k * W, sum);
            }
    }
}

template <int w>
INLINE void unpack(const std::uint8_t* in, I (&q)[V64]) {
    if constexpr (w == 1) {
        for (int j = 0; j < V64; ++j) q[j] = spread(in, j);
    } else if constexpr (w == 8) {
        for (int j = 0; j < V64; ++j) q[j] = bytes(in + j * W);
    } else {
        constexpr int planes = 8 / w, per = 16 / W;
        for (int part = 0; part < w / 2; ++part)
            for (int k = 0; k < per; ++k) {
                const I sum = bytes(in + part * 16 + k * W);
                for (int p = 0; p < planes; ++p) q[(part * planes + p) * per + k] = sum << (32 - w - p * w) >> (32 - w);
            }
    }
}

}  // namespace engine::quant::LANES
