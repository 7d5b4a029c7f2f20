#include "serve/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace engine::serve {

namespace {

using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
constexpr std::size_t planes = 4;
constexpr double worth = 7.5;  // bits a byte above which a plane goes as it is

struct Writer {
    u8* at;
    void bytes(const void* from, std::size_t n) { std::memcpy(at, from, n), at += n; }
    void word(std::size_t v) { const auto w = static_cast<u32>(v); bytes(&w, 4); }
};

struct Reader {
    const u8 *at, *end;
    std::size_t left() const { return static_cast<std::size_t>(end - at); }
    bool word(u32& v) {
        if (left() < 4) return false;
        std::memcpy(&v, at, 4), at += 4;
        return true;
    }
    const u8* bytes(std::size_t n) {
        if (left() < n) return nullptr;
        at += n;
        return at - n;
    }
};

// Whole numbers as their distance to the least one, class-coded; as they are where that is longer.
void numbers(const delta::Tools& tools, const u32* value, std::size_t n, Writer& w, Packing& work) {
    const u32 least = n ? *std::min_element(value, value + n) : 0;
    for (std::size_t i = 0; i < n; ++i) work.number[i] = value[i] - least;
    const std::size_t size = entropy::encode_all(tools.entropy, work.number, nullptr, n, work.code, 4 * n, work.delta.code);
    w.word(least), w.word(size);
    if (size) w.bytes(work.code, size);
    else w.bytes(value, 4 * n);
}

bool numbers(const delta::Tools& tools, Reader& r, std::size_t n, u32* value) {
    u32 least, size;
    if (!r.word(least) || !r.word(size)) return false;
    const u8* from = r.bytes(size ? size : 4 * n);
    if (!from) return false;
    if (!size) return std::memcpy(value, from, 4 * n), true;
    if (entropy::decode_all(tools.entropy, from, size, nullptr, value, n) != size) return false;
    for (std::size_t i = 0; i < n; ++i) value[i] += least;
    return true;
}

bool packs(const u8* plane, std::size_t n) {  // by the entropy of a sample
    u32 count[256] = {};
    const std::size_t step = n > 4096 ? n / 4096 : 1;
    std::size_t all = 0;
    for (std::size_t i = 0; i < n; i += step, ++all) ++count[plane[i]];
    double bits = 0;
    for (const u32 c : count)
        if (c) bits += c * std::log2(double(all) / c);
    return bits < worth * double(all);
}

void alone(const float* values, std::size_t m, Writer& w, Packing& work) {
    const auto* from = reinterpret_cast<const u8*>(values);
    u8* plane = work.plane[0];
    for (std::size_t p = 0; p < planes; ++p) {
        for (std::size_t i = 0; i < m; ++i) plane[i] = from[4 * i + p];
        const std::size_t size = packs(plane, m) ? entropy::huffman_encode(plane, m, work.code, m - m / 16) : 0;
        w.word(size);
        w.bytes(size ? work.code : plane, size ? size : m);
    }
}

bool alone(Reader& r, float* values, std::size_t m, Packing& work) {
    const u8* part[planes];
    for (std::size_t p = 0; p < planes; ++p) {
        u32 size;
        if (!r.word(size)) return false;
        part[p] = r.bytes(size ? size : m);
        if (!part[p]) return false;
        if (!size) continue;
        if (!entropy::huffman_decode(part[p], size, work.plane[p], m)) return false;
        part[p] = work.plane[p];
    }
    if (r.at != r.end) return false;
    auto* to = reinterpret_cast<u32*>(values);
    const u8 *a = part[0], *b = part[1], *c = part[2], *d = part[3];
    for (std::size_t i = 0; i < m; ++i) to[i] = u32(a[i]) | u32(b[i]) << 8 | u32(c[i]) << 16 | u32(d[i]) << 24;
    return true;
}

delta::Job job_of(const float* now, const float* base, std::size_t m) {
    return {delta::Kind::single, reinterpret_cast<const u8*>(now), reinterpret_cast<const u8*>(base), nullptr, 0, 0, false, 0, m, std::max<std::size_t>(m, 1)};
}

}  // namespace

std::size_t pack_bound(std::size_t n, std::size_t width) { return 64 + n * (8 + 4 * 3) + 3 * 8 + planes * 4 + delta::bound(job_of(nullptr, nullptr, n * width)) + sizeof(delta::Row); }

std::size_t pack(const delta::Tools& tools, const Parcel& rows, u8* out, Packing& work) {
    Writer w{out};
    const bool against = rows.base != nullptr;
    w.word(against);
    w.bytes(rows.keys, 8 * rows.n);
    numbers(tools, rows.versions, rows.n, w, work);
    numbers(tools, rows.clocks, rows.n, w, work);
    const std::size_t m = rows.n * rows.width;
    if (!against) {
        alone(rows.values, m, w, work);
        return static_cast<std::size_t>(w.at - out);
    }
    for (std::size_t i = 0; i < rows.n; ++i) work.base_versions[i] = rows.versions[i] - rows.base_versions[i];
    numbers(tools, work.base_versions, rows.n, w, work);
    delta::Row row{};
    const auto job = job_of(rows.values, rows.base, m);
    const std::size_t size = delta::encode(tools, job, work.code, delta::bound(job), &row, nullptr, work.delta);
    w.bytes(&row, sizeof row), w.bytes(work.code, size);
    return static_cast<std::size_t>(w.at - out);
}

bool unpack_head(const delta::Tools& tools, const u8* in, std::size_t size, std::size_t n, std::size_t width, Packing& work) {
    Reader r{in, in + size};
    u32 against;
    if (!n || n > most_rows || n * width > most_values || !r.word(against) || against > 1) return false;
    const u8* keys = r.bytes(8 * n);
    if (!keys) return false;
    std::memcpy(work.keys, keys, 8 * n);
    if (!numbers(tools, r, n, work.versions) || !numbers(tools, r, n, work.clocks)) return false;
    work.against = against;
    if (against) {
        if (!numbers(tools, r, n, work.base_versions)) return false;
        for (std::size_t i = 0; i < n; ++i) work.base_versions[i] = work.versions[i] - work.base_versions[i];
    }
    work.rest = r.at, work.end = r.end;
    return true;
}

bool unpack_values(const delta::Tools& tools, std::size_t n, std::size_t width, Packing& work) {
    Reader r{work.rest, work.end};
    const std::size_t m = n * width;
    if (!work.against) return alone(r, work.values, m, work);
    delta::Row row;
    const u8* table = r.bytes(sizeof row);
    if (!table) return false;
    std::memcpy(&row, table, sizeof row);
    const std::size_t padded = (std::size_t(row.length) + 63) / 64 * 64;
    const u32 mode = row.mode & 0xff;
    if (row.offset || r.left() != padded || padded > sizeof work.code || mode == delta::keyframe || mode == delta::lossy) return false;
    std::memcpy(work.code, r.at, padded);
    const auto job = job_of(nullptr, work.base, m);
    return delta::decode(tools, job, 0, m, row, work.code, reinterpret_cast<u8*>(work.values), work.delta) == delta::fine;
}

}  // namespace engine::serve
