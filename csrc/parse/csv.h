#pragma once
#include "parse/base.h"

namespace engine::parse::base {

struct Field { const Byte *begin, *end; bool quoted, escaped; };  // text, quotes taken off; escaped: holds ""

// The field at `p`; `p` moves to its delimiter, line end or `end`. Null-begin: the quote does not close, or text follows it.
inline Field field(const Byte*& p, const Byte* end, const Csv& plan) {
    const Byte* from = p;
    while (from < end && *from == ' ' && plan.delimiter != ' ') ++from;
    if (from < end && *from == '"') {
        bool escaped = false;
        for (p = ++from; p < end; ++p) {
            if (*p == '\n' && plan.lines) return {nullptr, nullptr, true, false};
            if (*p != '"') continue;
            if (p + 1 < end && p[1] == '"') { ++p; escaped = true; continue; }
            const Byte* close = p++;
            while (p < end && (*p == ' ' || *p == '\r') && *p != plan.delimiter) ++p;
            if (p < end && *p != plan.delimiter && *p != '\n') return {nullptr, nullptr, true, false};
            return {from, close, true, escaped};
        }
        return {nullptr, nullptr, true, false};
    }
    for (p = from; p < end && *p != plan.delimiter && *p != '\n';) ++p;
    const Byte* to = p;
    while (to > from && blank(to[-1])) --to;
    return {from, to, false, false};
}

inline bool same(const Byte* p, std::size_t size, const char* word) {
    if (std::strlen(word) != size) return false;
    for (std::size_t i = 0; i < size; ++i)
        if ((p[i] | 32) != word[i]) return false;
    return true;
}

inline bool missing(const Field& f) {
    const auto n = static_cast<std::size_t>(f.end - f.begin);
    return n == 0 || (n == 1 && *f.begin == '?') || same(f.begin, n, "na") || same(f.begin, n, "nan") ||
           (n == 3 && same(f.begin, 1, "n") && f.begin[1] == '/' && same(f.begin + 2, 1, "a")) || same(f.begin, n, "null");
}

inline std::int64_t decimal(const Field& f, float& out) {
    const Byte* stop = f.begin < f.end ? real(f.begin, f.end, out) : nullptr;
    if (stop == f.end && stop && std::isfinite(out)) return 0;
    if (stop == f.end && stop) return finite;
    if (missing(f)) { out = std::numeric_limits<float>::quiet_NaN(); return 0; }
    const Byte* p = f.begin;
    if (*p == '-' || *p == '+') ++p;
    const auto n = static_cast<std::size_t>(f.end - p);
    return same(p, n, "inf") || same(p, n, "infinity") ? finite : number;
}

inline std::uint64_t text_hash(const Field& f, std::uint64_t seed) {  // FNV-1a, then splitmix64's finaliser
    std::uint64_t h = seed ^ 0xCBF29CE484222325ull;
    for (const Byte* p = f.begin; p < f.end; ++p) {
        h = (h ^ *p) * 0x100000001B3ull;
        p += f.escaped && *p == '"';
    }
    return mix(h);
}

inline bool equal(const Field& f, const Byte* text, std::int64_t size) {
    for (const Byte* p = f.begin; p < f.end; ++p) {
        if (!size-- || *p != *text++) return false;
        p += f.escaped && *p == '"';
    }
    return size == 0;
}

inline std::int64_t class_of(const Field& f, const Csv& plan, float& y) {
    if (missing(f)) { y = std::numeric_limits<float>::quiet_NaN(); return 0; }
    std::int64_t from = 0;
    for (std::int64_t c = 0; c < plan.label_count; from = plan.ends[c++])
        if (equal(f, plan.labels + from, plan.ends[c] - from)) { y = static_cast<float>(c); return 0; }
    return label;
}

struct Row { float y; float* x; std::int64_t nnz; };

inline std::int64_t cell(const Field& f, std::int64_t column, const Csv& plan, const Out& out, Row& row) {
    float value = 1;
    std::int64_t code = 0;
    switch (plan.kinds[column]) {
        case target: return decimal(f, row.y);
        case target_text: return class_of(f, plan, row.y);
        case numeric:
            if ((code = decimal(f, value))) return code;
            if (out.x) { *row.x++ = value; return 0; }
            out.keys[row.nnz] = static_cast<std::uint32_t>(mix(plan.seeds[column])) & plan.mask;
            out.values[row.nnz++] = value;
            return 0;
        case categorical:
            if (missing(f)) return 0;
            out.keys[row.nnz] = static_cast<std::uint32_t>(text_hash(f, plan.seeds[column])) & plan.mask;
            out.values[row.nnz++] = 1;
            return 0;
        case words:
            row.nnz = engine::text::grams(f.begin, f.end, *plan.grams, plan.seeds[column], plan.mask, *plan.seen, out.keys, out.values, row.nnz);
            return 0;
        default: return 0;
    }
}

// One record from `p`, which moves past its line end; the code of its first fault, or 0.
inline std::int64_t record(const Byte*& p, const Byte* stop, const Csv& plan, const Out& out, Row& row, std::int64_t& column) {
    for (column = 0;; ++column) {
        const Field f = field(p, stop, plan);
        const bool last = p == stop || *p == '\n';
        std::int64_t code = !f.begin ? std::int64_t{quote}
                          : column >= plan.columns ? std::int64_t{many}
                                                    : cell(f, column, plan, out, row);
        if (!code && last && column + 1 < plan.columns) code = few, ++column;
        if (code) {
            p = line_end(p, stop);
            p += p < stop;
            return code;
        }
        p += p < stop;
        if (last) return 0;
    }
}

// A line without columns: a label up to the first blank or tab (none where it begins with one), then text.
inline std::int64_t document(const Byte*& p, const Byte* stop, const Csv& plan, const Out& out, Row& row, std::int64_t& column) {
    const Byte *end = line_end(p, stop), *to = p;
    while (to < end && !blank(*to)) ++to;
    const Field label{p, to, false, false}, rest{to, end, false, false};
    p = end + (end < stop);
    column = 0;
    if (const auto code = cell(label, column, plan, out, row)) return code;
    return cell(rest, ++column, plan, out, row);
}

// The record at `p`, which moves past its line end; counts it, or refuses it. A line of nothing is passed over.
inline void row(const Byte* data, const Byte*& p, const Byte* stop, const Csv& plan, Sink& sink) {
    const Byte* line = p;
    while (p < stop && *p == '\r') ++p;
    if (p == stop) return;
    if (*p == '\n') { ++p; return; }
    const Out& out = sink.out;
    std::int64_t& rows = sink.done.rows;
    Row row{std::numeric_limits<float>::quiet_NaN(), out.x ? out.x + rows * plan.width : nullptr, sink.done.nnz};
    std::int64_t column;
    if (const auto code = plan.delimiter ? record(p, stop, plan, out, row, column) : document(p, stop, plan, out, row, column)) return sink.refuse(line - data, column, code);
    out.y[rows] = row.y;
    out.at[rows++] = line - data;
    if (out.indptr) out.indptr[rows] = sink.done.nnz = row.nnz;
}

}  // namespace engine::parse::base
