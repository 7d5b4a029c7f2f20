// One field of each row, read apart from the others: event times as microseconds, ids as hashes.
#include "parse/csv.h"

namespace engine::parse {

using base::Byte;
using base::digit;
using base::Field;

// The field of `column` in the record at `p`; false where it has fewer.
static bool seek(const Byte* p, const Byte* stop, const Csv& plan, std::int64_t column, Field& out) {
    for (std::int64_t c = 0;; ++c) {
        out = base::field(p, stop, plan);
        if (!out.begin || c == column) return out.begin != nullptr;
        if (p == stop || *p == '\n') return false;
        ++p;
    }
}

static bool whole(const Byte*& p, const Byte* end, int digits, std::int64_t& out) {
    out = 0;
    for (int i = 0; i < digits; ++i, ++p) {
        if (p == end || !digit(*p)) return false;
        out = out * 10 + (*p - '0');
    }
    return true;
}

// Days from 1970-01-01 to a day of the proleptic Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
static std::int64_t days(std::int64_t y, std::int64_t m, std::int64_t d) {
    y -= m <= 2;
    const std::int64_t era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400;
    const std::int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

// ISO 8601: YYYY-MM-DD, then perhaps T or a blank, hh:mm, :ss, a fraction, and Z, +hh, +hhmm or +hh:mm; without a zone, UTC.
static bool iso(const Byte* p, const Byte* end, std::int64_t& out) {
    std::int64_t year, month, day, hour = 0, minute = 0, second = 0, micro = 0, shift = 0;
    if (!whole(p, end, 4, year) || p == end || *p++ != '-' || !whole(p, end, 2, month) || p == end || *p++ != '-' || !whole(p, end, 2, day)) return false;
    if (month < 1 || month > 12 || day < 1 || day > 31) return false;
    if (p < end) {
        if (*p != 'T' && *p != 't' && *p != ' ') return false;
        if (!whole(++p, end, 2, hour) || p == end || *p++ != ':' || !whole(p, end, 2, minute)) return false;
        if (p < end && *p == ':' && !whole(++p, end, 2, second)) return false;
        if (p < end && (*p == '.' || *p == ',')) {
            std::int64_t unit = 100000;
            for (++p; p < end && digit(*p); ++p, unit /= 10) micro += (*p - '0') * unit;
        }
        if (p < end && (*p == 'Z' || *p == 'z')) ++p;
        else if (p < end && (*p == '+' || *p == '-')) {
            const bool west = *p++ == '-';
            std::int64_t h, m = 0;
            if (!whole(p, end, 2, h)) return false;
            if (p < end && *p == ':') ++p;
            if (p < end && !whole(p, end, 2, m)) return false;
            shift = (h * 60 + m) * (west ? -1 : 1);
        }
        if (hour > 24 || minute > 59 || second > 60) return false;
    }
    out = (((days(year, month, day) * 24 + hour) * 60 + minute - shift) * 60 + second) * 1000000 + micro;
    return p == end;
}

static bool counted(const Byte* p, const Byte* end, double scale, std::int64_t& out) {
    double value;
    p += p < end && *p == '+';
    const auto [stop, fault] = std::from_chars(reinterpret_cast<const char*>(p), reinterpret_cast<const char*>(end), value);
    if (fault != std::errc() || reinterpret_cast<const Byte*>(stop) != end) return false;
    value *= scale;
    if (!(std::fabs(value) < 9.2e18)) return false;
    out = std::llrint(value);
    return true;
}

std::int64_t times(const Byte* data, std::size_t size, const std::int64_t* at, std::int64_t rows, const Csv& plan, std::int64_t column,
                   double scale, std::int64_t* out) {
    std::int64_t missing = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
        Field f;
        const bool found = seek(data + at[i], data + size, plan, column, f) && f.begin < f.end &&
                           (counted(f.begin, f.end, scale, out[i]) || iso(f.begin, f.end, out[i]));
        if (!found) out[i] = no_time, ++missing;
    }
    return missing;
}

std::int64_t names(const Byte* data, std::size_t size, const std::int64_t* at, std::int64_t rows, const Csv& plan, std::int64_t column,
                   std::uint64_t* out) {
    std::int64_t missing = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
        Field f;
        const bool found = seek(data + at[i], data + size, plan, column, f) && f.begin < f.end;
        out[i] = found ? base::text_hash(f, 0) | 1 : 0;  // never 0, which is a row without an id
        missing += !found;
    }
    return missing;
}

}  // namespace engine::parse
