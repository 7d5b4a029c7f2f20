// Dense rows under one label: while a call lasts the columns of the block lie side by side, so that a row is learned by
// whole lanes, nothing gathered or transposed. The operations of base.h in their order, hence the same bits.
#pragma once
#include "learn/base.h"

namespace engine::learn::base {

constexpr std::size_t WIDEST = 1024, FEWEST = 4;  // features that are held so, and rows that pay for it

// Whether the rows of a call are of this kind.
INLINE bool packs(const Table& t, const Rows& rows, std::size_t from) {
    return rows.x && !t.pairs && t.classes == 1 && rows.width <= WIDEST && rows.count >= from + FEWEST;
}

// The rows of the block of features 0..width-1 and of the bias, by columns. Lanes past the last have no meaning: their x is 0.
template <Learner L>
struct Columns {
    std::size_t full, count;  // features in whole groups of four; features and bias
    std::int32_t rest;        // features in the last group, before the bias
    float bias;
    alignas(16) float w[WIDEST + 4], a[WIDEST + 4], n[WIDEST + 4], g[WIDEST + 4];

    Columns(const Rule& r, const Rows& rows)
        : full(rows.width & ~std::size_t(3)), count(rows.width + (r.bias != 0)),
          rest(static_cast<std::int32_t>(rows.width - full)), bias(r.bias) {}

    std::size_t end() const { return full + (count > full ? 4 : 0); }
    std::uint32_t id(const Table& t, std::size_t i) const {
        return bias != 0 && i + 1 == count ? t.keys - 1 : static_cast<std::uint32_t>(i);
    }
    float* row(const Table& t, std::size_t i) const { return t.block + 4 * std::size_t(id(t, i)); }

    // Returns whether all rows are marked as touched.
    bool take(const Table& t, const Track* track) {
        bool all = true;
        for (std::size_t i = 0; i < count; ++i) {
            const float* from = row(t, i);
            const std::uint32_t mark = mark_of(from);
            w[i] = from[0], a[i] = from[1], n[i] = from[2], g[i] = track && mark ? track->side[4 * std::size_t(mark) - 1] : 0;
            all = all && mark;
        }
        for (std::size_t i = count; i < end(); ++i) w[i] = a[i] = n[i] = g[i] = 0;
        return all;
    }
    void put(const Table& t, const Track* track) const {
        for (std::size_t i = 0; i < count; ++i) {
            float* to = row(t, i);
            to[0] = w[i], to[1] = a[i], to[2] = n[i];
            if (const std::uint32_t mark = mark_of(to); track && mark) track->side[4 * std::size_t(mark) - 1] = g[i];
        }
    }
    // The last group of a row: features, bias, zeros. `ahead`: places that may be read from its start.
    INLINE F4 last(const float* x, std::size_t ahead) const {
        const I4 lane = {0, 1, 2, 3};
        F4 v = set(0);
        if (ahead >= full + 4) v = load(x + full);
        else
            for (int l = 0; l < rest; ++l) v[l] = x[full + static_cast<std::size_t>(l)];
        return lane < rest ? v : (lane == rest ? set(bias) : set(0));
    }
    INLINE Sums dot(const float* x, F4 tail) const {
        F4 m = set(0), q = set(0);
        for (std::size_t i = 0; i < full; i += 4) dot4<L>(load(w + i), load(a + i), load(x + i), m, q);
        if (count > full) dot4<L>(load(w + full), load(a + full), tail, m, q);
        return {total(m), squared(L) ? total(q) : 0.f};
    }
    template <bool Tracked>
    INLINE void change(const Pace& c, std::size_t i, F4 x, F4 k) {
        const F4 by = k * x;
        if constexpr (Tracked) store(g + i, load(g + i) + by);
        F4 p = load(w + i), q = load(a + i), r = load(n + i);
        advance<L>(c, p, q, r, by, x);
        store(w + i, p), store(a + i, q), store(n + i, r);
    }
};

INLINE std::size_t ahead_of(const Table& t, const Rows& rows, std::size_t i) {
    return t.scale ? rows.width : (rows.count - i) * rows.width;
}

template <Learner L>
inline void predict_dense(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, float* scores) {
    Columns<L> c(r, rows);
    c.take(t, nullptr);
    for (std::size_t i = 0; i < rows.count; ++i) {
        const View v = view(t, rows, s, 0, i);
        scores[i] = c.dot(v.values, c.last(v.values, ahead_of(t, rows, i))).margin;
    }
}

template <Learner L, bool Tracked>
inline std::size_t learn_dense(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, Track* track, std::size_t i,
                               float* out, std::uint64_t* bad) {
    Columns<L> c(r, rows);
    bool touched = c.take(t, Tracked ? track : nullptr);
    for (; i < rows.count; ++i) {
        const View v = view(t, rows, s, 0, i);
        if (Tracked && track->count + v.count + 1 > track->capacity) break;
        const F4 tail = c.last(v.values, ahead_of(t, rows, i));
        const Sums sums = c.dot(v.values, tail);
        const float y = rows.y[i], weight = rows.weight ? rows.weight[i] : 1.f;
        bool fine = std::isfinite(sums.margin) && std::isfinite(sums.square);
        out[i] = sums.margin;
        fine = fine && !std::isinf(y) && std::isfinite(weight);
        *bad += !fine;
        if (!fine || std::isnan(y) || weight == 0) continue;
        t.clock[0] += 1;
        if constexpr (L == Learner::nag) t.clock[1] += sums.square;
        const Pace p = pace<L>(r, t.clock);
        const float k = coefficient<L>(r, sums.margin, y, sums.square) * weight;
        if (k != 0 || L == Learner::nag) {
            if (Tracked && __builtin_expect(!touched, 0)) {
                for (std::size_t j = 0; j < c.count; ++j) touch(*track, c.row(t, j), c.id(t, j));
                touched = true;
            }
            for (std::size_t j = 0; j < c.full; j += 4) c.template change<Tracked>(p, j, load(v.values + j), set(k));
            if (c.count > c.full) c.template change<Tracked>(p, c.full, tail, set(k));
        }
        if (t.scale) scale_learn(t.scale, rows.x + i * rows.width, rows.width);
    }
    c.put(t, Tracked ? track : nullptr);
    return i;
}

}  // namespace engine::learn::base
