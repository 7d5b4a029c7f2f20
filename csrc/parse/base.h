#pragma once
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "parse/ops.h"

namespace engine::parse::base {

using Byte = std::uint8_t;

inline std::int64_t count(const Byte* data, std::size_t size, Byte byte) {
    std::int64_t n = 0;
    for (std::size_t i = 0; i < size; ++i) n += data[i] == byte;
    return n;
}

inline std::uint64_t mix(std::uint64_t x) {  // splitmix64 finaliser
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

inline bool digit(Byte c) { return static_cast<Byte>(c - '0') < 10; }
inline bool blank(Byte c) { return c == ' ' || c == '\t' || c == '\r'; }

inline constexpr double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

inline float signed_of(double value, bool minus) {  // without a branch: signs are not foreseen
    const float size = static_cast<float>(value);
    std::uint32_t bits;
    std::memcpy(&bits, &size, 4);
    bits |= static_cast<std::uint32_t>(minus) << 31;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

// float(the double nearest m / 10^k), k in 0..22. The quotient is within two units of that double, so both give the same
// float unless a boundary between floats is near: false then (one number in 2^24).
inline bool nearest(std::uint64_t m, std::int64_t k, bool minus, float& out) {
    const double value = static_cast<double>(m) / tens[k];
    std::uint64_t bits;
    std::memcpy(&bits, &value, 8);
    if (static_cast<std::uint32_t>(bits & 0x1FFFFFFF) - 0x0FFFFFF0u <= 0x20) return false;
    out = signed_of(value, minus);
    return true;
}

// The decimal number at `p`, as float(double): exact by Clinger's fast path (PLDI 1990), else std::from_chars.
// Returns the first byte after it, or null where there is no number; overflow gives an infinity.
inline const Byte* real(const Byte* p, const Byte* end, float& out) {
    const Byte* start = p;
    bool minus = false;
    if (p < end && (*p == '-' || *p == '+')) minus = *p++ == '-';
    const Byte* body = p;
    std::uint64_t m = 0;
    const Byte* from = p;
    while (p < end && digit(*p)) m = m * 10 + (*p++ - '0');
    std::int64_t digits = p - from, whole = digits, power = 0;
    if (p < end && *p == '.') {
        from = ++p;
        while (p < end && digit(*p)) m = m * 10 + (*p++ - '0');
        power = from - p;
        digits += p - from;
    }
    if (!digits) return nullptr;
    std::int64_t shift = 0;
    if (p < end && (*p | 32) == 'e') {
        const Byte* q = p + 1;
        bool down = false;
        if (q < end && (*q == '-' || *q == '+')) down = *q++ == '-';
        if (q == end || !digit(*q)) return nullptr;
        for (; q < end && digit(*q); ++q) shift = shift < 100000000 ? shift * 10 + (*q - '0') : shift;
        if (down) shift = -shift;
        power += shift;
        p = q;
    }
    double value;
    if (digits <= 19 && power <= 0 && power >= -22 && m >> 53 && nearest(m, -power, minus, out)) return p;
    if (digits <= 18 && m < (1ull << 53) && power >= -22 && power <= 22) {
        value = static_cast<double>(m);
        value = power < 0 ? value / tens[-power] : value * tens[power];
    } else {
        const char* text = reinterpret_cast<const char*>(body);
        const auto r = std::from_chars(text, reinterpret_cast<const char*>(p), value);
        if (r.ec == std::errc::result_out_of_range) {  // first nonzero digit decides between 0 and infinity
            std::int64_t place = whole;
            for (const Byte* q = body; q < p && (*q == '0' || *q == '.'); ++q) place -= *q == '0';
            value = place + shift > 0 ? std::numeric_limits<double>::infinity() : 0;
        } else if (r.ec != std::errc()) {
            return nullptr;
        }
    }
    out = signed_of(value, minus);
    return p == start ? nullptr : p;
}

// [s, e) is one finite number.
inline bool plain(const Byte* s, const Byte* e, float& out) { return s < e && real(s, e, out) == e && std::isfinite(out); }

struct Sink {  // rows kept and rows refused
    const Out& out;
    const Byte* data;
    Result done{0, 0, 1};
    void refuse(std::int64_t offset, std::int64_t column, std::int64_t code) {
        std::int64_t n = 0;
        for (int c = 0; c < 8; ++c) n += out.tally[c];
        if (n < out.bad_room) {
            std::int64_t* row = out.bad + 3 * n;
            row[0] = offset, row[1] = column, row[2] = code;
        }
        ++out.tally[code];
    }
};

inline const Byte* line_end(const Byte* p, const Byte* end) {
    const void* hit = p < end ? std::memchr(p, '\n', static_cast<std::size_t>(end - p)) : nullptr;
    return hit ? static_cast<const Byte*>(hit) : end;
}

}  // namespace engine::parse::base
