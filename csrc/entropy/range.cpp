// Adaptive binary range coder of bytes, order 0: a tree of 255 probabilities (11 bits), the arithmetic of LZMA's coder
// (I. Pavlov, LZMA specification): 32-bit range, carry through a run of 0xff bytes.
#include "entropy/code.h"

namespace engine::entropy {

static constexpr u32 half = 1024, rate = 5, top = 1u << 24;

std::size_t range_encode(const u8* in, std::size_t n, u8* out, std::size_t room) {
    u16 chance[256];
    std::fill(chance, chance + 256, static_cast<u16>(half));
    u64 low = 0;
    u32 range = ~u32(0);
    std::size_t at = 0, run = 1;
    u8 held = 0;
    bool full = false;
    const auto shift = [&] {
        if (low < 0xff000000u || low >> 32) {
            for (u8 byte = held; run; --run, byte = 0xff) {
                if (at == room) { full = true; return; }
                out[at++] = static_cast<u8>(byte + (low >> 32));
            }
            held = static_cast<u8>(low >> 24);
        }
        ++run;
        low = (low & 0x00ffffffu) << 8;
    };
    for (std::size_t i = 0; i < n && !full; ++i)
        for (u32 node = 1, b = 8; b-- && !full;) {
            const u32 bit = in[i] >> b & 1, edge = (range >> 11) * chance[node];
            if (bit) {
                low += edge;
                range -= edge;
                chance[node] = static_cast<u16>(chance[node] - (chance[node] >> rate));
            } else {
                range = edge;
                chance[node] = static_cast<u16>(chance[node] + ((2048 - chance[node]) >> rate));
            }
            node = node * 2 + bit;
            for (; range < top && !full; range <<= 8) shift();
        }
    for (int k = 0; k < 5 && !full; ++k) shift();
    return full ? 0 : at;
}

bool range_decode(const u8* in, std::size_t size, u8* out, std::size_t n) {
    if (size < 5 || in[0]) return false;
    u16 chance[256];
    std::fill(chance, chance + 256, static_cast<u16>(half));
    u32 range = ~u32(0), code = 0;
    std::size_t at = 1;
    for (; at < 5; ++at) code = code << 8 | in[at];
    for (std::size_t i = 0; i < n; ++i) {
        u32 node = 1;
        while (node < 256) {
            const u32 edge = (range >> 11) * chance[node], bit = code >= edge;
            if (bit) {
                code -= edge;
                range -= edge;
                chance[node] = static_cast<u16>(chance[node] - (chance[node] >> rate));
            } else {
                range = edge;
                chance[node] = static_cast<u16>(chance[node] + ((2048 - chance[node]) >> rate));
            }
            node = node * 2 + bit;
            for (; range < top; range <<= 8) {
                if (at == size) return false;
                code = code << 8 | in[at++];
            }
        }
        out[i] = static_cast<u8>(node);
    }
    return at == size;
}

}  // namespace engine::entropy
