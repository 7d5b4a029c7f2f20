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

void strata(std::uint64_t n, std::uint64_t count, std::uint64_t key, std::uint32_t* index) {
    const std::uint64_t width = n / count, rest = n % count;
    std::uint64_t edge = 0, carry = 0;
    for (std::uint64_t i = 0; i < count; ++i) {  // edge = i n / count, without a division
        std::uint64_t next = edge + width;
        carry += rest;
        if (carry >= count) carry -= count, ++next;
        std::uint64_t x = (edge + 1) * 0x9e3779b97f4a7c15ull ^ key;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
        x = (x ^ x >> 27) * 0x94d049bb133111ebull;
        index[i] = static_cast<std::uint32_t>(edge + ((x >> 32) * (next - edge) >> 32));
        edge = next;
    }
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
