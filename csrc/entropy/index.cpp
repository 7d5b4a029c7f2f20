// Sorted index sets: the cheapest of coded gaps, bit-packed gaps, a bitmap and runs.
#include "entropy/code.h"

namespace engine::entropy {

enum Method : u8 { coded = 0, packed = 1, bitmap = 2, runs = 3 };
static constexpr std::size_t group = 512;  // gaps behind one width byte

std::size_t index_bound(std::size_t n, u64 universe) { return 2 * bound(n) + static_cast<std::size_t>((universe + 7) / 8) + 64; }

template <class Fill>
static std::size_t coded_encode(const Ops& ops, std::size_t n, u8* out, std::size_t room, Work& work, Fill fill) {
    std::size_t at = 0;
    for (std::size_t i = 0; i < n; i += block) {
        const std::size_t m = std::min(block, n - i);
        fill(i, m, work.value);
        const auto used = encode(ops, work.value, nullptr, m, out + at, room - at, work);
        if (!used) return 0;
        at += used;
    }
    return at;
}

static std::size_t bitmap_encode(const u32* index, std::size_t n, u64 universe, u8* out, std::size_t room) {
    const auto bytes = static_cast<std::size_t>((universe + 7) / 8);
    if (bytes > room) return 0;
    std::memset(out, 0, bytes);
    for (std::size_t i = 0; i < n; ++i) out[index[i] >> 3] = static_cast<u8>(out[index[i] >> 3] | 1u << (index[i] & 7));
    return bytes;
}

// Bits of a group one after another, lowest first.
static std::size_t packed_encode(const Ops& ops, const u32* index, std::size_t n, u8* out, std::size_t room) {
    std::size_t at = 0;
    u32 gap[group];
    for (std::size_t i = 0; i < n; i += group) {
        const std::size_t m = std::min(group, n - i);
        ops.gaps(index + i, m, i ? index[i - 1] : ~u32(0), gap);
        u32 all = 0;
        for (std::size_t k = 0; k < m; ++k) all |= gap[k];
        const u32 width = width_of(all);
        if (at + 9 + (m * width + 7) / 8 > room) return 0;
        out[at++] = static_cast<u8>(width);
        u64 held = 0;
        u32 bits = 0;
        for (std::size_t k = 0; k < m; ++k) {
            held |= u64(gap[k]) << bits;
            for (bits += width; bits >= 8; bits -= 8, held >>= 8) out[at++] = static_cast<u8>(held);
        }
        if (bits) out[at++] = static_cast<u8>(held);
    }
    return at;
}

// Starts (gap from the end of the run before) and lengths - 1; `work.value` holds a block of either.
static std::size_t runs_encode(const Ops& ops, const u32* index, std::size_t n, std::size_t count, u8* out, std::size_t room, Work& work) {
    if (room < 4) return 0;
    const auto number = static_cast<u32>(count);
    std::memcpy(out, &number, 4);
    std::size_t at = 4;
    for (const bool lengths : {false, true}) {
        std::size_t i = 0;
        const auto used = coded_encode(ops, count, out + at, room - at, work, [&](std::size_t, std::size_t m, u32* value) {
            for (std::size_t k = 0; k < m; ++k) {
                const std::size_t start = i++;
                while (i < n && index[i] == index[i - 1] + 1) ++i;
                value[k] = lengths ? static_cast<u32>(i - start - 1) : start ? index[start] - index[start - 1] - 2 : index[0];
            }
        });
        if (!used) return 0;
        at += used;
    }
    return at;
}

std::size_t index_encode(const Ops& ops, const u32* index, std::size_t n, u64 universe, bool fast, u8* out, std::size_t room, Work& work) {
    if (!room) return 0;
    Method method = fast ? packed : coded;
    u8* body = out + 1;
    --room;
    bool ascending;
    const std::size_t count = ops.runs(index, n, ascending), map = static_cast<std::size_t>((universe + 7) / 8);
    if (!ascending) return 0;
    std::size_t used = 0;
    if (fast) used = packed_encode(ops, index, n, body, room);
    else if (count > n / 16)
        used = coded_encode(ops, n, body, room, work, [&](std::size_t i, std::size_t m, u32* value) {
            ops.gaps(index + i, m, i ? index[i - 1] : ~u32(0), value);
        });
    if (!fast && count <= n / 2) {
        const auto more = runs_encode(ops, index, n, count, body + used, room - used, work);
        if (more && (!used || more < used)) {
            std::memmove(body, body + used, more);
            used = more;
            method = runs;
        }
    }
    if (n && (!used || map < used)) {
        used = bitmap_encode(index, n, universe, body, room);
        method = bitmap;
        if (!used) return 0;
    }
    out[0] = method;
    return used + 1;
}

static bool coded_decode(const Ops& ops, const u8* in, std::size_t size, u32* index, std::size_t n, std::size_t& used) {
    Decoder d;
    std::size_t next = 0;
    used = 0;
    for (std::size_t i = 0; i < n; i += block, used += next) {
        const std::size_t m = std::min(block, n - i);
        if ((i && index[i - 1] == ~u32(0)) || !open(d, in + used, size - used, m, next)) return false;
        u32 before = i ? index[i - 1] : ~u32(0);
        for (std::size_t k = 0; k < m; k += 2048) {  // sums while the gaps are in the first cache
            const std::size_t part = std::min<std::size_t>(2048, m - k);
            ops.run(d, nullptr, index + i + k, part);
            if (d.bad || (i + k && before == ~u32(0)) || !ops.ungaps(index + i + k, part, before)) return false;
            before = index[i + k + part - 1];
        }
        if (!close(d)) return false;
    }
    return true;
}

static bool packed_decode(const Ops& ops, const u8* in, std::size_t size, u32* index, std::size_t n, std::size_t& used) {
    used = 0;
    for (std::size_t i = 0; i < n; i += group) {
        const std::size_t m = std::min(group, n - i);
        if (used == size || in[used] > 32) return false;
        const u32 width = in[used++];
        const std::size_t bytes = (m * width + 7) / 8;
        if (size - used < bytes) return false;
        u64 held = 0;
        u32 bits = 0;
        const u8* p = in + used;
        for (std::size_t k = 0; k < m; ++k) {
            for (; bits < width; bits += 8) held |= u64(*p++) << bits;
            index[i + k] = static_cast<u32>(held & ((u64(1) << width) - 1));
            held >>= width;
            bits -= width;
        }
        used += bytes;
        if ((i && index[i - 1] == ~u32(0)) || held || !ops.ungaps(index + i, m, i ? index[i - 1] : ~u32(0))) return false;
    }
    return true;
}

static bool bitmap_decode(const u8* in, std::size_t size, u32* index, std::size_t n, u64 universe, std::size_t& used) {
    used = static_cast<std::size_t>((universe + 7) / 8);
    if (size < used) return false;
    std::size_t count = 0;
    for (std::size_t i = 0; i < used; i += 8) {
        u64 bits = 0;
        std::memcpy(&bits, in + i, std::min<std::size_t>(8, used - i));
        if (count + static_cast<std::size_t>(__builtin_popcountll(bits)) > n) return false;
        for (; bits; bits &= bits - 1) index[count++] = static_cast<u32>(i * 8 + static_cast<u32>(__builtin_ctzll(bits)));
    }
    return count == n;
}

static bool runs_decode(const Ops& ops, const u8* in, std::size_t size, u32* index, std::size_t n, u64 universe, std::size_t& used, Work& work) {
    if (size < 4) return false;
    const std::size_t count = load32(in);
    if (count > n) return false;
    Decoder d;
    std::size_t next = 0, first = 4, second = 4, at = 0;
    for (std::size_t i = 0; i < count; i += block, second += next)
        if (!open(d, in + second, size - second, std::min(block, count - i), next)) return false;
    u64 place = 0;
    for (std::size_t i = 0; i < count; i += block) {
        const std::size_t m = std::min(block, count - i);
        const auto starts = decode_all(ops, in + first, size - first, nullptr, work.value, m);
        const auto lengths = decode_all(ops, in + second, size - second, nullptr, work.word, m);
        if (!starts || !lengths) return false;
        first += starts;
        second += lengths;
        for (std::size_t k = 0; k < m; ++k) {
            const u64 length = u64(work.word[k]) + 1;
            place += work.value[k] + u64(i + k != 0);
            if (length > n - at || place + length > universe) return false;
            for (u64 j = 0; j < length; ++j) index[at++] = static_cast<u32>(place++);
        }
    }
    used = second;
    return at == n;
}

bool index_decode(const Ops& ops, const u8* in, std::size_t size, u32* index, std::size_t n, u64 universe, std::size_t& used, Work& work) {
    if (!size || n > universe || in[0] > runs) return false;
    bool ok = false;
    switch (in[0]) {
        case coded: ok = coded_decode(ops, in + 1, size - 1, index, n, used); break;
        case packed: ok = packed_decode(ops, in + 1, size - 1, index, n, used); break;
        case bitmap: ok = bitmap_decode(in + 1, size - 1, index, n, universe, used); break;
        default: ok = runs_decode(ops, in + 1, size - 1, index, n, universe, used, work);
    }
    ++used;
    return ok && (!n || index[n - 1] < universe);
}

}  // namespace engine::entropy
