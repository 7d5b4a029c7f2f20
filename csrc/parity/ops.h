// Erasure kernels: sums of products over GF(2^8), polynomial 0x11D. plain/parity.py is the definition.
#pragma once
#include "kernel.h"

namespace engine::parity {

using u8 = std::uint8_t;

struct Ops {
    // out[j] = (keep ? out[j] : 0) + sum over i of matrix[j * k + i] * data[i], each n bytes; + is xor. Encode, update
    // and repair are this with another matrix. No out may overlap another out or a data[i].
    void (*dot)(const u8* matrix, std::size_t k, std::size_t m, const u8* const* data, u8* const* out, std::size_t n, bool keep);
};

const Ops& ops(Isa level);

}  // namespace engine::parity
