#include "quant/ops.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors wider than the ABI floor never cross a call: all is inlined
#define INLINE __attribute__((always_inline)) static inline

#define LANES base
#define W 4
namespace engine::quant::base {
using Int = std::int32_t __attribute__((vector_size(16)));
INLINE unsigned bits(Int q) {
    unsigned sum = 0;
    for (int j = 0; j < 4; ++j) sum |= static_cast<std::uint32_t>(q[j]) >> 31 << j;
    return sum;
}
INLINE void narrow(void* out, Int q) {
    for (int j = 0; j < 4; ++j) static_cast<std::uint8_t*>(out)[j] = static_cast<std::uint8_t>(q[j]);
}
INLINE Int spread(const std::uint8_t* in, int j) {  // bit l of nibble j to the top of lane l
    const std::uint32_t nibble = in[j / 2] >> j % 2 * 4;
    return Int{std::int32_t(nibble << 31), std::int32_t(nibble >> 1 << 31), std::int32_t(nibble >> 2 << 31), std::int32_t(nibble >> 3 << 31)};
}
}  // namespace engine::quant::base
#include "quant/base.h"
#undef LANES
#undef W
#if defined(__x86_64__)
#include "quant/avx2.h"
#include "quant/avx512.h"
#endif

namespace engine::quant {

const Ops& ops(Isa level) {
#if defined(__x86_64__)
    if (level == Isa::avx512) return avx512::table;
    if (level == Isa::avx2) return avx2::table;
#endif
    (void)level;
    return base::table;
}

}  // namespace engine::quant
