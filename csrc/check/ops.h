// Integrity kernels: crc32c (Castagnoli, iSCSI RFC 3720) and a positional, additive 64-bit hash.
#pragma once
#include "kernel.h"

namespace engine::check {

struct Ops {
    // CRC-32C of `size` bytes continuing from `seed` (0 to start).
    std::uint32_t (*crc32c)(const std::uint8_t* data, std::size_t size, std::uint32_t seed);
    // Sum over 64-bit words (the last filled up with zeros) of mix(word ^ mix((place + 1) * odd)), the first at place `first`:
    // what has changed can be taken out and put back by subtraction.
    std::uint64_t (*hash64)(const std::uint8_t* data, std::size_t size, std::uint64_t first);
};

const Ops& ops(Isa level);

}  // namespace engine::check
