// One row as keys and values: taken in place, scaled, or expanded by pairs into the scratch.
#pragma once
#include <cmath>

#include "learn/lane.h"
#include "learn/ops.h"

namespace engine::learn {

struct View {
    const std::uint32_t* keys;
    const float* values;  // null = all 1
    std::size_t count;
    std::size_t ahead;  // places that may be read from the row's start, at least count
};

inline std::uint32_t pair_key(std::uint32_t a, std::uint32_t b, std::uint32_t space) {  // splitmix64 finaliser, then range
    std::uint64_t h = (static_cast<std::uint64_t>(a) << 32 | b) + 0x9E3779B97F4A7C15ull;
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9ull;
    h = (h ^ h >> 27) * 0x94D049BB133111EBull;
    return static_cast<std::uint32_t>((h >> 32) * space >> 32);
}

INLINE View view(const Table& t, const Rows& rows, const Scratch& s, std::uint32_t space, std::size_t i) {
    View v;
    if (rows.x) {
        v = {rows.keys, rows.x + i * rows.width, rows.width, rows.width};
        if (t.scale) {
            for (std::size_t j = 0; j < v.count; ++j) {
                const double* c = t.scale + 3 * j;
                const double q = c[0] > 0 ? c[2] / c[0] : 0;
                s.values[j] = q > 0 ? static_cast<float>((v.values[j] - c[1]) / std::sqrt(q))
                                    : 0.f * v.values[j];  // keeps NaN and Inf visible
            }
            v.values = s.values;
        }
    } else {
        const auto at = static_cast<std::size_t>(rows.indptr[i]);
        v = {rows.keys + at, rows.values ? rows.values + at : nullptr, static_cast<std::size_t>(rows.indptr[i + 1]) - at,
             static_cast<std::size_t>(rows.indptr[rows.count]) - at};
    }
    if (!t.pairs) return v;
    std::size_t m = v.count;
    for (std::size_t j = 0; j < v.count; ++j) {
        s.keys[j] = v.keys[j];
        if (v.values) s.values[j] = v.values[j];
    }
    for (std::size_t j = 0; j < v.count; ++j)
        for (std::size_t k = j + (v.values ? 0 : 1); k < v.count; ++k, ++m) {  // a square of 1 says nothing new
            s.keys[m] = v.keys[j] < v.keys[k] ? pair_key(v.keys[j], v.keys[k], space) : pair_key(v.keys[k], v.keys[j], space);
            if (v.values) s.values[m] = s.values[j] * s.values[k];
        }
    return {s.keys, v.values ? s.values : nullptr, m, m};
}

// Welford: the scaler learns row i after it was scored and learned with the statistics of the rows before.
inline void scale_learn(double* scale, const float* x, std::size_t width) {
    for (std::size_t j = 0; j < width; ++j) {
        double* c = scale + 3 * j;
        const double d = x[j] - c[1];
        c[0] += 1;
        c[1] += d / c[0];
        c[2] += d * (x[j] - c[1]);
    }
}

}  // namespace engine::learn
