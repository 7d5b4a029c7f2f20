#include "parse/csv.h"
#include "parse/libsvm.h"

namespace engine::parse {

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2")
static std::int64_t count_avx2(const std::uint8_t* data, std::size_t size, std::uint8_t byte) {
    std::int64_t n = 0;
    while (size) {  // byte counters, emptied before they can wrap: the inner loop becomes vector code
        const std::size_t part = size < 4096 ? size : 4096;
        std::uint8_t lanes[32] = {};
        std::size_t i = 0;
        for (; i + 32 <= part; i += 32)
            for (int j = 0; j < 32; ++j) lanes[j] = static_cast<std::uint8_t>(lanes[j] + (data[i + j] == byte));
        for (; i < part; ++i) n += data[i] == byte;
        for (int j = 0; j < 32; ++j) n += lanes[j];
        data += part, size -= part;
    }
    return n;
}
#pragma GCC pop_options
#endif

const Ops& ops(Isa level) {
    static const Ops portable{base::count, base::libsvm, base::csv};
#if defined(__x86_64__)
    static const Ops avx2{count_avx2, base::libsvm, base::csv};
    if (level == Isa::avx2 || level == Isa::avx512) return avx2;
#endif
    (void)level;
    return portable;
}

}  // namespace engine::parse
