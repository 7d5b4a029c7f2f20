#include "delta/base.h"
#include "entropy/code.h"
#if defined(__x86_64__)
#include "delta/avx2.h"
#include "delta/avx512.h"
#endif

namespace engine::delta {

using entropy::block;

static constexpr std::size_t part = 2048;  // elements worked on while in the first cache
static constexpr std::size_t large = std::size_t(4) << 20;  // bytes of an array whose result is better written past the caches
static constexpr std::size_t probe = 8192;  // elements of a chunk that decide whether the predictor helps it

static std::size_t padded(std::size_t size) { return (size + 63) / 64 * 64; }
static std::size_t whole(std::size_t size) { return (size + 3) / 4 * 4; }
static void save32(u8* p, std::size_t v) { const auto w = static_cast<u32>(v); std::memcpy(p, &w, 4); }
static std::size_t width_of(const Job& job) { return widths[static_cast<u32>(job.kind)]; }
static bool real(Kind kind) { return kind == Kind::half || kind == Kind::brain || kind == Kind::single; }  // has conditions

u64 hash(const check::Ops& check, const u8* data, std::size_t size, std::size_t first) {
    return check.hash64(data, size, first / 8);
}

std::size_t bound(const Job& job) {
    const std::size_t chunks = (job.items + job.chunk - 1) / job.chunk;
    return job.items * width_of(job) + 64 * chunks + 64;
}

namespace {

struct Encoder {
    const Tools& tools;
    Job job;
    Work& work;
    u8* out;  // of the chunk
    std::size_t room, used = 0;
    bool wide = width_of(job) == 8, slim = false;  // slim: no high halves in this chunk
    bool past = job.items * width_of(job) >= large;
    u64 sum = 0;  // of a packed chunk: its hash and checksum, made on the way
    u32 crc = 0;

    u8* take(std::size_t size) {
        if (size > room - used) return nullptr;
        u8* p = out + used;
        used += size;
        return p;
    }

    bool code(const u32* value, const u8* cond, std::size_t n) {
        const auto size = entropy::encode(tools.entropy, value, cond, n, out + used, room - used, work.code);
        used += size;
        return size;
    }

    bool code_all(const u32* value, const u8* cond, std::size_t n) {
        for (std::size_t i = 0; i < n; i += block)
            if (!code(value + i, cond ? cond + i : nullptr, std::min(block, n - i))) return false;
        return true;
    }

    std::size_t diff(std::size_t at, std::size_t n) { return tools.delta.diff(job, at, n, work.z[0], work.z[1], work.cond); }

    // The set of `count` places and what stands before it: both sizes.
    bool places(std::size_t count, std::size_t universe) {
        const auto size = entropy::index_encode(tools.entropy, work.index, count, universe, job.fast, work.set, sizeof work.set, work.code);
        u8* p = take(8 + whole(size));
        if (!size || !p) return false;
        save32(p, count);
        save32(p + 4, size);
        std::memcpy(p + 8, work.set, size);
        std::memset(p + 8 + size, 0, whole(size) - size);
        return true;
    }

    std::size_t pick(std::size_t from, std::size_t n, std::size_t k) {
        const auto at = static_cast<u32>(from);
        if (!wide) return k + tools.delta.pick(work.z[0], n, at, work.index + k, work.change[0] + k);
        for (std::size_t i = 0; i < n; ++i) {
            const u64 z = work.z[0][i] | u64(work.z[1][i]) << 32;
            if (!z) continue;
            work.index[k] = at + static_cast<u32>(i);
            work.change[0][k] = static_cast<u32>(z - 1);
            work.change[1][k++] = static_cast<u32>((z - 1) >> 32);
        }
        return k;
    }

    // Collect the changes of the chunk; false where they are too many for a sparse one.
    bool gather(std::size_t at, std::size_t n, std::size_t& count) {
        const std::size_t limit = std::min(sparse_limit, n <= block ? (n - 1) / 2 : n / 8);
        count = 0;
        slim = true;
        bool few = true;
        for (std::size_t i = 0; i < n; i += block) {
            const std::size_t m = std::min(block, n - i), found = diff(at + i, m);
            if (wide) {
                u32 any = 0;
                for (std::size_t k = 0; k < m; ++k) any |= work.z[1][k];
                slim &= !any;
            }
            few &= count + found <= limit;
            if (few && found) {
                pick(i, m, count);
                for (std::size_t k = count; k < count + found; ++k) work.under[k] = work.cond[work.index[k] - i];
            }
            count += found;
            if (!few && !wide) break;
        }
        return few;
    }

