#include "delta/base.h"
#include "entropy/code.h"

namespace engine::delta {

using entropy::block;

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
    const bool good = reader.read() && reader.in == reader.end;
    settle();
    if (!good) return layout;
    return reader.sum == row.hash ? fine : result;
}

}  // namespace engine::delta
