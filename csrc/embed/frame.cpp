#include "embed/frame.h"

#include <cstring>

#include "check/ops.h"

namespace engine::embed {
namespace {

constexpr u16 version = 1;
constexpr u8 dtypes = 14, axes = 32;

template <class T>
T get(const u8* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

template <class T>
void put(u8* at, T value) { std::memcpy(at, &value, sizeof value); }

u32 crc(const u8* data, std::size_t size) { return check::ops(isa()).crc32c(data, size, 0); }

bool wrong(std::string& why, const std::string& what) {
    why = "frame: " + what + "\n  fix: ask the sender again, or read an older copy";
    return false;
}

}  // namespace

Row Frame::row(std::size_t at) const {
    Row found;
    std::memcpy(&found, rows + at * sizeof found, sizeof found);
    return found;
}

std::size_t head_size(std::size_t ndim, std::size_t ext, std::size_t chunks) {
    return padded(core + ext + 8 * ndim + sizeof(Row) * chunks);
}

Row close_chunk(u8* body, std::size_t offset, std::size_t length) {
    std::memset(body + length, 0, padded(length) - length);
    return {offset, static_cast<u32>(length), 0, 0, crc(body, padded(length)), 0};
}

void seal(u8* out, const Frame& f, const void* ext, const u64* shape, Row* rows, std::size_t payload) {
    const std::size_t head = head_size(f.ndim, f.ext_size, f.chunks);
    std::memset(out, 0, head);
    u8* at = out + core;
    std::memcpy(at, ext, f.ext_size);
    at += f.ext_size;
    std::memcpy(at, shape, 8u * f.ndim);
    at += 8u * f.ndim;
    if (f.chunks) std::memcpy(at, rows, sizeof(Row) * f.chunks);
    std::memcpy(out, "EFRM", 4);
    put(out + 4, version);
    out[6] = f.kind, out[7] = f.codec, out[8] = f.dtype, out[9] = f.ndim;
    put(out + 10, f.flags);
    put(out + 12, f.chunks);
    put(out + 16, f.name);
    put(out + 24, f.base);
    put(out + 32, f.next);
    put(out + 40, static_cast<u64>(payload));
    put(out + 48, f.ext_size);
    put(out + 56, crc(out + core, head - core));
    put(out + 60, crc(out, 60));
}

bool open(const void* data, std::size_t size, Frame& f, std::string& why) {
    const auto* in = static_cast<const u8*>(data);
    if (!in) return wrong(why, "expected bytes, found NULL");
    if (reinterpret_cast<std::uintptr_t>(in) % 8) return wrong(why, "expected a buffer at a multiple of 8 bytes");
    if (size < core) return wrong(why, "cut: expected a header of 64 bytes, found " + std::to_string(size));
    if (std::memcmp(in, "EFRM", 4)) return wrong(why, "foreign: it does not begin with EFRM");
    if (crc(in, 60) != get<u32>(in + 60)) return wrong(why, "header checksum is wrong");
    if (get<u16>(in + 4) != version) return wrong(why, "version: expected 1, found " + std::to_string(get<u16>(in + 4)));
    f.kind = in[6], f.codec = in[7], f.dtype = in[8], f.ndim = in[9];
    f.flags = get<u16>(in + 10);
    f.chunks = get<u32>(in + 12);
    f.name = get<u64>(in + 16), f.base = get<u64>(in + 24), f.next = get<u64>(in + 32), f.payload = get<u64>(in + 40);
    f.ext_size = get<u32>(in + 48);
    if (f.dtype >= dtypes || f.ndim > axes) return wrong(why, "layout: dtype or number of axes");
    const std::size_t head = head_size(f.ndim, f.ext_size, f.chunks);  // at most 2^38: no overflow
    if (size < head || size - head < f.payload) return wrong(why, "cut: found " + std::to_string(size) + " bytes of a larger frame");
    if (size - head > f.payload) return wrong(why, "trailing bytes: found " + std::to_string(size) + " bytes, more than the frame has");
    if (crc(in + core, head - core) != get<u32>(in + 56)) return wrong(why, "table checksum is wrong");
    f.ext = in + core;
    f.rows = f.ext + f.ext_size + 8u * f.ndim;
    f.body = in + head;
    f.items = 1;
    for (int i = 0; i < f.ndim; ++i)
        if (__builtin_mul_overflow(f.items, get<u64>(f.ext + f.ext_size + 8 * i), &f.items)) return wrong(why, "layout: shape");
    u64 end = 0;
    for (u32 i = 0; i < f.chunks; ++i) {
        const Row row = f.row(i);
        if (row.offset != end) return wrong(why, "layout: chunk " + std::to_string(i) + " is not where it should be");
        end += padded(row.length);
    }
    if (end != f.payload) return wrong(why, "layout: chunks do not end with the payload");
    for (const u8* at = f.rows + sizeof(Row) * f.chunks; at < f.body; ++at)
        if (*at) return wrong(why, "layout: bytes after the table");
    return true;
}

const u8* chunk(const Frame& f, std::size_t at, std::size_t length, std::string& why) {
    if (at >= f.chunks) return wrong(why, "expected chunk " + std::to_string(at) + ", found " + std::to_string(f.chunks)), nullptr;
    const Row row = f.row(at);
    if (length != whole && row.length != length)
        return wrong(why, "chunk " + std::to_string(at) + " has " + std::to_string(row.length) + " bytes, expected " + std::to_string(length)), nullptr;
    if (crc(f.body + row.offset, padded(row.length)) != row.crc)
        return wrong(why, "chunk " + std::to_string(at) + " checksum is wrong"), nullptr;
    return f.body + row.offset;
}

}  // namespace engine::embed
