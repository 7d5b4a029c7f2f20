#include "clean/ops.h"

#include <cstring>

namespace engine::clean {
namespace portable {
#include "clean/base.h"
}

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2")
namespace avx2 {
#include "clean/base.h"
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
namespace avx512 {
#include "clean/base.h"
}
#pragma GCC pop_options
#endif

const Ops& ops(Isa level) {
#if defined(__x86_64__)
    if (level == Isa::avx512) return avx512::table;
    if (level == Isa::avx2) return avx2::table;
#endif
    (void)level;
    return portable::table;
}

static std::uint64_t mix(std::uint64_t x) {  // splitmix64 finaliser
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

static std::uint32_t bits_of(float v) {
    std::uint32_t bits;
    v += 0.0f;  // -0 and 0 are one
    std::memcpy(&bits, &v, 4);
    return bits;
}

std::uint64_t hash_rows(Shape s, const float* x, const std::uint8_t* kinds, const std::uint64_t* seeds, std::uint32_t mask, bool fit,
                        std::uint32_t* owner, std::int64_t* indptr, std::uint32_t* keys, float* values) {
    std::uint64_t met = 0;
    std::int64_t nnz = indptr[0] = 0;
    for (std::size_t i = 0; i < s.n; ++i, x += s.d) {
        for (std::size_t j = 0; j < s.d; ++j) {
            if (!kinds[j] || x[j] != x[j]) continue;
            const std::uint64_t h = kinds[j] == 1 ? seeds[j] : mix(seeds[j] ^ (0x9E3779B97F4A7C15ull * (bits_of(x[j]) + 1ull)));
            const std::uint32_t key = static_cast<std::uint32_t>(h) & mask;
            keys[nnz] = key;
            values[nnz++] = kinds[j] == 1 ? x[j] : 1.0f;
            if (owner) {
                const std::uint32_t mine = static_cast<std::uint32_t>(h >> 32) | 1u;
                met += owner[key] && owner[key] != mine;
                if (fit && !owner[key]) owner[key] = mine;
            }
        }
        indptr[i + 1] = nnz;
    }
    return met;
}

void sketch_add(Shape s, const float* x, double* counts) {
    for (std::size_t i = 0; i < s.n; ++i)
        for (std::size_t j = 0; j < s.d; ++j) {
            const float v = x[i * s.d + j];
            if (v != v) continue;
            const std::uint32_t b = bits_of(v), place = b >> 31 ? ~b : b | 0x80000000u;  // ascending as floats do
            counts[j * 16384 + (place >> 18)] += 1;
        }
}

std::int64_t frequent(std::size_t n, const std::int64_t* indptr, const std::uint32_t* keys, const float* values, std::uint32_t mask,
                      std::uint32_t least, bool fit, std::uint32_t* counts, std::int64_t* out_indptr, std::uint32_t* out_keys, float* out_values) {
    std::int64_t nnz = out_indptr[0] = 0;
    for (std::size_t i = 0; i < n; ++i) {
        for (std::int64_t e = indptr[i]; e < indptr[i + 1]; ++e) {
            std::uint32_t& seen = counts[keys[e] & mask];
            if (seen >= least) {
                out_keys[nnz] = keys[e];
                out_values[nnz++] = values ? values[e] : 1.0f;
            }
            seen += fit && seen != 0xFFFFFFFFu;
        }
        out_indptr[i + 1] = nnz;
    }
    return nnz;
}

void project(std::size_t n, const std::int64_t* indptr, const std::uint32_t* keys, const float* values, std::size_t k, std::uint64_t seed, float* out) {
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(k));
    for (std::size_t i = 0; i < n; ++i, out += k) {
        for (std::size_t c = 0; c < k; ++c) out[c] = 0;
        for (std::int64_t e = indptr[i]; e < indptr[i + 1]; ++e) {
            const float v = (values ? values[e] : 1.0f) * scale;
            std::uint64_t bits = 0;
            for (std::size_t c = 0; c < k; ++c, bits >>= 1) {
                if (c % 64 == 0) bits = mix(seed + 0x9E3779B97F4A7C15ull * (keys[e] + 1ull) + 0xD1B54A32D192ED03ull * (c / 64));
                out[c] += bits & 1 ? v : -v;
            }
        }
    }
}

}  // namespace engine::clean