    u32 sparse_encode(std::size_t n, std::size_t count) {
        if (wide) {
            slim = true;
            for (std::size_t k = 0; k < count; ++k) slim &= !work.change[1][k];
        }
        const bool under = real(job.kind) && cheaper(work.change[0], work.under, std::min(count, block));
        if (!places(count, n) || !code_all(work.change[0], under ? work.under : nullptr, count)) return raw;
        if (wide && !slim && !code_all(work.change[1], nullptr, count)) return raw;
        return sparse | (under ? conditioned : 0);
    }

    static bool cheaper(const u32* value, const u8* cond, std::size_t n) {
        return entropy::sample_cost(value, cond, n) < entropy::sample_cost(value, nullptr, n);
    }

    u32 dense_encode(std::size_t at, std::size_t n) {
        bool under = false;
        for (std::size_t i = 0; i < n; i += block) {
            const std::size_t m = std::min(block, n - i);
            if (n > block) diff(at + i, m);
            if (!i) under = real(job.kind) && cheaper(work.z[0], work.cond, m);
            if (!code(work.z[0], under ? work.cond : nullptr, m)) return raw;
            if (wide && !slim && !code(work.z[1], nullptr, m)) return raw;
        }
        return dense | (under ? conditioned : 0);
    }

    // Widths and values of n elements to `to`, group by group; end of it.
    u8* pack(u32* z, std::size_t n, u8* widths, u8* to) {
        std::memset(z + n, 0, 4 * ((n + group - 1) / group * group - n));
        for (std::size_t i = 0; i < n; i += group) {
            const u32 width = entropy::width_of(tools.delta.any(z + i));
            *widths++ = static_cast<u8>(width);
            tools.delta.pack(z + i, width, to);
            to += 64 * width;
        }
        return to;
    }

    // In one pass, part by part, while both versions are in the first cache, their hash with it; `count` = elements that
    // differ. A block is made aside and goes past the caches to where it belongs.
    u32 packed_encode(std::size_t at, std::size_t n, std::size_t& count) {
        const std::size_t width = width_of(job);
        count = 0;
        for (std::size_t b = 0; b < n; b += block) {
            const std::size_t m = std::min(block, n - b), head = whole((m + group - 1) / group);
            for (u32 half = 0; half < 1 + u32(wide); ++half) {
                std::memset(work.packed, 0, head);
                u8* end = work.packed + head;
                for (std::size_t k = 0; k < m; k += part) {
                    const std::size_t i = at + b + k, size = std::min(part, m - k);
                    const auto found = tools.delta.diff(job, i, size, work.z[0], work.z[1], nullptr);
                    if (!half) {
                        count += found;
                        sum += hash(tools.check, job.now + i * width, size * width, (job.first + i) * width);
                    }
                    end = pack(work.z[half], size, work.packed + k / group, end);
                }
                const auto size = static_cast<std::size_t>(end - work.packed);
                u8* p = take(size);
                if (!p) return raw;
                crc = tools.check.crc32c(work.packed, size, crc);
                if (past) tools.delta.stream(p, work.packed, size);
                else std::memcpy(p, work.packed, size);
            }
        }
        return packed;
    }

    // Packed, unless it finds next to nothing to pack.
    u32 quick(std::size_t at, std::size_t n) {
        std::size_t count;
        slim = false;
        const u32 mode = packed_encode(at, n, count);
        if (mode == raw || count > n / 64) return mode;
        used = 0;
        crc = 0;
        gather(at, n, count);
        return count ? sparse_encode(n, count) : u32(zero);
    }

    // True where the differences from the predicted base are narrower in sum.
    bool predicts(std::size_t at, std::size_t n) {
        u64 bits[2] = {};
        const u8* previous = job.previous;
        for (const bool with : {false, true}) {
            job.previous = with ? previous : nullptr;
            diff(at, std::min(n, probe));
            for (std::size_t i = 0; i < std::min(n, probe); ++i) bits[with] += entropy::width_of(work.z[0][i]);
        }
        return bits[true] < bits[false];
    }

