// Quantisers with fused error feedback: x = g + e, payload = Q(x), e' = x - decode(payload), one block at a time.
// plain/quant.py is the definition. Payloads are whole groups of 64 elements; lane j of 64 sums elements j, j+64, ...
#pragma once
#include "kernel.h"

namespace engine::quant {

inline constexpr std::size_t group = 64, largest = 4096;  // a block is a multiple of `group`, at most `largest`

struct Key {  // of the counter generator: from (seed, step, stream); `counter`, the first element of the call, a multiple of 64
    std::uint32_t low, high;
    std::uint64_t counter;
};

// Encode n elements in blocks of `block`; `g` may be null (x = e). Returns the elements where g + e is not finite: they add nothing.
using Encode = std::size_t (*)(const float* g, float* e, std::size_t n, std::size_t block, std::uint8_t* out, float* scales, Key key);
using Decode = void (*)(const std::uint8_t* in, const float* scales, std::size_t n, std::size_t block, float* acc);
// x rounded to a narrower float, saturating; `out` holds n items of 1 or 2 bytes.
using Cast = std::size_t (*)(const float* g, float* e, std::size_t n, void* out);
using Widen = void (*)(const void* in, std::size_t n, float* acc);
// Integers of one scale for all ranks: q = round(x * inverse) within +-levels, e' = x - q * scale.
using Shared = std::size_t (*)(const float* g, float* e, std::size_t n, float inverse, float scale, float levels, void* out);

enum Mode : int { sign, ternary, int2, int4, int8, int2s, int4s, int8s, modes };  // ..s: stochastic rounding
enum Narrow : int { bf16, fp16, fp8, narrows };

struct Ops {
    Encode encode[modes];
    Decode decode[modes];
    Cast cast[narrows];
    Widen widen[narrows];
    Shared shared[3];  // int8, int16, int32
    // acc += q * scale for the same integers, or their sum over ranks.
    void (*shared_add[3])(const void* in, std::size_t n, float scale, float* acc);
    // Greatest finite |g + e|, |e| where that is not finite.
    float (*peak)(const float* g, const float* e, std::size_t n);
    // out = clamp(round(x * inverse) + zero, 0, 255), nearest even; no error feedback.
    void (*quantise)(const float* x, std::size_t n, float inverse, float zero, std::uint8_t* out);
    // Exact widening of bfloat16, nearest rounding of float64: the two other inputs, a block at a time.
    void (*from_bf16)(const std::uint16_t* x, std::size_t n, float* out);
    void (*from_f64)(const double* x, std::size_t n, float* out);
    // e += g: the yardstick of a pass over g and e.
    void (*add)(const float* g, float* e, std::size_t n);
};

const Ops& ops(Isa level);

}  // namespace engine::quant
