#pragma once
#include <cstring>

#include "sparse/ops.h"

namespace engine::sparse::base {

inline std::uint32_t magnitude(float x) {
    std::uint32_t u;
    std::memcpy(&u, &x, 4);
    return u & 0x7fffffffu;
}

inline Scan threshold(const float* g, float* e, std::size_t start, std::size_t n, float t, std::uint32_t* index, float* value, std::size_t room) {
    std::size_t count = 0, bad = 0, i = start;
    for (; i < n && count + 64 <= room; ++i) {
        float x = e[i];
        if (g) {
            const float y = g[i] + x;
            if (magnitude(y) < 0x7f800000u) x = y;
            else ++bad;
        }
        float a = x < 0 ? -x : x;
        if (a >= t) {
            index[count] = static_cast<std::uint32_t>(i);
            value[count++] = x;
            x = 0;
        }
        e[i] = x;
    }
    return {i, count, bad};
}

}  // namespace engine::sparse::base
