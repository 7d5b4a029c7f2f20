// Column = blocks of up to 65536 elements. Block = form u8 | order u8 | decimals u8 | flags u8 | exceptions u32 | bytes of
// their set u32 | changes coded u32 | bytes of their set u32 | 0 u32 | step f64 | set and bytes of the exceptions, set of the
// changes, low and high halves; each filled up to 4.
#include "delta/series.h"

#include "delta/base.h"
#include "entropy/code.h"

namespace engine::delta {

namespace base {
#include "delta/series_loops.h"
}
#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,bmi2,popcnt,lzcnt")
namespace series_avx2 {
#include "delta/loops.h"
#include "delta/series_loops.h"
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vbmi,avx512vbmi2,prefer-vector-width=512")
namespace series_avx512 {
#include "delta/loops.h"
#include "delta/series_loops.h"
}
#pragma GCC pop_options
#endif

namespace {

enum Form : u8 { whole_numbers, decimals, bounded };
enum Flag : u8 { no_high = 1, few = 2 };
constexpr std::size_t head = 32, trial = 1024, digits_limit = 10;
constexpr double powers[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10};

std::size_t filled(std::size_t size) { return (size + 3) / 4 * 4; }
void put32(u8* p, std::size_t v) { const auto w = static_cast<u32>(v); std::memcpy(p, &w, 4); }

struct Writer {
    const Tools& tools;
    const Series& ops;
    Kind kind;
    SeriesWork& work;
    u8* out;
    std::size_t room, used = 0;
    std::size_t width = widths[static_cast<u32>(kind)];
    i64* k = work.held + 2;
    Form form = whole_numbers;
    int grade = 0, digits = 0;
    double scale = 1, step = 1, limit = 0;

    bool add(const void* from, std::size_t size) {
        if (filled(size) > room - used) return false;
        std::memcpy(out + used, from, size);
        std::memset(out + used + size, 0, filled(size) - size);
        used += filled(size);
        return true;
    }
    bool code(const u32* value, std::size_t n) {
        const auto size = entropy::encode(tools.entropy, value, nullptr, n, out + used, room - used, work.code);
        used += size;
        return size;
    }

    // Fewest decimals that a sample of floats has, if it has: integers then have small differences.
    void sample_form(const u8* in, std::size_t n, double bound) {
        if (kind != Kind::single && kind != Kind::twice) return;
        if (bound > 0) {
            form = bounded;
            limit = kind == Kind::single ? below<float>(bound) : bound;
            step = 2 * limit;
            scale = 1 / step;
            return;
        }
        const std::size_t m = std::min<std::size_t>(n, 512);
        for (std::size_t d = 0; d <= digits_limit; ++d)
            if (ops.steps(kind, in, m, true, powers[d], 1, 0, k, work.bad) <= m / 32) {
                form = decimals;
                digits = static_cast<int>(d);
                scale = powers[d];
                return;
            }
    }

    // Elements to k; places and bytes of those that are not in `form` follow the head. Returns how many.
    std::size_t take(const u8* in, std::size_t n) {
        if (form == whole_numbers) {
            ops.whole(kind, in, n, k);
            return 0;
        }
        const auto wrong = ops.steps(kind, in, n, form == decimals, scale, step, limit, k, work.bad);
        if (wrong) {
            std::size_t count = 0;
            for (std::size_t i = 0; i < n; ++i) {
                work.index[count] = static_cast<u32>(i);
                count += work.bad[i];
                if (work.bad[i]) k[i] = k[static_cast<std::ptrdiff_t>(i) - 1];
            }
        }
        return wrong;
    }

    void pick_grade(std::size_t n) {
        u64 best = ~u64(0);
        const std::size_t m = std::min(n, trial);
        for (int g = 0; g < 3; ++g) {
            ops.gaps(g, k, m, work.z[0], work.z[1]);
            u64 bits = 0;
            for (std::size_t i = 0; i < m; ++i) bits += entropy::width_of(work.z[0][i]) + (work.z[1][i] ? 32 : 0) + entropy::width_of(work.z[1][i]);
            if (bits < best) {
                best = bits;
                grade = g;
            }
        }
    }

