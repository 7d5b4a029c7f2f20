#pragma once
#include "learn/row.h"
#include "learn/rule.h"

namespace engine::learn::base {

// A row as the passes read it: whole groups of four features in place, then what is left and the bias as one group more.
struct Line {
    const std::uint32_t* keys;
    const float* values;  // null = all 1
    std::size_t full;     // features in whole groups
    std::uint32_t at[4];  // the last group; lanes past `count` repeat lane 0 with a value of 0
    F4 x;
    int count;
};

INLINE Line line(const View& v, const Table& t, float bias) {
    Line r{v.keys, v.values, v.count & ~std::size_t(3), {0, 0, 0, 0}, set(0), 0};
    const std::size_t n = v.count - r.full;
    const std::int32_t rest = static_cast<std::int32_t>(n), top = static_cast<std::int32_t>(t.keys - 1);
    r.count = rest + (bias != 0);
    if (r.full + 4 <= v.ahead) {  // without a branch a lane: read on into the next row, then put the bias in
        const I4 lane = {0, 1, 2, 3};
        I4 k;
        std::memcpy(&k, v.keys + r.full, 16);
        k = lane < rest ? k : I4{top, top, top, top};
        std::memcpy(r.at, &k, 16);
        r.x = lane < rest ? (v.values ? load(v.values + r.full) : set(1)) : (lane == rest ? set(bias) : set(0));
        return r;
    }
    for (std::size_t l = 0; l < 4; ++l) {
        const bool feature = l < n, real = l < static_cast<std::size_t>(r.count);
        r.at[l] = feature ? v.keys[r.full + l] : real || l == 0 ? t.keys - 1 : r.at[0];
        r.x[l] = feature ? (v.values ? v.values[r.full + l] : 1.f) : real ? bias : 0.f;
    }
    return r;
}

// Rows of the block that four keys name under one label.
struct Four {
    std::uint32_t at[4];
    INLINE Four(const std::uint32_t* keys, const Table& t, std::uint32_t label) {
        I4 k;
        std::memcpy(&k, keys, 16);
        if (t.classes != 1) k = k * static_cast<std::int32_t>(t.classes) + static_cast<std::int32_t>(label);
        std::memcpy(at, &k, 16);
    }
    INLINE float* row(const Table& t, int l) const { return t.block + 4 * std::size_t(at[l]); }
    INLINE F4 column(const Table& t, int c) const {
        return F4{row(t, 0)[c], row(t, 1)[c], row(t, 2)[c], row(t, 3)[c]};
    }
    INLINE bool twice() const {  // a key in two lanes must be learned in turn
        I4 k;
        std::memcpy(&k, at, 16);
        return any((k == __builtin_shuffle(k, I4{1, 2, 3, 0})) | (k == __builtin_shuffle(k, I4{2, 3, 0, 1})));
    }
    INLINE bool twice(int count) const {
        if (count == 4) return twice();
        return (count > 1 && at[0] == at[1]) || (count > 2 && (at[0] == at[2] || at[1] == at[2]));
    }
};

struct Sums {
    float margin, square;  // PA: |x|^2; NAG: sum of (x / scale)^2
};

INLINE std::uint32_t mark_of(const float* row) {
    std::uint32_t mark;
    std::memcpy(&mark, row + 3, 4);
    return mark;
}

template <Learner L>
INLINE void dot4(F4 w, F4 s, F4 x, F4& m, F4& q) {
    if constexpr (L == Learner::nag) {
        const F4 a = magnitude(x), top = a > s ? a : s;
        m = m + (a > s ? w * (s / a) : w) * x;
        const F4 z = top > 0 ? x / top : set(0);
        q = q + z * z;
    } else {
        m = m + w * x;
        if constexpr (L == Learner::pa1 || L == Learner::pa2) q = q + x * x;
    }
}

template <Learner L>
INLINE void dot4(const Table& t, const Four& f, F4 x, F4& m, F4& q) {
    dot4<L>(f.column(t, 0), L == Learner::nag ? f.column(t, 1) : set(0), x, m, q);
}

INLINE void fetch_sides(const Table& t, const Track& track, const Four& f, int count) {
    for (int l = 0; l < count; ++l)
        if (const std::uint32_t mark = mark_of(f.row(t, l))) __builtin_prefetch(track.side + 4 * std::size_t(mark - 1), 1);
}

template <Learner L>
INLINE Sums dot(const Table& t, const Line& r, std::uint32_t label, const Track* track, bool far) {
    F4 m = set(0), q = set(0);
    for (std::size_t i = 0; i < r.full; i += 4) {
        const Four f(r.keys + i, t, label);
        dot4<L>(t, f, r.values ? load(r.values + i) : set(1), m, q);
        if (far) fetch_sides(t, *track, f, 4);
    }
    if (r.count) {
        const Four f(r.at, t, label);
        dot4<L>(t, f, r.x, m, q);
        if (far) fetch_sides(t, *track, f, r.count);
    }
    return {total(m), L == Learner::nag || L == Learner::pa1 || L == Learner::pa2 ? total(q) : 0.f};
}

// Marks a row on its first touch and keeps its base; the sum of its gradients begins at 0.
__attribute__((noinline)) inline void touch(Track& track, float* row, std::uint32_t id) {
    if (mark_of(row)) return;
    track.ids[track.count] = id;
    float* side = track.side + 4 * track.count;
    side[0] = row[0], side[1] = row[1], side[2] = row[2], side[3] = 0;
    const auto mark = static_cast<std::uint32_t>(++track.count);
    std::memcpy(row + 3, &mark, 4);
}

INLINE void add(const Track& track, const float* row, float g) { track.side[4 * std::size_t(mark_of(row)) - 1] += g; }

template <Learner L>
INLINE void change(const Pace& c, const Table& t, Track* track, const Four& f, F4 g, F4 x, int count) {
    float* const row[4] = {f.row(t, 0), f.row(t, 1), f.row(t, 2), f.row(t, 3)};
    F4 w = load(row[0]), a = load(row[1]), n = load(row[2]), mark = load(row[3]);
    transpose(w, a, n, mark);
    if (track) {
        if (__builtin_expect(any((I4)mark == 0), 0)) {
            for (int l = 0; l < count; ++l) touch(*track, row[l], f.at[l]);
            mark = f.column(t, 3);
        }
        for (int l = 0; l < count; ++l) add(*track, row[l], g[l]);
    }
    advance<L>(c, w, a, n, g, x);
    transpose(w, a, n, mark);
    store(row[0], w);
    if (count > 1) store(row[1], a);
    if (count > 2) store(row[2], n);
    if (count > 3) store(row[3], mark);
}

template <Learner L>
__attribute__((noinline)) void change_in_turn(const Pace& c, const Table& t, Track* track, const Four& f, F4 g, F4 x, int count) {
    for (int l = 0; l < count; ++l) {
        Four one = f;
        for (auto& id : one.at) id = f.at[l];
        change<L>(c, t, track, one, set(g[l]), set(x[l]), 1);
    }
}

template <Learner L>
INLINE void change_any(const Pace& c, const Table& t, Track* track, const Four& f, F4 g, F4 x, int count) {
    if (__builtin_expect(f.twice(count), 0)) change_in_turn<L>(c, t, track, f, g, x, count);
    else change<L>(c, t, track, f, g, x, count);
}

template <Learner L>
INLINE void update(const Pace& c, const Table& t, Track* track, const Line& r, std::uint32_t label, float coefficient) {
    const F4 k = set(coefficient);
    for (std::size_t i = 0; i < r.full; i += 4) {
        const F4 x = r.values ? load(r.values + i) : set(1);
        change_any<L>(c, t, track, Four(r.keys + i, t, label), k * x, x, 4);
    }
    if (r.count) change_any<L>(c, t, track, Four(r.at, t, label), k * r.x, r.x, r.count);
}

template <Learner L>
INLINE Pace pace(const Rule& r, const double* clock) {
    float rate = r.rate;
    if constexpr (L == Learner::ftrl) rate = 1.f / r.rate;
    if constexpr (L == Learner::sgd) rate = static_cast<float>(r.rate * power_lane(clock[0], r.power));
    if constexpr (L == Learner::nag)
        rate = clock[1] > 0 ? static_cast<float>(r.rate * std::sqrt(clock[0] / clock[1])) : 0.f;
    return {set(rate), set(r.beta), set(r.l1), set(r.l2)};
}

INLINE float target(const Table& t, float y, std::uint32_t label) {
    return t.classes == 1 ? y : (y == static_cast<float>(label) ? 1.f : 0.f);
}

INLINE void fetch(const Table& t, const Rows& rows, std::size_t i) {
    if (i >= rows.count || rows.x) return;
    for (auto k = rows.indptr[i]; k < rows.indptr[i + 1]; ++k)
        __builtin_prefetch(t.block + 4 * std::size_t(rows.keys[k]) * t.classes, 1);
}

// Rows touched of a large block: below this they are in the cache whatever its size, and need no prefetch.
constexpr std::size_t NEAR = 8192;

template <Learner L>
inline void predict(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, float* scores) {
    for (std::size_t i = 0; i < rows.count; ++i) {
        if (t.far) fetch(t, rows, i + 2);
        const View v = view(t, rows, s, t.keys - (r.bias != 0), i);
        const Line row = line(v, t, r.bias);
        for (std::uint32_t c = 0; c < t.classes; ++c) scores[i * t.classes + c] = dot<L>(t, row, c, nullptr, false).margin;
    }
}

template <Learner L>
INLINE void learn_row(const Rule& r, const Table& t, const Line& row, Track* track, float y, float weight, const float* scores,
                      float square) {
    if constexpr (L == Learner::nag) t.clock[1] += square;
    const Pace c = pace<L>(r, t.clock);
    for (std::uint32_t label = 0; label < t.classes; ++label) {
        const float k = coefficient<L>(r, scores[label], target(t, y, label), square) * weight;
        if (k != 0 || L == Learner::nag) update<L>(c, t, track, row, label, k);
    }
}

template <Learner L, bool Tracked>
inline std::size_t learn(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, Track* track, std::size_t i,
                         float* out, std::uint64_t* bad) {
    if constexpr (!Tracked) track = nullptr;
    for (; i < rows.count; ++i) {
        const bool far = t.far && (!Tracked || track->count > NEAR);
        if (far) fetch(t, rows, i + 2);
        const View v = view(t, rows, s, t.keys - (r.bias != 0), i);
        if (Tracked && track->count + (v.count + 1) * t.classes > track->capacity) return i;
        float* scores = out + i * t.classes;
        Sums sums{0, 0};
        bool fine = true;
        const Line row = line(v, t, r.bias);
        for (std::uint32_t c = 0; c < t.classes; ++c) {
            sums = dot<L>(t, row, c, track, Tracked && far);
            scores[c] = sums.margin;
            fine = fine && std::isfinite(sums.margin) && std::isfinite(sums.square);
        }
        const float y = rows.y[i], weight = rows.weight ? rows.weight[i] : 1.f;
        fine = fine && !std::isinf(y) && std::isfinite(weight);
        *bad += !fine;
        if (!fine || std::isnan(y) || weight == 0) continue;
        t.clock[0] += 1;
        learn_row<L>(r, t, row, track, y, weight, scores, sums.square);
        if (t.scale) scale_learn(t.scale, rows.x + i * rows.width, rows.width);
    }
    return i;
}

// The two halves of `learn` where the columns of a row lie with several members. First each one's part of the sums of
// rows [start, end): margins (end - start, classes), then as many squares where the learner asks for them.
template <Learner L>
inline void halve(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, std::size_t start, std::size_t end,
                  float* margins) {
    float* squares = margins + (end - start) * t.classes;
    for (std::size_t i = start; i < end; ++i) {
        if (t.far) fetch(t, rows, i + 2);
        const Line row = line(view(t, rows, s, t.keys - (r.bias != 0), i), t, r.bias);
        for (std::uint32_t c = 0; c < t.classes; ++c) {
            const Sums part = dot<L>(t, row, c, nullptr, false);
            *margins++ = part.margin;
            if constexpr (squared(L)) *squares++ = part.square;
        }
    }
}

// Then, from the sums of all members for rows [start, end), the step of the keys that are here; returns as `learn` does.
template <Learner L>
inline std::size_t whole(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, Track* track, std::size_t i,
                         std::size_t start, std::size_t end, const float* margins, std::uint64_t* bad) {
    const float* squares = squared(L) ? margins + (end - start) * t.classes : nullptr;
    for (; i < end; ++i) {
        const View v = view(t, rows, s, t.keys - (r.bias != 0), i);
        if (track && track->count + (v.count + 1) * t.classes > track->capacity) return i;
        const float* scores = margins + (i - start) * t.classes;
        const float square = squares ? squares[(i - start + 1) * t.classes - 1] : 0;
        bool fine = std::isfinite(square);
        for (std::uint32_t c = 0; c < t.classes; ++c) fine = fine && std::isfinite(scores[c]);
        const float y = rows.y[i], weight = rows.weight ? rows.weight[i] : 1.f;
        fine = fine && !std::isinf(y) && std::isfinite(weight);
        *bad += !fine;
        if (!fine || std::isnan(y) || weight == 0) continue;
        t.clock[0] += 1;
        learn_row<L>(r, t, line(v, t, r.bias), track, y, weight, scores, square);
        if (t.scale) scale_learn(t.scale, rows.x + i * rows.width, rows.width);
    }
    return i;
}

template <Learner L>
inline bool step(const Rule& r, const Table& t, Track* track, const std::uint32_t* ids, const float* g, std::size_t m) {
    if (track && track->count + m > track->capacity) return false;
    t.clock[0] += 1;
    const Pace c = pace<L>(r, t.clock);
    Table rows = t;
    rows.classes = 1;  // ids name rows of the block, whatever the label
    for (std::size_t i = 0; i < m; ++i) {
        const std::uint32_t at[4] = {ids[i], ids[i], ids[i], ids[i]};
        change<L>(c, rows, track, Four(at, rows, 0), set(g[i]), set(1), 1);
    }
    return true;
}

}  // namespace engine::learn::base
