#include "sparse/base.h"

#include <initializer_list>

#if defined(__x86_64__)
#include "sparse/avx2.h"
#include "sparse/avx512.h"
#endif

namespace engine::sparse {

std::uint32_t select(const float* value, std::size_t count, std::size_t k, std::size_t& greater) {
    std::uint32_t prefix = 0, mask = 0;
    greater = 0;
    for (int shift : {20, 10, 0}) {
        const std::uint32_t bins = shift == 20 ? 2048 : 1024;
        std::size_t hist[2048] = {};
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t a = base::magnitude(value[i]);
            if ((a & mask) == prefix) ++hist[a >> shift & (bins - 1)];
        }
        std::uint32_t bin = bins - 1;
        while (greater + hist[bin] < k) greater += hist[bin--];
        prefix |= bin << shift;
        mask |= (bins - 1) << shift;
    }
    return prefix;
}

float keep(std::uint32_t* index, float* value, std::size_t count, std::size_t k, float* e) {
    std::size_t greater, kept = 0;
    const std::uint32_t edge = select(value, count, k, greater);
    std::size_t ties = k - greater;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint32_t a = base::magnitude(value[i]);
        if (a > edge || (a == edge && ties && ties--)) {
            index[kept] = index[i];
            value[kept++] = value[i];
        } else {
            e[index[i]] = value[i];
        }
    }
    float t;
    std::memcpy(&t, &edge, 4);
    return t;
}

bool scatter_add(const std::uint32_t* index, const float* value, std::size_t count, float* acc, std::size_t n) {
    std::uint32_t top = 0;
    for (std::size_t i = 0; i < count; ++i) top = index[i] > top ? index[i] : top;
    if (count && top >= n) return false;
    for (std::size_t i = 0; i < count; ++i) acc[index[i]] += value[i];
    return true;
}

static std::size_t packed(std::size_t count, int low) { return (count * static_cast<std::size_t>(low) + 7) / 8; }

std::size_t rice_bound(std::size_t count, std::uint64_t n, int low) {
    return packed(count, low) + (count + static_cast<std::size_t>(n >> low)) / 8 + 16;
}

std::size_t rice_encode(const std::uint32_t* index, std::size_t count, int low, std::uint8_t* out) {
    const std::uint64_t mask = (std::uint64_t(1) << low) - 1;
    std::uint8_t *const first = out, *quotient = out + packed(count, low);
    std::uint64_t word = 0, tail = 0, at = 0;
    int held = 0, used = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t gap = index[i] - at;
        at = std::uint64_t(index[i]) + 1;
        word |= (gap & mask) << held;
        for (held += low; held >= 8; held -= 8, word >>= 8) *out++ = static_cast<std::uint8_t>(word);
        for (std::uint64_t q = gap >> low; q; --q)
            if (++used == 8) { *quotient++ = static_cast<std::uint8_t>(tail); tail = 0; used = 0; }
        tail |= 1u << used;
        if (++used == 8) { *quotient++ = static_cast<std::uint8_t>(tail); tail = 0; used = 0; }
    }
    if (held) *out = static_cast<std::uint8_t>(word);
    if (used) *quotient++ = static_cast<std::uint8_t>(tail);
    return static_cast<std::size_t>(quotient - first);
}

bool rice_decode(const std::uint8_t* in, std::size_t size, std::size_t count, std::uint64_t n, int low, std::uint32_t* index) {
    const std::size_t start = packed(count, low);
    if (size < start) return false;
    const std::uint64_t mask = (std::uint64_t(1) << low) - 1, end = std::uint64_t(size) * 8;
    const std::uint8_t* next = in;  // reads `start` bytes in all
    std::uint64_t word = 0, bit = std::uint64_t(start) * 8, at = 0;
    int held = 0;
    for (std::size_t i = 0; i < count; ++i) {
        for (; held < low; held += 8) word |= std::uint64_t(*next++) << held;
        at += word & mask;
        word >>= low;
        held -= low;
        for (; bit < end && !(in[bit / 8] >> bit % 8 & 1); ++bit) at += mask + 1;
        if (bit++ >= end || at >= n) return false;
        index[i] = static_cast<std::uint32_t>(at++);
    }
    return true;
}

const Ops& ops(Isa level) {
    static const Ops portable{base::threshold};
#if defined(__x86_64__)
    static const Ops wide{avx2::threshold}, widest{avx512::threshold};
    if (level == Isa::avx512) return widest;
    if (level == Isa::avx2) return wide;
#endif
    (void)level;
    return portable;
}

}  // namespace engine::sparse
