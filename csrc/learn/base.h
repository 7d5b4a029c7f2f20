#pragma once
#include "learn/row.h"
#include "learn/rule.h"

namespace engine::learn::base {

struct Group {  // four features of a row; lanes past `count` are inert
    std::uint32_t at[4];
    F4 x;
    int count;
};

struct Reader {  // walks a row in groups of four, the bias last
    const View& v;
    const Table& t;
    float bias;
    std::uint32_t label;

    std::size_t size() const { return v.count + (bias != 0); }
    Group group(std::size_t i) const {
        Group g;
        const std::size_t left = size() - i;
        if (v.count - i >= 4 && i < v.count) {
            g.count = 4;
            for (int l = 0; l < 4; ++l) g.at[l] = v.keys[i + l] * t.classes + label;
            g.x = v.values ? load(v.values + i) : set(1);
            return g;
        }
        g.count = left < 4 ? static_cast<int>(left) : 4;
        if (i + 4 <= v.ahead) {  // the tail without a branch a lane: read on into the next row, then put the bias in
            const auto n = static_cast<std::int32_t>(v.count - i), top = static_cast<std::int32_t>(t.keys - 1);
            const I4 lane = {0, 1, 2, 3};
            I4 k;
            std::memcpy(&k, v.keys + i, 16);
            k = (lane < n ? k : I4{top, top, top, top}) * static_cast<std::int32_t>(t.classes) + static_cast<std::int32_t>(label);
            std::memcpy(g.at, &k, 16);
            g.x = lane < n ? (v.values ? load(v.values + i) : set(1)) : (lane == n ? set(bias) : set(0));
            return g;
        }
        float x[4] = {0, 0, 0, 0};
        for (int l = 0; l < 4; ++l) {
            const std::size_t j = i + l < size() ? i + l : i;
            g.at[l] = (j < v.count ? v.keys[j] : t.keys - 1) * t.classes + label;
            if (l < g.count) x[l] = j < v.count ? (v.values ? v.values[j] : 1.f) : bias;
        }
        g.x = load(x);
        return g;
    }
};

inline F4 column(const float* block, const std::uint32_t* at, int c) {
    return F4{block[4 * std::size_t(at[0]) + c], block[4 * std::size_t(at[1]) + c], block[4 * std::size_t(at[2]) + c],
              block[4 * std::size_t(at[3]) + c]};
}

struct Sums {
    float margin, square;  // PA: |x|^2; NAG: sum of (x / scale)^2
};

template <Learner L>
inline Sums dot(const Table& t, const Reader& r, const Track* track) {
    constexpr bool nag = L == Learner::nag, square = nag || L == Learner::pa1 || L == Learner::pa2;
    F4 m = set(0), q = set(0);
    for (std::size_t i = 0; i < r.size(); i += 4) {
        const Group g = r.group(i);
        const F4 w = column(t.block, g.at, 0);
        if constexpr (nag) {
            const F4 s = column(t.block, g.at, 1), a = magnitude(g.x), top = a > s ? a : s;
            m = m + (a > s ? w * (s / a) : w) * g.x;
            const F4 z = top > 0 ? g.x / top : set(0);
            q = q + z * z;
        } else {
            m = m + w * g.x;
            if constexpr (square) q = q + g.x * g.x;
        }
        if (track && t.far)
            for (int l = 0; l < g.count; ++l) {
                std::uint32_t mark;
                std::memcpy(&mark, t.block + 4 * std::size_t(g.at[l]) + 3, 4);
                if (mark) __builtin_prefetch(track->side + 4 * std::size_t(mark - 1), 1);
            }
    }
    return {total(m), square ? total(q) : 0.f};
}

// Marks the row on its first touch and keeps its base; then adds the gradient to its sum.
inline void touch(Track& track, float* row, std::uint32_t id, float g) {
    std::uint32_t mark;
    std::memcpy(&mark, row + 3, 4);
    if (!mark) {
        track.ids[track.count] = id;
        float* side = track.side + 4 * track.count;
        side[0] = row[0], side[1] = row[1], side[2] = row[2], side[3] = 0;
        mark = static_cast<std::uint32_t>(++track.count);
        std::memcpy(row + 3, &mark, 4);
    }
    track.side[4 * std::size_t(mark - 1) + 3] += g;
}

template <Learner L>
inline void change(const Pace& c, const Table& t, Track* track, const std::uint32_t* at, F4 g, F4 x, int count) {
    float* row[4];
    for (int l = 0; l < 4; ++l) row[l] = t.block + 4 * std::size_t(at[l]);
    if (track)
        for (int l = 0; l < count; ++l) touch(*track, row[l], at[l], g[l]);
    F4 w = load(row[0]), a = load(row[1]), n = load(row[2]), mark = load(row[3]);
    transpose(w, a, n, mark);
    advance<L>(c, w, a, n, g, x);
    transpose(w, a, n, mark);
    store(row[0], w);
    if (count > 1) store(row[1], a);
    if (count > 2) store(row[2], n);
    if (count > 3) store(row[3], mark);
}

inline bool twice(const Group& g) {  // a key in two lanes must be learned in turn
    I4 k;
    std::memcpy(&k, g.at, 16);
    if (g.count < 4)  // inert lanes repeat lane 0: give them keys of their own
        return (g.count > 1 && g.at[0] == g.at[1]) || (g.count > 2 && (g.at[0] == g.at[2] || g.at[1] == g.at[2]));
    return any((k == __builtin_shuffle(k, I4{1, 2, 3, 0})) | (k == __builtin_shuffle(k, I4{2, 3, 0, 1})));
}

template <Learner L>
inline void update(const Pace& c, const Table& t, Track* track, const Reader& r, float coefficient) {
    for (std::size_t i = 0; i < r.size(); i += 4) {
        const Group g = r.group(i);
        const F4 grad = set(coefficient) * g.x;
        if (!twice(g)) {
            change<L>(c, t, track, g.at, grad, g.x, g.count);
            continue;
        }
        for (int l = 0; l < g.count; ++l) {
            const std::uint32_t at[4] = {g.at[l], g.at[l], g.at[l], g.at[l]};
            change<L>(c, t, track, at, set(grad[l]), set(g.x[l]), 1);
        }
    }
}

template <Learner L>
inline Pace pace(const Rule& r, const double* clock) {
    float rate = r.rate;
    if constexpr (L == Learner::ftrl) rate = 1.f / r.rate;
    if constexpr (L == Learner::sgd) rate = static_cast<float>(r.rate * power_lane(clock[0], r.power));
    if constexpr (L == Learner::nag)
        rate = clock[1] > 0 ? static_cast<float>(r.rate * std::sqrt(clock[0] / clock[1])) : 0.f;
    return {set(rate), set(r.beta), set(r.l1), set(r.l2)};
}

inline float target(const Table& t, float y, std::uint32_t label) {
    return t.classes == 1 ? y : (y == static_cast<float>(label) ? 1.f : 0.f);
}

inline void fetch(const Table& t, const Rows& rows, std::size_t i) {
    if (i >= rows.count || rows.x) return;
    for (auto k = rows.indptr[i]; k < rows.indptr[i + 1]; ++k)
        __builtin_prefetch(t.block + 4 * std::size_t(rows.keys[k]) * t.classes, 1);
}

template <Learner L>
inline void predict(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, float* scores) {
    for (std::size_t i = 0; i < rows.count; ++i) {
        if (t.far) fetch(t, rows, i + 2);
        const View v = view(t, rows, s, t.keys - (r.bias != 0), i);
        for (std::uint32_t c = 0; c < t.classes; ++c)
            scores[i * t.classes + c] = dot<L>(t, Reader{v, t, r.bias, c}, nullptr).margin;
    }
}

template <Learner L>
inline void learn_row(const Rule& r, const Table& t, const View& v, Track* track, float y, float weight, const float* scores,
                      float square) {
    if constexpr (L == Learner::nag) t.clock[1] += square;
    const Pace c = pace<L>(r, t.clock);
    for (std::uint32_t label = 0; label < t.classes; ++label) {
        const float k = coefficient<L>(r, scores[label], target(t, y, label), square) * weight;
        if (k != 0 || L == Learner::nag) update<L>(c, t, track, Reader{v, t, r.bias, label}, k);
    }
}

template <Learner L, bool Tracked>
inline std::size_t learn(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, Track* track, std::size_t i,
                         float* out, std::uint64_t* bad) {
    if constexpr (!Tracked) track = nullptr;
    for (; i < rows.count; ++i) {
        if (t.far) fetch(t, rows, i + 2);
        const View v = view(t, rows, s, t.keys - (r.bias != 0), i);
        if (Tracked && track->count + (v.count + 1) * t.classes > track->capacity) return i;
        float* scores = out + i * t.classes;
        Sums sums{0, 0};
        bool fine = true;
        for (std::uint32_t c = 0; c < t.classes; ++c) {
            sums = dot<L>(t, Reader{v, t, r.bias, c}, track);
            scores[c] = sums.margin;
            fine = fine && std::isfinite(sums.margin) && std::isfinite(sums.square);
        }
        const float y = rows.y[i], weight = rows.weight ? rows.weight[i] : 1.f;
        fine = fine && !std::isinf(y) && std::isfinite(weight);
        *bad += !fine;
        if (!fine || std::isnan(y) || weight == 0) continue;
        t.clock[0] += 1;
        learn_row<L>(r, t, v, track, y, weight, scores, sums.square);
        if (t.scale) scale_learn(t.scale, rows.x + i * rows.width, rows.width);
    }
    return i;
}

template <Learner L>
inline bool step(const Rule& r, const Table& t, Track* track, const std::uint32_t* ids, const float* g, std::size_t m) {
    if (track && track->count + m > track->capacity) return false;
    t.clock[0] += 1;
    const Pace c = pace<L>(r, t.clock);
    for (std::size_t i = 0; i < m; ++i) {
        const std::uint32_t at[4] = {ids[i], ids[i], ids[i], ids[i]};
        change<L>(c, t, track, at, set(g[i]), set(1), 1);
    }
    return true;
}

}  // namespace engine::learn::base
