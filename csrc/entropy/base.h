#pragma once
#include "entropy/code.h"

namespace engine::entropy::base {

// Values [start, stop), last first, each on lane (place mod count).
inline void one_emit(const u32* value, const u8* symbol, std::size_t start, std::size_t stop, const Code& code, u32 count, Lanes& lanes, u32*& word, u32*& odd) {
    for (std::size_t i = stop; i-- > start;) {
        const std::size_t k = i & (count - 1);
        u64 held = u64(lanes.hi[k]) << 32 | lanes.lo[k];
        u32 left = lanes.left[k], z = value[i];
        const u32 s = symbol[i];
        if (s == rare) { *--odd = z; z = 0; }
        const u32 bits = entropy::width_of(z), offset = bits ? bits - 1 : 0, size = code.length[s] + offset;
        const u64 v = code.bits[s] | (u64(z) & ((u64(1) << offset) - 1)) << code.length[s];
        if (left + size > 64) {
            left -= 32;
            *--word = static_cast<u32>(held >> left);
            held &= (u64(1) << left) - 1;
        }
        held = held << size | v;
        lanes.lo[k] = static_cast<u32>(held);
        lanes.hi[k] = static_cast<u32>(held >> 32);
        lanes.left[k] = left + size;
    }
}

// Every step checked: what is left of a block, and blocks of one lane.
inline void one_run(Decoder& d, const u8* cond, u32* value, std::size_t start, std::size_t stop) {
    for (std::size_t i = start; i < stop; ++i) {
        const std::size_t k = (d.done + i) & (d.count - 1);
        u64 held = u64(d.lanes.hi[k]) << 32 | d.lanes.lo[k];
        const u32 s = d.symbol[held & 127], size = d.length[s];
        u32 offset = 0, z = 0;
        if (s == rare) {
            if (d.odd == d.odd_end) { d.bad = true; return; }
            z = load32(d.odd);
            d.odd += 4;
        } else if (s) {
            offset = s + d.base - 2 - (cond ? cond[i] : 0);
            if (offset >= widest) { d.bad = true; return; }
            z = static_cast<u32>(held >> size & ((u64(1) << offset) - 1)) | 1u << offset;
        }
        held >>= size + offset;
        u32 left = d.lanes.left[k] - size - offset;
        if (left <= 32) {
            if (d.word == d.end) { d.bad = true; return; }
            held |= u64(load32(d.word)) << left;
            d.word += 4;
            left += 32;
        }
        d.lanes.lo[k] = static_cast<u32>(held);
        d.lanes.hi[k] = static_cast<u32>(held >> 32);
        d.lanes.left[k] = left;
        value[i] = z;
    }
    d.done += stop;
}

inline void classes(const u32* value, const u8* cond, std::size_t n, u32 base, u8* symbol) {
    for (std::size_t i = 0; i < n; ++i) {
        const u32 bits = entropy::width_of(value[i]), s = bits + (cond ? cond[i] : 0) - (base - 1);
        symbol[i] = static_cast<u8>(!value[i] ? 0 : s - 1 > window - 1 || bits > widest ? rare : s);
    }
}

inline void emit(const u32* value, const u8* symbol, std::size_t n, const Code& code, u32 count, Lanes& lanes, u32*& word, u32*& odd) {
    one_emit(value, symbol, 0, n, code, count, lanes, word, odd);
}

inline void run(Decoder& d, const u8* cond, u32* value, std::size_t n) { one_run(d, cond, value, 0, n); }

inline std::size_t runs(const u32* __restrict index, std::size_t n, bool& ascending) {
    u32 broken = 0, next = 0;
    for (std::size_t i = 1; i < n; ++i) {
        broken |= index[i] <= index[i - 1];
        next += index[i] - index[i - 1] == 1;
    }
    ascending = !broken;
    return n - next;
}

inline void gaps(const u32* index, std::size_t n, u32 before, u32* gap) {
    for (std::size_t i = 0; i < n; before = index[i++]) gap[i] = index[i] - before - 1;
}

inline bool ungaps(u32* index, std::size_t n, u32 before) {
    bool first = before == ~u32(0), ok = true;
    for (std::size_t i = 0; i < n; ++i, first = false) {
        const u32 at = before + index[i] + 1;
        ok &= first || at > before;
        index[i] = before = at;
    }
    return ok;
}

}  // namespace engine::entropy::base
