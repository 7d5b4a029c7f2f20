#include "check/base.h"

namespace engine::check {

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("sse4.2")
static std::uint32_t crc32c_sse42(const std::uint8_t* data, std::size_t size, std::uint32_t seed) {
    std::uint64_t c = ~seed;
    for (; size >= 8; size -= 8, data += 8) {
        std::uint64_t word;
        std::memcpy(&word, data, 8);
        c = __builtin_ia32_crc32di(c, word);
    }
    auto c32 = static_cast<std::uint32_t>(c);
    for (; size; --size) c32 = __builtin_ia32_crc32qi(c32, *data++);
    return ~c32;
}
#pragma GCC pop_options
#endif

const Ops& ops(Isa level) {
    static const Ops portable{base::crc32c, base::hash64};
#if defined(__x86_64__)
    static const Ops sse{crc32c_sse42, base::hash64};
    if (level == Isa::avx2 || level == Isa::avx512) return sse;
#endif
    (void)level;
    return portable;
}

}  // namespace engine::check
