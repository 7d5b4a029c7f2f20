// Integrity kernels: crc32c (Castagnoli, iSCSI RFC 3720) and a positional, additive 64-bit hash.
#pragma once
#include "kernel.h"

namespace engine::check {

struct Ops {
    // CRC-32C of `size` bytes continuing from `seed` (0 to start).
    std::uint32_t (*crc32c)(const std::uint8_t* data, std::size_t size, std::uint32_t seed);
    // Sum over 32-bit words i of mix((offset + i) * odd ^ word): rows can be taken out and put back by subtraction.
    std::uint64_t (*hash64)(const std::uint32_t* words, std::size_t count, std::uint64_t offset);
};

const Ops& ops(Isa level);

}  // namespace engine::check
