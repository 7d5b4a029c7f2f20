#include "score/base.h"

namespace engine::score {

// Scatter into buckets and bins bounds this, not arithmetic: one path serves every ISA.
const Ops& ops(Isa) {
    static const Ops portable{base::binary, base::multi, base::real};
    return portable;
}

}  // namespace engine::score
