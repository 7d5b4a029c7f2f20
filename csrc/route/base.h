#pragma once
#include "route/ops.h"

namespace engine::route::base {

template <class T>
inline void route(const Map<T>& map, const std::uint64_t* keys, std::size_t n, std::int32_t* owner) {
    for (std::size_t i = 0; i < n; ++i) {
        const int v = map.owner[hash(keys[i]) >> (64 - map.bits)];
        owner[i] = __builtin_expect(v >= 0, 1) ? v : map.owner[slot(map, keys[i])];
    }
}

}  // namespace engine::route::base
