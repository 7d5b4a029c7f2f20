// The two ends of an exchange. Six additive columns a row:
//   owner, FTRL:   sum g, sum g^2, (sum g of the rank)^2, sum sigma*w, increase of sqrt(n), 1
//   otherwise:     change of w, of a, of n, sum g, (sum g of the rank)^2, 1
#pragma once
#include "learn/rule.h"

namespace engine::learn::base {

inline void extract(const Rule& r, Merge how, const Table& t, const Track& track, const std::uint32_t* order, float* values) {
    for (std::size_t i = 0; i < track.count; ++i, values += 6) {
        const float *side = track.side + 4 * std::size_t(order[i]), *row = t.block + 4 * std::size_t(track.ids[order[i]]);
        const float g = side[3];
        if (r.learner == Learner::ftrl && how == Merge::owner) {
            const float s = std::sqrt(row[2]) - std::sqrt(side[2]);
            values[0] = g, values[1] = row[2] - side[2], values[2] = g * g, values[3] = g - (row[1] - side[1]), values[4] = s;
        } else {
            for (int c = 0; c < 3; ++c) values[c] = row[c] - side[c];
            values[3] = g, values[4] = g * g;
        }
        values[5] = 1;
    }
}

inline void restore(const Table& t, const Track& track) {
    for (std::size_t i = 0; i < track.count; ++i) {
        float* row = t.block + 4 * std::size_t(track.ids[i]);
        const float* side = track.side + 4 * i;
        row[0] = side[0], row[1] = side[1], row[2] = side[2], row[3] = 0;
    }
}

inline float weight_of(const Rule& r, float z, float n) {
    const float m = std::fabs(z) - r.l1;
    return m > 0 ? std::copysign(m / ((r.beta + std::sqrt(n)) / r.rate + r.l2), -z) : 0.f;
}

// Gradients of different ranks have not seen one another: what they agree on counts as one large gradient, as in
// AdaptiveRevision (McMahan and Streeter, NIPS 2014), eased by .65 (1 - 2 / ranks that touched the row): of the factors
// .1 to 1 it loses least at 64 ranks (docs/exchange.md).
inline float agreement(float sum, float squares, float ranks) {
    const float c = sum * sum - squares, f = .65f * (1 - 2 / ranks);
    return c > 0 && f > 0 ? f * c : 0.f;
}

// n' = n + sum g^2 + agreement; z' = z + sum g - centre * (sqrt(n') - sqrt(n)) / alpha, where centre is the mean of
// the w along the ranks' paths, weighted by their sigma. One rank alone gets its own state back (to rounding).
inline void own_ftrl(const Rule& r, float* row, const float* v, float late = 0) {
    const float n = row[2] + v[1] + agreement(v[0], v[2], v[5]) + late;
    const float rise = std::sqrt(n) - std::sqrt(row[2]);
    row[1] += v[0] - (v[4] > 0 ? v[3] * (rise / v[4]) : 0.f);
    row[2] = n;
    row[0] = weight_of(r, row[1], n);
}

// Share of a step whose gradients agree: |sum| is held to the root of the sum of squares, what it would be if the ranks
// were independent. n ranks that agree move as far as sqrt(n), ranks that cancel move by their sum, one rank as it did.
inline float agreed(float sum, float squares) {
    const float c = sum * sum;
    return c > squares && squares > 0 ? std::sqrt(squares / c) : 1.f;
}

// Adaptive rates: each rank stepped by 1 / sqrt(n + its own sum), the owner by 1 / sqrt(n + all + agreement).
inline void own_step(const Rule& r, float* row, const float* v, float late = 0, float unseen = 0) {
    const float ranks = v[5];
    float damp = 1 / ranks;  // PA: the mean over touching ranks
    if (r.learner == Learner::sgd) damp = 1 / std::sqrt(ranks);
    if (r.learner == Learner::adagrad || r.learner == Learner::nag) {
        const float all = row[2] + v[2] + agreement(v[3], v[4], ranks) + late;
        damp = all > 0 ? std::sqrt((row[2] + v[2] / ranks) / all) : damp;
    } else if (unseen > 0) {
        damp *= std::sqrt(unseen + 1) - std::sqrt(unseen);  // of equal steps, so many before it: they add up as a root does
    }
    row[0] += v[0] * damp;
    row[1] += v[1] / ranks;
    row[2] += v[2];
}

inline void apply_row(const Rule& r, Merge how, float* row, const float* v, int ranks) {
    if (how == Merge::owner) {
        if (v[5] >= 1) r.learner == Learner::ftrl ? own_ftrl(r, row, v) : own_step(r, row, v);
        return;
    }
    float share = how == Merge::add ? 1.f : how == Merge::average ? 1.f / static_cast<float>(ranks) : 1.f / v[5];
    if (how == Merge::conflict) share = agreed(v[3], v[4]);
    for (int c = 0; c < 2; ++c) row[c] += v[c] * share;
    row[2] += v[2] * (how == Merge::conflict ? 1.f : share);
    if (r.learner == Learner::ftrl) row[0] = weight_of(r, row[1], row[2]);
}

inline void apply(const Rule& r, Merge how, const Table& t, const std::uint32_t* ids, const float* v, std::size_t m, int ranks) {
    for (std::size_t i = 0; i < m; ++i, v += 6) apply_row(r, how, t.block + 4 * std::size_t(ids[i]), v, ranks);
}

// The same, push by push, for a row of the parameter table: w, a, n and the sum G of all gradients that came, for each class.
// Items have a seventh column, sum g * G as it was when the sender read the row. So sum g * G now, less that, tells how far a
// push agrees with those that its sender had not seen, which counts as agreement does where pushes are summed first.
inline void own(const Rule& r, Merge how, float* row, const float* v, std::size_t rows) {
    for (std::size_t i = 0; i < rows; ++i, row += 4, v += 7) {
        if (!(v[5] >= 1)) continue;
        const bool ftrl = r.learner == Learner::ftrl && how == Merge::owner;
        const float g = ftrl ? v[0] : v[3], squares = ftrl ? v[2] : v[4], cross = g * row[3] - v[6];
        if (how == Merge::owner) {
            const float unseen = cross > 0 && squares > 0 ? cross / squares : 0;  // pushes like this one
            const float f = .65f * (1 - 1 / (v[5] + unseen)), late = unseen > 0 && f > 0 ? 2 * f * cross : 0;
            ftrl ? own_ftrl(r, row, v, late) : own_step(r, row, v, late, unseen);
        } else {
            apply_row(r, how, row, v, 1);
        }
        row[3] += g;
    }
}

inline std::size_t combine(const std::uint32_t* ka, const float* va, std::size_t na, const std::uint32_t* kb, const float* vb,
                           std::size_t nb, std::uint32_t* keys, float* values) {
    std::size_t i = 0, j = 0, m = 0;
    for (; i < na || j < nb; ++m) {
        const bool left = j == nb || (i < na && ka[i] <= kb[j]), right = i == na || (j < nb && kb[j] <= ka[i]);
        keys[m] = left ? ka[i] : kb[j];
        for (int c = 0; c < 6; ++c)
            values[6 * m + c] = left && right ? va[6 * i + c] + vb[6 * j + c] : left ? va[6 * i + c] : vb[6 * j + c];
        i += left, j += right;
    }
    return m;
}

}  // namespace engine::learn::base