    u32 exact(std::size_t at, std::size_t n) {
        const u8* previous = job.previous;
        if (previous && !predicts(at, n)) job.previous = nullptr;
        const u32 with = job.previous ? predicted : 0;
        std::size_t count = 0;
        u32 mode;
        if (job.fast) {
            mode = quick(at, n);
        } else {
            const bool few = gather(at, n, count);
            mode = !count ? u32(zero) : few ? sparse_encode(n, count) : dense_encode(at, n);
        }
        job.previous = previous;
        return mode == raw ? raw : mode | with | (wide && slim ? narrow : 0);
    }

    // `rec` gets what is decoded. Raw where a bounded chunk would be larger, or where too many elements miss the bound.
    u32 bounded(std::size_t at, std::size_t n, u8* rec) {
        const std::size_t width = width_of(job);
        std::size_t count = 0, moved = 0;
        for (std::size_t i = 0; i < n; i += block) {
            const std::size_t m = std::min(block, n - i);
            const auto wrong = tools.delta.quantise(job, at + i, m, work.z[0], rec + i * width, work.under);
            if (count + wrong > std::min(sparse_limit, n / 4)) return raw;
            for (std::size_t k = 0; k < m; ++k) {
                work.index[count] = static_cast<u32>(i + k);
                count += work.under[k] != 0;
                moved |= work.z[0][k];
            }
        }
        if (!count && !moved) {
            std::memcpy(rec, job.base + at * width, n * width);
            return zero;
        }
        if (!places(count, n)) return raw;
        u8* p = take(whole(count * width));
        if (!p) return raw;
        std::memset(p + count * width, 0, whole(count * width) - count * width);
        for (std::size_t k = 0; k < count; ++k) std::memcpy(p + k * width, job.now + (at + work.index[k]) * width, width);
        for (std::size_t i = 0; i < n; i += block) {
            const std::size_t m = std::min(block, n - i);
            if (n > block) tools.delta.quantise(job, at + i, m, work.z[0], rec + i * width, work.under);
            if (!code(work.z[0], nullptr, m)) return raw;
        }
        return lossy;
    }
};

}  // namespace

std::size_t encode(const Tools& tools, const Job& job, u8* out, std::size_t room, Row* rows, u8* rec, Work& work) {
    const std::size_t width = width_of(job);
    std::size_t offset = 0;
    for (std::size_t at = 0; at < job.items; at += job.chunk, ++rows) {
        const std::size_t n = std::min(job.chunk, job.items - at), size = n * width;
        if (room - offset < padded(size)) return 0;
        const u8* made = job.now + at * width;
        Encoder e{tools, job, work, out + offset, size};
        u32 mode = raw;
        if (job.base && job.bound > 0) {
            mode = e.bounded(at, n, rec + at * width);
            made = rec + at * width;
            if (mode == raw) e.used = 0;
        }
        if (job.base && mode == raw) {
            mode = e.exact(at, n);
            made = job.now + at * width;
            if (rec) std::memcpy(rec + at * width, made, size);
        }
        if (mode == raw) {
            std::memcpy(out + offset, job.now + at * width, size);
            e.used = size;
        } else if ((mode & 255) == zero) {
            e.used = 0;
        }
        u8* end = out + offset + e.used;
        std::memset(end, 0, padded(e.used) - e.used);
        const bool known = (mode & 255) == packed;
        const u32 crc = known ? tools.check.crc32c(end, padded(e.used) - e.used, e.crc) : tools.check.crc32c(out + offset, padded(e.used), 0);
        *rows = {offset, static_cast<u32>(e.used), static_cast<u32>(n), mode, crc,
                 known ? e.sum : hash(tools.check, made, size, (job.first + at) * width)};
        offset += padded(e.used);
    }
    return offset;
}

namespace {


struct Reader {
    const Tools& tools;
    Job job;
    Work& work;
    const u8 *in, *end;
    std::size_t at, n;
    u8* out;
    u32 mode;
    u64 sum = 0;
    std::size_t width = width_of(job);
    bool past = job.items * width >= large && out != job.base + at * width;

