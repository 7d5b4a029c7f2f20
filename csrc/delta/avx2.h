#pragma once
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,bmi2,popcnt,lzcnt")

namespace engine::delta::avx2 {

#include "delta/loops.h"

inline void stream(u8* out, const u8* in, std::size_t n) {
    const std::size_t head = std::min(n, (32 - reinterpret_cast<std::uintptr_t>(out) % 32) % 32);
    std::memcpy(out, in, head);
    std::size_t i = head;
    for (; i + 32 <= n; i += 32)
        _mm256_stream_si256(reinterpret_cast<__m256i*>(out + i), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i)));
    std::memcpy(out + i, in + i, n - i);
}

}  // namespace engine::delta::avx2
#pragma GCC pop_options
