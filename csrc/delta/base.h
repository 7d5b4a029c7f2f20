#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "delta/ops.h"

namespace engine::delta {

inline constexpr std::size_t group = 512;  // values behind one width of bit-packing
inline constexpr std::size_t part = 2048;  // elements worked on while in the first cache
inline constexpr std::size_t large = std::size_t(4) << 20;  // bytes of an array whose result is better written past the caches

inline std::size_t padded(std::size_t size) { return (size + 63) / 64 * 64; }
inline std::size_t whole(std::size_t size) { return (size + 3) / 4 * 4; }
inline std::size_t width_of(const Job& job) { return widths[static_cast<u32>(job.kind)]; }
inline void settle() {  // what was written past the caches is seen by all from here on
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}
inline bool real(Kind kind) { return kind == Kind::half || kind == Kind::brain || kind == Kind::single; }  // has conditions

template <class F>
inline F below(double bound) {  // the largest F that is not above
    const F x = static_cast<F>(bound);
    return static_cast<double>(x) > bound ? std::nextafter(x, F(0)) : x;
}

namespace base {

#include "delta/loops.h"

inline void stream(u8* out, const u8* in, std::size_t n) { std::memcpy(out, in, n); }

inline std::size_t pick(const u32* z, std::size_t n, u32 at, u32* index, u32* change) {
    std::size_t k = 0;
    for (std::size_t i = 0; i < n; ++i) {
        index[k] = at + static_cast<u32>(i);
        change[k] = z[i] - 1;
        k += z[i] != 0;
    }
    return k;
}

}  // namespace base
}  // namespace engine::delta