    std::size_t left() const { return static_cast<std::size_t>(end - in); }
    void add(std::size_t i, std::size_t m) { sum += hash(tools.check, out + i * width, m * width, (job.first + at + i) * width); }
    // Where the part that begins at element i is made, and what follows when it is: its hash, its way to out.
    u8* part_at(std::size_t i) { return past ? work.made : out + i * width; }
    void part_done(std::size_t i, std::size_t m) {
        u8* made = part_at(i);
        sum += hash(tools.check, made, m * width, (job.first + at + i) * width);
        if (past) tools.delta.stream(out + i * width, made, m * width);
    }
    bool two() const { return width == 8 && !(mode & narrow); }

    bool open(entropy::Decoder& d, std::size_t m) {
        std::size_t next;
        if (!entropy::open(d, in, left(), m, next)) return false;
        in += next;
        return true;
    }

    bool dense_decode() {
        const bool under = mode & conditioned;
        for (std::size_t b = 0; b < n; b += block) {
            const std::size_t m = std::min(block, n - b);
            entropy::Decoder low, high;
            if (!open(low, m) || (two() && !open(high, m))) return false;
            for (std::size_t k = 0; k < m; k += part) {
                const std::size_t i = b + k, count = std::min(part, m - k);
                if (under) tools.delta.exponents(job, at + i, count, work.cond);
                tools.entropy.run(low, under ? work.cond : nullptr, work.z[0], count);
                if (two()) tools.entropy.run(high, nullptr, work.z[1], count);
                if (low.bad || (two() && high.bad)) return false;
                tools.delta.join(job, at + i, count, work.z[0], work.z[1], part_at(i));
                part_done(i, count);
            }
            if (!entropy::close(low) || (two() && !entropy::close(high))) return false;
        }
        return true;
    }

    bool packed_decode() {
        for (std::size_t b = 0; b < n; b += block) {
            const std::size_t m = std::min(block, n - b), groups = (m + group - 1) / group;
            const u8 *head[2] = {}, *body[2] = {};
            for (int h = 0; h < 1 + two(); ++h) {
                if (left() < whole(groups)) return false;
                head[h] = in;
                body[h] = in += whole(groups);
                for (std::size_t g = 0; g < groups; ++g) {
                    if (head[h][g] > 32 || left() < std::size_t(64) * head[h][g]) return false;
                    in += std::size_t(64) * head[h][g];
                }
            }
            for (std::size_t k = 0; k < m; k += part) {
                const std::size_t i = b + k, count = std::min(part, m - k);
                for (std::size_t g = k / group; g * group < k + count; ++g) {
                    for (int h = 0; h < 1 + two(); ++h) {
                        tools.delta.unpack(body[h], head[h][g], work.z[h] + g * group - k);
                        body[h] += std::size_t(64) * head[h][g];
                    }
                }
                tools.delta.join(job, at + i, count, work.z[0], work.z[1], part_at(i));
                part_done(i, count);
            }
        }
        return true;
    }

    // The set of places at the front of a chunk, to work.index.
    bool places(std::size_t& count) {
        if (left() < 8) return false;
        count = entropy::load32(in);
        const std::size_t size = entropy::load32(in + 4);
        in += 8;
        std::size_t used;
        if (count > std::min(sparse_limit, n) || left() < whole(size)) return false;
        if (!entropy::index_decode(tools.entropy, in, size, work.index, count, n, used, work.code) || used != size) return false;
        in += whole(size);
        return true;
    }

    bool values(u32* value, const u8* cond, std::size_t count) {
        const auto used = entropy::decode_all(tools.entropy, in, left(), cond, value, count);
        in += used;
        return used || !count;
    }

    void keep() {
        if (out != job.base + at * width) std::memcpy(out, job.base + at * width, n * width);
    }

