#include "delta/base.h"
#include "entropy/code.h"

namespace engine::delta {

using entropy::block;

static constexpr std::size_t probe = 8192;  // elements of a chunk that decide whether the predictor helps it

static void save32(u8* p, std::size_t v) { const auto w = static_cast<u32>(v); std::memcpy(p, &w, 4); }

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
        if (mode != raw && count > n / 64) return mode;
        used = 0;
        crc = 0;
        gather(at, n, count);
        return !count ? u32(zero) : count <= n / 64 ? sparse_encode(n, count) : u32(raw);
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
    settle();
    return offset;
}

}  // namespace engine::delta
