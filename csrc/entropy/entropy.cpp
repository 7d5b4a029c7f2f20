#include "entropy/base.h"
#if defined(__x86_64__)
#include "entropy/avx2.h"
#include "entropy/avx512.h"
#endif

namespace engine::entropy {

static constexpr std::size_t head = 12;
static void save32(u8* p, u32 v) { std::memcpy(p, &v, 4); }
static std::size_t words(std::size_t bytes) { return (bytes + 3) / 4 * 4; }
static u32 count_of(std::size_t n) { return n >= wide ? 32 : 1; }

std::size_t bound(std::size_t n) { return n * 8 + (n / block + 1) * 512; }

// A sample: 16 values of every 1024.
template <class Visit>
static void sample(const u32* value, const u8* cond, std::size_t n, Visit visit) {
    for (std::size_t i = 0; i < n; i += 1024)
        for (std::size_t k = i; k < n && k < i + 16; ++k)
            if (value[k]) visit(width_of(value[k]) + (cond ? cond[k] : 0));
}

u32 sample_base(const u32* value, const u8* cond, std::size_t n) {
    if (!cond) return 1;
    u32 count[320] = {}, held = 0, best = 0, base = 1;
    sample(value, cond, n, [&](u32 s) { ++count[s]; });
    for (u32 top = 1; top < 320; ++top) {  // window [top - 61, top]
        held += count[top];
        if (top > window) held -= count[top - window];
        if (held > best) { best = held; base = top >= window ? top - window + 1 : 1; }
    }
    return base;
}

u64 sample_cost(const u32* value, const u8* cond, std::size_t n) {
    u32 count[64] = {};
    const u32 base = sample_base(value, cond, n);
    sample(value, cond, n, [&](u32 s) { ++count[s - base < window ? s - base + 1 : rare]; });
    u8 length[64];
    lengths<64, 7>(count, length);
    u64 bits = u64(count[rare]) * 32;
    for (int s = 0; s < 64; ++s) bits += u64(count[s]) * length[s];
    return bits;
}

static void histogram(const u8* symbol, std::size_t n, u32* count) {
    u32 part[4][64] = {};  // four, so that a repeated symbol does not wait for its own store
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (std::size_t k = 0; k < 4; ++k) ++part[k][symbol[i + k]];
    for (; i < n; ++i) ++part[0][symbol[i]];
    for (int s = 0; s < 64; ++s) count[s] = part[0][s] + part[1][s] + part[2][s] + part[3][s];
}

std::size_t encode(const Ops& ops, const u32* value, const u8* cond, std::size_t n, u8* out, std::size_t room, Work& work) {
    const u32 base = sample_base(value, cond, n), count = count_of(n);
    ops.classes(value, cond, n, base, work.symbol);
    u32 times[64];
    histogram(work.symbol, n, times);
    Code code{};
    lengths<64, 7>(times, code.length);
    canonical<64, 7>(code.length, code.bits);
    u32 symbols = 64;
    while (symbols > 1 && !code.length[symbols - 1]) --symbols;
    Lanes lanes{};
    for (u32 k = 0; k < count; ++k) lanes.left[k] = 33;
    u32 *const word_top = work.word + sizeof work.word / 4, *const odd_top = work.odd + sizeof work.odd / 4;
    u32 *word = word_top, *odd = odd_top;
    ops.emit(value, work.symbol, n, code, count, lanes, word, odd);
    const auto word_bytes = static_cast<std::size_t>(word_top - word) * 4, odd_bytes = static_cast<std::size_t>(odd_top - odd) * 4;
    const std::size_t table = words((symbols + 1) / 2), lefts = words(count);
    if (head + table + lefts + 8 * count + word_bytes + odd_bytes > room) return 0;
    save32(out, static_cast<u32>(word_bytes / 4));
    save32(out + 4, static_cast<u32>(odd_bytes / 4));
    save32(out + 8, base | symbols << 16 | count << 24);
    u8* p = out + head;
    std::memset(p, 0, table + lefts);
    for (u32 s = 0; s < symbols; ++s) p[s / 2] = static_cast<u8>(p[s / 2] | code.length[s] << (s & 1) * 4);
    p += table;
    for (u32 k = 0; k < count; ++k) p[k] = static_cast<u8>(lanes.left[k]);
    p += lefts;
    std::memcpy(p, lanes.lo, 4 * count);
    std::memcpy(p + 4 * count, lanes.hi, 4 * count);
    p += 8 * count;
    std::memcpy(p, word, word_bytes);
    std::memcpy(p + word_bytes, odd, odd_bytes);
    return static_cast<std::size_t>(p - out) + word_bytes + odd_bytes;
}

static bool tables(Decoder& d, const u8* nibbles, u32 symbols) {
    Code code{};
    u32 sum = 0, used = 0;
    for (u32 s = 0; s < symbols; ++s) {
        const u32 l = nibbles[s / 2] >> (s & 1) * 4 & 15;
        if (l > 7) return false;
        code.length[s] = static_cast<u8>(l);
        sum += l ? 128u >> l : 0;
        used += l != 0;
    }
    if (sum != 128 && !(used == 1 && sum == 64)) return false;  // a code that is not complete was not made by us
    canonical<64, 7>(code.length, code.bits);
    for (u32 s = 0; s < symbols; ++s)
        if (const u32 l = code.length[s])
            for (u32 k = used == 1 ? 0 : code.bits[s]; k < 128; k += used == 1 ? 1 : 1u << l) d.symbol[k] = static_cast<u8>(s);
    std::memcpy(d.length, code.length, 64);
    return true;
}

bool open(Decoder& d, const u8* in, std::size_t size, std::size_t n, std::size_t& next) {
    if (size < head || !n || n > block) return false;
    const u64 word = load32(in), odd = load32(in + 4);
    const u32 mixed = load32(in + 8), symbols = mixed >> 16 & 255, count = mixed >> 24;
    d.base = mixed & 0xffff;
    d.count = count;
    if (count != count_of(n) || !symbols || symbols > 64 || !d.base || d.base > 320) return false;
    const std::size_t table = words((symbols + 1) / 2), lefts = words(count), start = head + table + lefts + 8 * count;
    if (word > n || odd > n || size < start + 4 * (word + odd)) return false;
    if (!tables(d, in + head, symbols)) return false;
    const u8* p = in + head + table;
    d.lanes = {};
    for (u32 k = 0; k < count; ++k) {
        d.lanes.left[k] = p[k];
        if (p[k] < 33 || p[k] > 64) return false;
    }
    std::memcpy(d.lanes.lo, p + lefts, 4 * count);
    std::memcpy(d.lanes.hi, p + lefts + 4 * count, 4 * count);
    d.word = in + start;
    d.end = d.odd = d.word + 4 * word;
    d.odd_end = d.odd + 4 * odd;
    d.done = 0;
    d.bad = false;
    next = static_cast<std::size_t>(d.odd_end - in);
    return true;
}

bool close(const Decoder& d) {
    bool ok = !d.bad && d.word == d.end && d.odd == d.odd_end;
    for (u32 k = 0; k < d.count; ++k) ok &= d.lanes.left[k] == 33 && !d.lanes.lo[k] && !d.lanes.hi[k];
    return ok;
}

std::size_t encode_all(const Ops& ops, const u32* value, const u8* cond, std::size_t n, u8* out, std::size_t room, Work& work) {
    std::size_t at = 0;
    for (std::size_t i = 0; i < n; i += block) {
        const auto used = encode(ops, value + i, cond ? cond + i : nullptr, std::min(block, n - i), out + at, room - at, work);
        if (!used) return 0;
        at += used;
    }
    return at;
}

std::size_t decode_all(const Ops& ops, const u8* in, std::size_t size, const u8* cond, u32* value, std::size_t n) {
    std::size_t at = 0, next = 0;
    Decoder d;
    for (std::size_t i = 0; i < n; i += block, at += next) {
        const std::size_t m = std::min(block, n - i);
        if (!open(d, in + at, size - at, m, next)) return 0;
        ops.run(d, cond ? cond + i : nullptr, value + i, m);
        if (!close(d)) return 0;
    }
    return at;
}

const Ops& ops(Isa level) {
    static const Ops portable{base::classes, base::emit, base::run, base::runs, base::gaps, base::ungaps};
#if defined(__x86_64__)
    static const Ops wider{avx2::classes, avx2::emit, avx2::run, avx2::runs, base::gaps, base::ungaps};
    static const Ops widest_{avx512::classes, avx512::emit, avx512::run, avx512::runs, avx512::gaps, avx512::ungaps};
    if (level == Isa::avx512) return widest_;
    if (level == Isa::avx2) return wider;
#endif
    (void)level;
    return portable;
}

}  // namespace engine::entropy