    bool sparse_decode() {
        std::size_t count;
        if (!places(count) || !count) return false;
        for (std::size_t k = 0; (mode & conditioned) && k < count; ++k) tools.delta.exponents(job, at + work.index[k], 1, work.under + k);
        if (!values(work.change[0], mode & conditioned ? work.under : nullptr, count)) return false;
        std::memset(work.change[1], 0, 4 * count);
        if (two() && !values(work.change[1], nullptr, count)) return false;
        if (mode & predicted) {
            moved(count);
        } else {
            keep();
            for (std::size_t k = 0; k < count; ++k) {
                const u64 z = (work.change[0][k] | u64(work.change[1][k]) << 32) + 1;
                const u32 low = static_cast<u32>(z), high = static_cast<u32>(z >> 32);
                tools.delta.join(job, at + work.index[k], 1, &low, &high, out + work.index[k] * width);
            }
        }
        add(0, n);
        return true;
    }

    // The predicted base, `count` of its elements changed.
    void moved(std::size_t count) {
        for (std::size_t i = 0, k = 0; i < n; i += block) {
            const std::size_t m = std::min(block, n - i);
            std::memset(work.z[0], 0, 4 * m);
            for (; k < count && work.index[k] < i + m; ++k) work.z[0][work.index[k] - i] = work.change[0][k] + 1;
            tools.delta.join(job, at + i, m, work.z[0], work.z[1], out + i * width);
        }
    }

    bool lossy_decode() {
        std::size_t count;
        if (!(job.bound > 0) || !places(count) || left() < whole(count * width)) return false;
        const u8* exact = in;
        in += whole(count * width);
        for (std::size_t b = 0; b < n; b += block) {
            const std::size_t m = std::min(block, n - b);
            entropy::Decoder d;
            if (!open(d, m)) return false;
            for (std::size_t k = 0; k < m; k += part) {
                const std::size_t c = std::min(part, m - k);
                tools.entropy.run(d, nullptr, work.z[0], c);
                if (d.bad) return false;
                tools.delta.restore(job, at + b + k, c, work.z[0], out + (b + k) * width);
            }
            if (!entropy::close(d)) return false;
        }
        for (std::size_t k = 0; k < count; ++k) std::memcpy(out + work.index[k] * width, exact + k * width, width);
        add(0, n);
        return true;
    }

    bool read() {
        const u32 kind = mode & 255;
        if (mode >> 11 || ((mode & predicted) && !job.previous) || ((mode & conditioned) && !real(job.kind))) return false;
        if (!(mode & predicted)) job.previous = nullptr;
        if (kind != raw && !job.base) return false;
        switch (kind) {
            case raw:
                if (mode != raw || left() != n * width) return false;
                std::memcpy(out, in, n * width);
                in = end;
                add(0, n);
                return true;
            case zero:
                if (job.previous) moved(0);
                else keep();
                add(0, n);
                return true;
            case sparse: return sparse_decode();
            case dense: return dense_decode();
            case packed: return packed_decode();
            case lossy: return lossy_decode();
            default: return false;
        }
    }
};

}  // namespace

Fault decode(const Tools& tools, const Job& job, std::size_t at, std::size_t n, const Row& row, const u8* payload, u8* out, Work& work) {
    const u8* in = payload + row.offset;
    if (tools.check.crc32c(in, padded(row.length), 0) != row.crc) return checksum;
    if (row.items != n || (row.mode & 255) == absent) return layout;
    if ((row.mode & 255) == keyframe) return other;
    Reader reader{tools, job, work, in, in + row.length, at, n, out, row.mode};
    if (row.mode & narrow) std::memset(work.z[1], 0, 4 * part);  // high halves that are not sent; an earlier chunk left its own
    if (!reader.read() || reader.in != reader.end) return layout;
    return reader.sum == row.hash ? fine : result;
}

const Ops& ops(Isa level) {
    static const Ops portable{base::diff, base::join, base::exponents, base::pick, base::any, base::pack, base::unpack, base::quantise, base::restore, base::stream};
#if defined(__x86_64__)
    static const Ops wider{avx2::diff, avx2::join, avx2::exponents, base::pick, avx2::any, avx2::pack, avx2::unpack, avx2::quantise, avx2::restore, avx2::stream};
    static const Ops widest{avx512::diff, avx512::join, avx512::exponents, avx512::pick, avx512::any, avx512::pack, avx512::unpack, avx512::quantise, avx512::restore, avx512::stream};
    if (level == Isa::avx512) return widest;
    if (level == Isa::avx2) return wider;
#endif
    (void)level;
    return portable;
}

}  // namespace engine::delta
