#include "parity/base.h"
#if defined(__x86_64__)
#include "parity/avx2.h"
#include "parity/gfni.h"
#endif

namespace engine::parity {

const Ops& ops(Isa level) {
    static const Ops portable{base::dot};
#if defined(__x86_64__)
    static const Ops shuffle{avx2::dot}, affine{gfni::dot};
    if (level == Isa::avx512 && __builtin_cpu_supports("gfni")) return affine;
    if (level == Isa::avx512 || level == Isa::avx2) return shuffle;
#endif
    (void)level;
    return portable;
}

}  // namespace engine::parity
