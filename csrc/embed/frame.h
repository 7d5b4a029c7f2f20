// Frames for hosts without Python: the layout of engine/codec/frame.py and docs/format.md, byte for byte.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "delta/ops.h"

namespace engine::embed {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using Row = delta::Row;

enum Family : u8 { raw = 0, sparse = 2, quant = 3, delta_family = 4 };
enum FrameKind : u8 { update = 2, delta_kind = 3 };
inline constexpr std::size_t align = 64, core = 64;

inline std::size_t padded(std::size_t size) { return (size + align - 1) / align * align; }

struct Frame {
    u8 kind = 0, codec = 0, dtype = 0, ndim = 0;
    u16 flags = 0;
    u32 chunks = 0, ext_size = 0;
    u64 name = 0, base = 0, next = 0, payload = 0, items = 0;
    const u8 *ext = nullptr, *rows = nullptr, *body = nullptr;

    Row row(std::size_t at) const;
};

std::size_t head_size(std::size_t ndim, std::size_t ext, std::size_t chunks);
// Pads the chunks, of `length` bytes at `offset` of the payload each, and writes the head before them; rows get offset, crc.
void seal(u8* out, const Frame& fields, const void* ext, const u64* shape, Row* rows, std::size_t payload);
// Row of a chunk of which `length` bytes lie at `body`: its padding is cleared, its checksum taken.
Row close_chunk(u8* body, std::size_t offset, std::size_t length);
// The frame at `data`, of exactly `size` bytes; false with the reason. Chunks are checked by `chunk`.
bool open(const void* data, std::size_t size, Frame& frame, std::string& why);
// Chunk `at` of exactly `length` bytes (any where it is `whole`); null with the reason.
inline constexpr std::size_t whole = ~std::size_t{0};
const u8* chunk(const Frame& frame, std::size_t at, std::size_t length, std::string& why);

}  // namespace engine::embed
