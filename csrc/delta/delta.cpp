#include "delta/base.h"
#if defined(__x86_64__)
#include "delta/avx2.h"
#include "delta/avx512.h"
#endif

namespace engine::delta {

u64 hash(const check::Ops& check, const u8* data, std::size_t size, std::size_t first) {
    return check.hash64(data, size, first / 8);
}

const Ops& ops(Isa level) {
    static const Ops portable{base::diff, base::join, base::exponents, base::pick, base::any, base::pack, base::unpack, base::quantise, base::restore, base::stream};
#if defined(__x86_64__)
    static const Ops wider{avx2::diff, avx2::join, avx2::exponents, base::pick, avx2::any, avx2::pack, avx2::unpack, avx2::quantise, avx2::restore, avx2::stream};
    static const Ops widest{avx512::diff, avx512::join, avx512::exponents, avx512::pick, avx512::any, avx512::pack, avx512::unpack, avx512::quantise, avx512::restore, avx512::stream};
    if (level == Isa::avx512) return widest;
    if (level == Isa::avx2) return wider;
#endif
    (void)level;
    return portable;
}

}  // namespace engine::delta
