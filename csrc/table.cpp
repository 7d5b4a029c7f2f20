#include "kernel.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace engine {

static constexpr const char* names[] = {"base", "avx2", "avx512", "neon"};

const char* isa_name(Isa level) { return names[static_cast<int>(level)]; }

bool isa_runs(Isa level) {
    switch (level) {
        case Isa::base: return true;
#if defined(__x86_64__)
        case Isa::avx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
        case Isa::avx512:  // Ice Lake / Zen 4 and later: what the compressing kernels need
            return isa_runs(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
#elif defined(__aarch64__)
        case Isa::neon: return true;
#endif
        default: return false;
    }
}

static Isa pick() {
    if (const char* want = std::getenv("ENGINE_SIMD"))
        for (int level = 0; level < 4; ++level)
            if (!std::strcmp(want, names[level]) && isa_runs(static_cast<Isa>(level))) return static_cast<Isa>(level);
    for (Isa level : {Isa::avx512, Isa::avx2, Isa::neon})
        if (isa_runs(level)) return level;
    return Isa::base;
}

Isa isa() {
    static const Isa chosen = pick();
    return chosen;
}

}  // namespace engine
