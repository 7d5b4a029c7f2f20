// Canonical Huffman over bytes: 128 bytes of code lengths (a nibble each), then codes, first bit lowest.
#include "entropy/code.h"

namespace engine::entropy {

static constexpr int limit = 12;
static constexpr std::size_t table = 128;

std::size_t huffman_encode(const u8* in, std::size_t n, u8* out, std::size_t room) {
    u32 part[4][256] = {};
    u64 count[256];
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (std::size_t k = 0; k < 4; ++k) ++part[k][in[i + k]];
    for (; i < n; ++i) ++part[0][in[i]];
    for (int s = 0; s < 256; ++s) count[s] = u64(part[0][s]) + part[1][s] + part[2][s] + part[3][s];
    u8 length[256];
    u16 bits[256] = {};
    lengths<256, limit>(count, length);
    canonical<256, limit>(length, bits);
    u64 total = 0;
    for (int s = 0; s < 256; ++s) total += count[s] * length[s];
    const auto need = table + static_cast<std::size_t>((total + 7) / 8);
    if (need > room) return 0;
    for (std::size_t s = 0; s < table; ++s) out[s] = static_cast<u8>(length[2 * s] | length[2 * s + 1] << 4);
    u8* p = out + table;
    u64 held = 0;
    u32 used = 0;
    for (i = 0; i < n; ++i) {
        held |= u64(bits[in[i]]) << used;
        used += length[in[i]];
        for (; used >= 8; used -= 8, held >>= 8) *p++ = static_cast<u8>(held);
    }
    if (used) *p++ = static_cast<u8>(held);
    return need;
}

bool huffman_decode(const u8* in, std::size_t size, u8* out, std::size_t n) {
    if (size < table) return false;
    u8 length[256];
    u16 bits[256] = {};
    u32 sum = 0, used = 0;
    for (std::size_t s = 0; s < 256; ++s) {
        length[s] = in[s / 2] >> (s & 1) * 4 & 15;
        if (length[s] > limit) return false;
        sum += length[s] ? 4096u >> length[s] : 0;
        used += length[s] != 0;
    }
    if (!n) return !used && size == table;
    if (sum != 4096 && !(used == 1 && sum == 2048)) return false;
    canonical<256, limit>(length, bits);
    u16 find[4096] = {};  // symbol | length << 8
    for (u32 s = 0; s < 256; ++s)
        if (const u32 l = length[s])
            for (u32 k = used == 1 ? 0 : bits[s]; k < 4096; k += used == 1 ? 1 : 1u << l) find[k] = static_cast<u16>(s | l << 8);
    const u8 *p = in + table, *end = in + size;
    u64 held = 0;
    u32 left = 0;
    for (std::size_t i = 0; i < n; ++i) {
        for (; left < limit && p < end; left += 8) held |= u64(*p++) << left;
        const u32 entry = find[held & 4095], l = entry >> 8;
        if (l > left) return false;
        out[i] = static_cast<u8>(entry);
        held >>= l;
        left -= l;
    }
    return p == end && left < 8 && !held;
}

}  // namespace engine::entropy
