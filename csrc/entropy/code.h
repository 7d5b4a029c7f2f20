#pragma once
#include <algorithm>
#include <cstring>

#include "entropy/ops.h"

namespace engine::entropy {

// Optimal prefix code lengths <= limit by package-merge (Larmore and Hirschberg 1990); ties by symbol, then leaf before
// package, so that every backend builds the same code. One symbol gets length 1.
template <int symbols, int limit, class Count>
inline void lengths(const Count* count, u8* length) {
    struct Leaf { u64 weight; int symbol; } leaf[symbols];
    static_assert(symbols <= 256 && limit <= 16);
    int m = 0;
    for (int s = 0; s < symbols; ++s) {
        length[s] = 0;
        if (count[s]) leaf[m++] = {count[s], s};
    }
    std::sort(leaf, leaf + m, [](const Leaf& a, const Leaf& b) { return a.weight != b.weight ? a.weight < b.weight : a.symbol < b.symbol; });
    if (m == 1) length[leaf[0].symbol] = 1;
    if (m < 2) return;
    bool package[limit][2 * symbols];
    u64 weight[2][2 * symbols];
    int held = m;
    for (int i = 0; i < m; ++i) { weight[0][i] = leaf[i].weight; package[0][i] = false; }
    for (int level = 1; level < limit; ++level) {
        const u64* last = weight[(level - 1) & 1];
        u64* now = weight[level & 1];
        const int pairs = held / 2;
        int i = 0, p = 0, at = 0;
        while (i < m || p < pairs) {
            const bool pack = i == m || (p < pairs && last[2 * p] + last[2 * p + 1] < leaf[i].weight);
            now[at] = pack ? last[2 * p] + last[2 * p + 1] : leaf[i].weight;
            package[level][at++] = pack;
            pack ? ++p : ++i;
        }
        held = at;
    }
    int take = 2 * (m - 1);
    for (int level = limit - 1; level >= 0 && take; --level) {
        int packed = 0;
        for (int i = 0; i < take; ++i) packed += package[level][i];
        for (int i = 0; i < take - packed; ++i) ++length[leaf[i].symbol];
        take = 2 * packed;
    }
}

// Canonical codes, shorter first, then by symbol; reversed, so that bits are read from the low end.
template <int symbols, int limit, class Bits>
inline void canonical(const u8* length, Bits* bits) {
    u32 code = 0;
    for (int l = 1; l <= limit; ++l, code <<= 1)
        for (int s = 0; s < symbols; ++s)
            if (length[s] == l) {
                u32 turned = 0;
                for (int b = 0; b < l; ++b) turned |= (code >> b & 1) << (l - 1 - b);
                bits[s] = static_cast<Bits>(turned);
                ++code;
            }
}

inline u32 width_of(u32 value) { return value ? 32 - static_cast<u32>(__builtin_clz(value)) : 0; }
inline u32 load32(const u8* p) { u32 v; std::memcpy(&v, p, 4); return v; }

}  // namespace engine::entropy
