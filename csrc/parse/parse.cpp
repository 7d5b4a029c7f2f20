#include "parse/csv.h"
#include "parse/libsvm.h"

namespace engine::parse::portable {
using base::Byte;

inline bool decimal_of(const Byte* s, const Byte* e, float& out) { return base::plain(s, e, out); }

struct Marks {
    bool hit[256] = {};
    Marks(Byte a, Byte b) { hit[a] = hit[b] = hit['\n'] = true; }
    std::uint16_t* places(const Byte* p, std::size_t from, std::uint16_t* out) const {
        for (std::size_t j = 0; j < 64; ++j) {  // what is not a mark is overwritten
            *out = static_cast<std::uint16_t>(from + j);
            out += hit[p[j]];
        }
        return out;
    }
};

#include "parse/fast.h"

}  // namespace engine::parse::portable

#if defined(__x86_64__)
namespace engine::parse::avx2 { using base::Byte; }
namespace engine::parse::avx512 { using base::Byte; }
#include "parse/avx2.h"
#include "parse/avx512.h"
#endif

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
    static const Ops plain{base::count, portable::libsvm, portable::csv};
#if defined(__x86_64__)
    static const Ops wide{count_avx2, avx2::libsvm, avx2::csv}, widest{count_avx2, avx512::libsvm, avx512::csv};
    if (level == Isa::avx512) return widest;
    if (level == Isa::avx2) return wide;
#endif
    (void)level;
    return plain;
}

}  // namespace engine::parse
