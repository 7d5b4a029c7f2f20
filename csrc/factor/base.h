#pragma once
#include "factor/ops.h"
#include "learn/lane.h"

namespace engine::factor::base {

using namespace engine::learn;
constexpr std::size_t head = 4;
constexpr std::size_t factors_max = 64;

struct Row {  // one example
    const std::uint32_t* keys;
    const float* values;
    std::size_t count;
    float x(std::size_t i) const { return values ? values[i] : 1.f; }
};

inline Row row(const Rows& r, std::size_t i) {
    const auto low = r.indptr[i];
    return {r.keys + low, r.values ? r.values + low : nullptr, static_cast<std::size_t>(r.indptr[i + 1] - low)};
}

inline float* at(const Table& t, std::size_t key) { return t.block + key * t.width; }

inline void fetch(const Table& t, const Rows& r, std::size_t i) {
    if (i >= r.count) return;
    for (auto k = r.indptr[i]; k < r.indptr[i + 1]; ++k) {
        const char* p = reinterpret_cast<const char*>(at(t, r.keys[k]));
        for (std::size_t b = 0; b < t.width * 4 && b < 256; b += 64) __builtin_prefetch(p + b, 1);
    }
}

// Score of plain factors; leaves the sums S_f = sum v_f x in `sums`.
inline float plain(const Rule& rule, const Table& t, const Row& r, float* sums) {
    const std::size_t k = rule.factors;
    F4 s[factors_max / 4], square = set(0);
    for (std::size_t f = 0; f < k / 4; ++f) s[f] = set(0);
    float linear = at(t, t.keys)[0];
    for (std::size_t i = 0; i < r.count; ++i) {
        const float *p = at(t, r.keys[i]), x = r.x(i);
        linear += p[0] * x;
        for (std::size_t f = 0; f < k / 4; ++f) {
            const F4 v = load(p + head + 4 * f) * set(x);
            s[f] = s[f] + v;
            square = square + v * v;
        }
    }
    F4 pairs = set(0);
    for (std::size_t f = 0; f < k / 4; ++f) {
        pairs = pairs + s[f] * s[f];
        store(sums + 4 * f, s[f]);
    }
    return linear + .5f * (total(pairs) - total(square));
}

inline std::size_t field(const Rule& rule, std::size_t i) { return i < rule.fields ? i : rule.fields - 1; }

// Score of field-aware factors: feature i meets feature j by its vector for the field of j. A field is a feature's place.
inline float aware(const Rule& rule, const Table& t, const Row& r) {
    const std::size_t k = rule.factors;
    float score = at(t, t.keys)[0];
    for (std::size_t i = 0; i < r.count; ++i) score += at(t, r.keys[i])[0] * r.x(i);
    for (std::size_t i = 0; i < r.count; ++i)
        for (std::size_t j = i + 1; j < r.count; ++j) {
            const float *a = at(t, r.keys[i]) + head + k * field(rule, j), *b = at(t, r.keys[j]) + head + k * field(rule, i);
            F4 d = set(0);
            for (std::size_t f = 0; f < k; f += 4) d = d + load(a + f) * load(b + f);
            score += total(d) * r.x(i) * r.x(j);
        }
    return score;
}

inline float score_of(const Rule& rule, const Table& t, const Row& r, float* sums) {
    return rule.fields ? aware(rule, t, r) : plain(rule, t, r, sums);
}

inline void touch(const Table& t, Track& track, std::size_t key) {
    if (!track.ids) return;
    float* p = at(t, key);
    std::uint32_t mark;
    std::memcpy(&mark, p + 3, 4);
    if (mark) return;
    track.ids[track.count] = static_cast<std::uint32_t>(key);
    std::memcpy(track.side + track.count * t.width, p, t.width * 4);
    mark = static_cast<std::uint32_t>(++track.count);
    std::memcpy(p + 3, &mark, 4);
}

inline void step_weight(const Rule& rule, float* p, float g, float x) {
    const float d = g * x + rule.l2 * p[0];
    p[1] += d * d;
    p[0] -= rule.rate * d / (rule.beta + std::sqrt(p[1]));
}

inline void step_plain(const Rule& rule, float* p, float g, float x, const float* sums) {
    const std::size_t k = rule.factors;
    F4 d[factors_max / 4], square = set(0);
    for (std::size_t f = 0; f < k / 4; ++f) {
        const F4 v = load(p + head + 4 * f);
        d[f] = set(g * x) * (load(sums + 4 * f) - v * set(x)) + set(rule.l2_v) * v;
        square = square + d[f] * d[f];
    }
    p[2] += total(square) / static_cast<float>(k);
    const F4 pace = set(rule.rate_v / (rule.beta + std::sqrt(p[2])));
    for (std::size_t f = 0; f < k / 4; ++f) store(p + head + 4 * f, load(p + head + 4 * f) - pace * d[f]);
}

inline void step_aware(const Rule& rule, const Table& t, const Row& r, float g) {
    const std::size_t k = rule.factors;
    for (std::size_t i = 0; i < r.count; ++i)
        for (std::size_t j = i + 1; j < r.count; ++j) {
            if (r.keys[i] == r.keys[j]) continue;
            float *p = at(t, r.keys[i]), *q = at(t, r.keys[j]);
            float *a = p + head + k * field(rule, j), *b = q + head + k * field(rule, i);
            const F4 gx = set(g * r.x(i) * r.x(j)), decay = set(rule.l2_v);
            F4 sa = set(0), sb = set(0);
            for (std::size_t f = 0; f < k; f += 4) {
                const F4 da = gx * load(b + f) + decay * load(a + f), db = gx * load(a + f) + decay * load(b + f);
                sa = sa + da * da, sb = sb + db * db;
            }
            p[2] += total(sa) / static_cast<float>(k), q[2] += total(sb) / static_cast<float>(k);
            const F4 ra = set(rule.rate_v / (rule.beta + std::sqrt(p[2]))), rb = set(rule.rate_v / (rule.beta + std::sqrt(q[2])));
            for (std::size_t f = 0; f < k; f += 4) {
                const F4 va = load(a + f), vb = load(b + f);
                store(a + f, va - ra * (gx * vb + decay * va));
                store(b + f, vb - rb * (gx * va + decay * vb));
            }
        }
}

inline float slope(const Rule& rule, float score, float y) {
    return rule.logistic ? sigmoid_lane(score) - (y > 0 ? 1.f : 0.f) : score - y;
}

}  // namespace engine::factor::base
