#pragma once
#include "parse/base.h"

namespace engine::parse::base {

// Values of 1 are not written while all values are 1; the first other value makes up for it.
struct Filled {
    float* values;
    std::int64_t done = 0;
    // Forgets what a row that was then refused has had written: its places are used again.
    void begin(std::int64_t nnz) {
        if (done > nnz) done = nnz;
    }
    void up_to(std::int64_t n) {
        while (done < n) values[done++] = 1;
    }
};

struct Keys { std::int64_t first; int mode; std::uint32_t mask; };

// One row's `key:value` pairs from `p` to `end`; the code of the first fault, or 0.
inline std::int64_t pairs(const Byte* p, const Byte* end, const Keys& k, const Out& out, std::int64_t& nnz, bool& ones, std::int64_t& column) {
    for (column = 1;; ++column) {
        while (p < end && blank(*p)) ++p;
        if (p == end || *p == '#') return 0;
        if (end - p > 4 && !std::memcmp(p, "qid:", 4)) {
            while (p < end && !blank(*p)) ++p;
            continue;
        }
        const Byte* from = p;
        std::uint64_t index = 0;
        while (p < end && digit(*p)) index = index * 10 + (*p++ - '0');
        if (p == from || p == end || *p != ':') return number;
        if (p - from > 18 || index < static_cast<std::uint64_t>(k.first)) return key;
        index -= static_cast<std::uint64_t>(k.first);
        if (k.mode == hashed) index = mix(index);
        if (k.mode == exact && index > k.mask) return key;
        ++p;
        float value;
        if (end - p >= 1 && *p == '1' && (p + 1 == end || blank(p[1]))) {
            value = 1, ++p;
        } else {
            p = real(p, end, value);
            if (!p || (p < end && !blank(*p))) return number;
            if (!std::isfinite(value)) return finite;
            ones &= value == 1;
        }
        out.keys[nnz] = static_cast<std::uint32_t>(index) & k.mask;
        out.values[nnz++] = value;
    }
}

// The row of the line [line, end), its numbers of any form; counts it, or refuses it.
inline void row(const Byte* data, const Byte* line, const Byte* end, const Keys& k, Filled& filled, Sink& sink) {
    const Byte* q = line;
    while (q < end && blank(*q)) ++q;
    if (q == end || *q == '#') return;
    float y;
    const Out& out = sink.out;
    std::int64_t nnz = sink.done.nnz, column = 0, code = 0;
    bool ones = sink.done.ones;
    filled.begin(nnz);
    q = real(q, end, y);
    if (!q || (q < end && !blank(*q))) code = number;
    else if (!std::isfinite(y)) code = finite;
    else code = pairs(q, end, k, out, nnz, ones, column);
    if (code) return sink.refuse(line - data, column, code);
    if (sink.done.ones && !ones) filled.up_to(sink.done.nnz);
    out.y[sink.done.rows] = y;
    out.at[sink.done.rows] = line - data;
    out.indptr[++sink.done.rows] = sink.done.nnz = nnz;
    sink.done.ones = ones;
}

}  // namespace engine::parse::base
