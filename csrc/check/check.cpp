#include "check/base.h"
#if defined(__x86_64__)
#include "check/avx2.h"
#include "check/avx512.h"
#endif

namespace engine::check {

#if defined(__x86_64__)
// Three streams hide the 3-cycle latency of the crc32 instruction; their sums join by a table that appends `lane` zero
// bytes to a CRC (M. Adler's method: the operator is linear over GF(2), so four byte-indexed tables hold it).
template <std::size_t lane>
struct Shift {
    std::uint32_t t[4][256];
    constexpr Shift() : t{} {
        std::uint32_t bit[32] = {};
        for (int i = 0; i < 32; ++i) {
            std::uint32_t c = 1u << i;
            for (std::size_t n = 0; n < lane; ++n) c = (c >> 8) ^ base::crc.t[0][c & 255];
            bit[i] = c;
        }
        for (int k = 0; k < 4; ++k)
            for (std::uint32_t v = 0; v < 256; ++v)
                for (int i = 0; i < 8; ++i)
                    if (v >> i & 1) t[k][v] ^= bit[8 * k + i];
    }
    std::uint32_t operator()(std::uint32_t c) const { return t[0][c & 255] ^ t[1][c >> 8 & 255] ^ t[2][c >> 16 & 255] ^ t[3][c >> 24]; }
};

#pragma GCC push_options
#pragma GCC target("sse4.2")
static inline std::uint64_t step(std::uint64_t c, const std::uint8_t* data) {
    std::uint64_t word;
    std::memcpy(&word, data, 8);
    return __builtin_ia32_crc32di(c, word);
}

template <std::size_t lane>
static inline std::uint64_t lanes(std::uint64_t c, const std::uint8_t*& data, std::size_t& size) {
    static constexpr Shift<lane> shift{};
    for (; size >= 3 * lane; size -= 3 * lane, data += 3 * lane) {
        std::uint64_t b = 0, d = 0;
        for (std::size_t i = 0; i < lane; i += 8) {
            c = step(c, data + i);
            b = step(b, data + lane + i);
            d = step(d, data + 2 * lane + i);
        }
        c = shift(static_cast<std::uint32_t>(c)) ^ static_cast<std::uint32_t>(b);
        c = shift(static_cast<std::uint32_t>(c)) ^ static_cast<std::uint32_t>(d);
    }
    return c;
}

static std::uint32_t crc32c_sse42(const std::uint8_t* data, std::size_t size, std::uint32_t seed) {
    std::uint64_t c = static_cast<std::uint32_t>(~seed);
    c = lanes<2048>(c, data, size);
    c = lanes<256>(c, data, size);
    for (; size >= 8; size -= 8, data += 8) c = step(c, data);
    auto c32 = static_cast<std::uint32_t>(c);
    for (; size; --size) c32 = __builtin_ia32_crc32qi(c32, *data++);
    return ~c32;
}
#pragma GCC pop_options
#endif

}  // namespace engine::check
#if defined(__x86_64__)
#include "check/fold.h"
#endif

namespace engine::check {

const Ops& ops(Isa level) {
    static const Ops portable{base::crc32c, base::hash64};
#if defined(__x86_64__)
    static const Ops wider{crc32c_sse42, avx2::hash64}, widest{crc32c_sse42, avx512::hash64}, folding{fold::crc32c, avx512::hash64};
    if (level == Isa::avx512) return __builtin_cpu_supports("vpclmulqdq") ? folding : widest;
    if (level == Isa::avx2) return wider;
#endif
    (void)level;
    return portable;
}

}  // namespace engine::check