    // Places in work.index as a set, behind what is there; its bytes, 0 where there are none or it does not fit.
    std::size_t places(std::size_t count, std::size_t n) {
        const auto size = entropy::index_encode(tools.entropy, work.index, count, n, false, work.set, sizeof work.set, work.code);
        return size && add(work.set, size) ? size : 0;
    }

    bool exact(const u8* in, std::size_t count) {
        if (filled(count * width) > room - used) return false;
        u8* p = out + used;
        for (std::size_t i = 0; i < count; ++i) std::memcpy(p + i * width, in + work.index[i] * width, width);
        std::memset(p + count * width, 0, filled(count * width) - count * width);
        used += filled(count * width);
        return true;
    }

    // Places and values of the changes.
    std::size_t pick(std::size_t n) {
        std::size_t at = 0;
        for (std::size_t i = 0; i < n; ++i) {
            work.index[at] = static_cast<u32>(i);
            work.change[0][at] = work.z[0][i];
            work.change[1][at] = work.z[1][i];
            at += (work.z[0][i] | work.z[1][i]) != 0;
        }
        return at;
    }

    bool block(const u8* in, std::size_t n, bool first, double bound) {
        u8* p = out + used;
        if (room - used < head) return false;
        used += head;
        if (first) sample_form(in, n, bound);
        auto wrong = take(in, n);
        if (wrong > n / 8) {  // the sample has misled
            form = whole_numbers;
            wrong = take(in, n);
        }
        if (first) pick_grade(n);
        std::size_t sizes[2] = {}, count = 0;
        if (wrong && (!(sizes[0] = places(wrong, n)) || !exact(in, wrong))) return false;
        const u64 any = ops.gaps(grade, k, n, work.z[0], work.z[1]);
        u8 flags = any >> 32 ? 0 : no_high;
        for (std::size_t i = 0; i < n; ++i) count += (work.z[0][i] | work.z[1][i]) != 0;
        const u32 *low = work.z[0], *high = work.z[1];
        if (count < n / 4) {
            flags |= few;
            pick(n);
            if (count && !(sizes[1] = places(count, n))) return false;
            low = work.change[0];
            high = work.change[1];
        } else {
            count = n;
        }
        if (count && (!code(low, count) || (!(flags & no_high) && !code(high, count)))) return false;
        const u8 mixed[4] = {form, static_cast<u8>(grade), static_cast<u8>(digits), flags};
        std::memcpy(p, mixed, 4);
        put32(p + 4, wrong);
        put32(p + 8, sizes[0]);
        put32(p + 12, count);
        put32(p + 16, sizes[1]);
        put32(p + 20, 0);
        std::memcpy(p + 24, &step, 8);
        work.held[0] = k[static_cast<std::ptrdiff_t>(n) - 2];
        work.held[1] = k[static_cast<std::ptrdiff_t>(n) - 1];
        return true;
    }
};

struct Reader {
    const Tools& tools;
    const Series& ops;
    Kind kind;
    SeriesWork& work;
    const u8 *in, *end;
    std::size_t width = widths[static_cast<u32>(kind)];
    i64* k = work.held + 2;

    std::size_t left() const { return static_cast<std::size_t>(end - in); }

    bool places(u32* index, std::size_t count, std::size_t size, std::size_t n) {
        std::size_t used;
        if (left() < filled(size) || count > n) return false;
        if (!entropy::index_decode(tools.entropy, in, size, index, count, n, used, work.code) || used != size) return false;
        in += filled(size);
        return true;
    }

    bool values(u32* value, std::size_t count) {
        const auto used = entropy::decode_all(tools.entropy, in, left(), nullptr, value, count);
        in += used;
        return used;
    }

