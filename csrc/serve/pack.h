// Rows of a table as a packed copy: keys as they are, versions and clocks class-coded, values by byte planes (alone) or as a
// delta against rows the receiver has, whose versions are named. Decoders take any bytes: they refuse, never read outside.
#pragma once
#include <cstdint>

#include "delta/ops.h"

namespace engine::serve {

constexpr std::size_t most_values = 1 << 18, most_rows = 1 << 16;  // of one packed copy

struct Packing {  // memory of one call, some 9 MiB, kept by the caller; a page of it is touched when it is first needed
    delta::Work delta;
    alignas(64) std::uint8_t plane[4][most_values], code[4 * most_values + 4096];
    std::uint32_t number[most_rows + entropy::block];
    // What was unpacked.
    std::uint64_t keys[most_rows];
    std::uint32_t versions[most_rows + entropy::block], clocks[most_rows + entropy::block], base_versions[most_rows + entropy::block];
    float base[most_values], values[most_values];
    const std::uint8_t *rest, *end;  // what is left: the values
    bool against;                    // a delta: `base` is for the caller to fill
};

struct Parcel {  // n rows of `width` values
    std::size_t n, width;
    const std::uint64_t* keys;
    const std::uint32_t *versions, *clocks;
    const float* values;
    const std::uint32_t* base_versions;  // null: packed alone
    const float* base;
};

std::size_t pack_bound(std::size_t n, std::size_t width);
// Bytes written to `out`, which has pack_bound of them; at most most_rows rows and most_values values.
std::size_t pack(const delta::Tools& tools, const Parcel& rows, std::uint8_t* out, Packing& work);

// All but the values; false where the bytes are not n rows.
bool unpack_head(const delta::Tools& tools, const std::uint8_t* in, std::size_t size, std::size_t n, std::size_t width, Packing& work);
bool unpack_values(const delta::Tools& tools, std::size_t n, std::size_t width, Packing& work);

}  // namespace engine::serve
