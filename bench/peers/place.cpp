// Placement by formula, the baselines of `route.*`: each maps n keys to one of `nodes` owners, built with the flags of our own kernels.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

std::uint64_t mix(std::uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

std::vector<std::pair<std::uint64_t, std::int32_t>> ring;
std::vector<std::uint64_t> points;

}  // namespace

extern "C" {

// Lamping and Veach, "A fast, minimal memory, consistent hash algorithm", 2014.
void jump(const std::uint64_t* keys, std::size_t n, std::int32_t nodes, std::int32_t* out) {
    for (std::size_t i = 0; i < n; ++i) {
        std::uint64_t key = keys[i];
        std::int64_t b = -1, j = 0;
        while (j < nodes) {
            b = j;
            key = key * 2862933555777941757ull + 1;
            j = static_cast<std::int64_t>(static_cast<double>(b + 1) * (static_cast<double>(1ll << 31) / static_cast<double>((key >> 33) + 1)));
        }
        out[i] = static_cast<std::int32_t>(b);
    }
}

// Consistent hashing with `virtuals` points a node on a sorted ring (Karger and others, 1997); binary search over the points alone.
void ring_make(std::int32_t nodes, std::int32_t virtuals) {
    ring.clear();
    for (std::int32_t node = 0; node < nodes; ++node)
        for (std::int32_t v = 0; v < virtuals; ++v) ring.emplace_back(mix(mix(static_cast<std::uint64_t>(node) + 1) + static_cast<std::uint64_t>(v)), node);
    std::sort(ring.begin(), ring.end());
    points.clear();
    for (const auto& point : ring) points.push_back(point.first);
}

void ring_find(const std::uint64_t* keys, std::size_t n, std::int32_t, std::int32_t* out) {
    for (std::size_t i = 0; i < n; ++i) {
        auto at = static_cast<std::size_t>(std::lower_bound(points.begin(), points.end(), mix(keys[i])) - points.begin());
        out[i] = ring[at == ring.size() ? 0 : at].second;
    }
}

// Rendezvous: the node with the highest hash of (key, node) (Thaler and Ravishankar, 1998).
void rendezvous(const std::uint64_t* keys, std::size_t n, std::int32_t nodes, std::int32_t* out) {
    for (std::size_t i = 0; i < n; ++i) {
        std::uint64_t best = 0;
        std::int32_t at = 0;
        for (std::int32_t node = 0; node < nodes; ++node) {
            const std::uint64_t h = mix(keys[i] ^ static_cast<std::uint64_t>(node) * 0x9E3779B97F4A7C15ull);
            if (h >= best) best = h, at = node;
        }
        out[i] = at;
    }
}

}