    bool changes(std::size_t count, std::size_t size, u8 flags, std::size_t n) {
        const bool sparse_ = flags & few;
        if (sparse_ ? count > n : count != n) return false;
        if (sparse_ && count && !places(work.index, count, size, n)) return false;
        u32 *low = sparse_ ? work.change[0] : work.z[0], *high = sparse_ ? work.change[1] : work.z[1];
        if (count && !values(low, count)) return false;
        if (flags & no_high) std::memset(high, 0, 4 * count);
        else if (count && !values(high, count)) return false;
        if (!sparse_) return true;
        std::memset(work.z[0], 0, 4 * n);
        std::memset(work.z[1], 0, 4 * n);
        for (std::size_t i = 0; i < count; ++i) {
            work.z[0][work.index[i]] = low[i];
            work.z[1][work.index[i]] = high[i];
        }
        return true;
    }

    bool block(u8* out, std::size_t n) {
        if (left() < head) return false;
        const u8 *p = in, form = p[0], grade = p[1], digits = p[2], flags = p[3];
        const std::size_t wrong = entropy::load32(p + 4), set = entropy::load32(p + 8), count = entropy::load32(p + 12);
        double step;
        std::memcpy(&step, p + 24, 8);
        const bool floats = kind == Kind::single || kind == Kind::twice;
        if (form > bounded || grade > 2 || digits > digits_limit || flags > 3 || entropy::load32(p + 20) || wrong > n) return false;
        if (form != whole_numbers && !floats) return false;
        in += head;
        const u8* exact = nullptr;
        if (wrong) {
            if (!places(work.wrong, wrong, set, n) || left() < filled(wrong * width)) return false;
            exact = in;
            in += filled(wrong * width);
        }
        if (!changes(count, entropy::load32(p + 16), flags, n)) return false;
        ops.sums(grade, work.z[0], work.z[1], n, k);
        if (form == whole_numbers) ops.back(kind, k, n, out);
        else ops.real(kind, k, n, form == decimals, powers[digits], step, out);
        for (std::size_t i = 0; i < wrong; ++i) std::memcpy(out + work.wrong[i] * width, exact + i * width, width);
        work.held[0] = k[static_cast<std::ptrdiff_t>(n) - 2];
        work.held[1] = k[static_cast<std::ptrdiff_t>(n) - 1];
        return true;
    }
};

}  // namespace

std::size_t series_encode(const Tools& tools, const Series& ops, Kind kind, const u8* in, std::size_t n, double bound, u8* out, std::size_t room, SeriesWork& work) {
    Writer writer{tools, ops, kind, work, out, room};
    work.held[0] = work.held[1] = 0;
    for (std::size_t i = 0; i < n; i += entropy::block)
        if (!writer.block(in + i * writer.width, std::min(entropy::block, n - i), !i, bound)) return 0;
    return writer.used;
}

bool series_decode(const Tools& tools, const Series& ops, Kind kind, const u8* in, std::size_t size, u8* out, std::size_t n, SeriesWork& work) {
    Reader reader{tools, ops, kind, work, in, in + size};
    work.held[0] = work.held[1] = 0;
    for (std::size_t i = 0; i < n; i += entropy::block)
        if (!reader.block(out + i * reader.width, std::min(entropy::block, n - i))) return false;
    return reader.in == reader.end;
}

const Series& series(Isa level) {
    static const Series portable{base::series_whole, base::series_back, base::series_steps, base::series_real, base::series_gaps, base::series_sums};
#if defined(__x86_64__)
    static const Series wider{series_avx2::series_whole, series_avx2::series_back, series_avx2::series_steps, series_avx2::series_real, series_avx2::series_gaps, series_avx2::series_sums};
    static const Series widest{series_avx512::series_whole, series_avx512::series_back, series_avx512::series_steps, series_avx512::series_real, series_avx512::series_gaps, series_avx512::series_sums};
    if (level == Isa::avx512) return widest;
    if (level == Isa::avx2) return wider;
#endif
    (void)level;
    return portable;
}

}  // namespace engine::delta
