#pragma once
#include <cmath>
#include <cstring>

#include "forest/ops.h"

namespace engine::forest::base {

constexpr std::size_t classes_max = 256, cuts = 10;

inline std::uint64_t mixed(std::uint64_t v) {  // splitmix64
    v += 0x9E3779B97F4A7C15ull;
    v = (v ^ (v >> 30)) * 0xBF58476D1CE4E5B9ull;
    v = (v ^ (v >> 27)) * 0x94D049BB133111EBull;
    return v ^ (v >> 31);
}

inline double uniform(std::uint64_t v) { return static_cast<double>(mixed(v) >> 11) * 0x1p-53; }

// Weight of a row: Poisson by inversion, from the row's place and the tree's seed alone.
inline double poisson(double mean, std::uint64_t seed, std::int64_t order) {
    double u = uniform(mixed(seed) ^ static_cast<std::uint64_t>(order)), p = std::exp(-mean);
    int k = 0;
    while (u > p && k < 64) u -= p, p *= mean / ++k;
    return k;
}

inline std::size_t leaf_of(const Tree& t, const float* x) {
    std::size_t at = 0;
    while (t.feature[at] >= 0) at = static_cast<std::size_t>(t.child[2 * at + (static_cast<double>(x[t.feature[at]]) > t.value[at])]);
    return at;
}

inline const double* sums(const Tree& t, std::size_t leaf) { return t.sums + leaf * t.width(); }
inline double* sums(Tree const& t, std::size_t leaf, int) { return t.sums + leaf * t.width(); }

struct Normal {
    double mean, var;
};

inline Normal normal(double n, double s, double q) {
    const double mean = s / n, var = q / n - mean * mean;
    const double least = 1e-12 * (mean * mean) + 1e-12;
    return {mean, n > 1 && var > least ? var * (n / (n - 1)) : least};
}

inline std::size_t best(const double* p, std::size_t n) {
    std::size_t top = 0;
    for (std::size_t c = 1; c < n; ++c)
        if (p[c] > p[top]) top = c;
    return top;
}

// Shares of the classes at a leaf by count (majority) and by naive Bayes; the class each names.
inline void shares(const Tree& t, const Rule& r, std::size_t leaf, const float* x, double* out, std::size_t* major, std::size_t* bayes) {
    const double *s = sums(t, leaf), *n = s + head, *moment = n + t.classes, *prior = t.prior + leaf * t.classes;
    double all = 0, count[classes_max], logp[classes_max];
    for (std::size_t c = 0; c < t.classes; ++c) all += count[c] = prior[c] + n[c];
    *major = best(count, t.classes);
    *bayes = *major;
    for (std::size_t c = 0; c < t.classes; ++c) out[c] = all > 0 ? count[c] / all : 1.0 / static_cast<double>(t.classes);
    if (!r.bayes || all <= 0) return;
    double top = -INFINITY;
    for (std::size_t c = 0; c < t.classes; ++c) {
        logp[c] = -INFINITY;
        if (n[c] <= 0) continue;
        logp[c] = std::log(count[c]);
        for (std::size_t j = 0; j < t.columns; ++j) {
            const double* m = moment + 2 * (j * t.classes + c);
            const Normal g = normal(n[c], m[0], m[1]);
            const double d = x[j] - g.mean;
            logp[c] -= .5 * (std::log(g.var) + d * d / g.var);
        }
        if (logp[c] > top) top = logp[c];
    }
    if (!std::isfinite(top)) return;
    *bayes = best(logp, t.classes);
    if (s[1] < s[0]) return;
    double total = 0;
    for (std::size_t c = 0; c < t.classes; ++c) total += out[c] = std::exp(logp[c] - top);
    for (std::size_t c = 0; c < t.classes; ++c) out[c] /= total;
}

inline double below(const Normal& g, double cut) { return .5 * std::erfc((g.mean - cut) / std::sqrt(2 * g.var)); }

inline double entropy(const double* n, std::size_t classes) {
    double all = 0, h = 0;
    for (std::size_t c = 0; c < classes; ++c) all += n[c];
    if (all <= 0) return 0;
    for (std::size_t c = 0; c < classes; ++c)
        if (n[c] > 0) h -= n[c] / all * std::log2(n[c] / all);
    return h;
}

struct Cut {
    double gain = 0, value = 0, left[classes_max], right[classes_max];
    std::int32_t feature = -1;
};

// The best of ten cuts of a column, over the range that holds nearly all of each class.
inline void try_column(const Tree& t, const double* n, const double* moment, std::size_t j, double before, double all, Cut& out) {
    Normal g[classes_max];
    double low = INFINITY, high = -INFINITY;
    for (std::size_t c = 0; c < t.classes; ++c) {
        if (n[c] <= 0) continue;
        const double* m = moment + 2 * (j * t.classes + c);
        g[c] = normal(n[c], m[0], m[1]);
        const double wide = 2 * std::sqrt(g[c].var);
        low = g[c].mean - wide < low ? g[c].mean - wide : low;
        high = g[c].mean + wide > high ? g[c].mean + wide : high;
    }
    if (!(high > low)) return;
    double left[classes_max], right[classes_max];
    for (std::size_t k = 1; k <= cuts; ++k) {
        const double cut = low + (high - low) * static_cast<double>(k) / (cuts + 1);
        double l = 0;
        for (std::size_t c = 0; c < t.classes; ++c) {
            left[c] = n[c] > 0 ? n[c] * below(g[c], cut) : 0;
            right[c] = n[c] - left[c];
            l += left[c];
        }
        const double gain = before - (l * entropy(left, t.classes) + (all - l) * entropy(right, t.classes)) / all;
        if (gain > out.gain && l > 0 && l < all) {
            out.gain = gain, out.value = cut, out.feature = static_cast<std::int32_t>(j);
            std::memcpy(out.left, left, t.classes * 8), std::memcpy(out.right, right, t.classes * 8);
        }
    }
}

// Whether a leaf looks at a column: its hash is among the `subset` smallest of the leaf's.
inline bool looked_at(const Tree& t, const Rule& r, std::size_t leaf, std::size_t j) {
    if (r.subset >= t.columns) return true;
    const auto key = [&](std::size_t c) { return mixed(mixed(r.seed ^ (leaf << 20)) ^ c); };
    const std::uint64_t mine = key(j);
    std::size_t smaller = 0;
    for (std::size_t c = 0; c < t.columns; ++c) smaller += key(c) < mine;
    return smaller < r.subset;
}

inline bool split(const Tree& t, const Rule& r, std::size_t leaf) {
    const double *s = sums(t, leaf), *n = s + head, *moment = n + t.classes;
    double all = 0;
    std::size_t kinds = 0;
    for (std::size_t c = 0; c < t.classes; ++c) all += n[c], kinds += n[c] > 0;
    t.last[leaf] = s[2];
    if (kinds < 2 || static_cast<std::size_t>(t.depth[leaf]) >= r.depth || *t.count + 2 > static_cast<std::int64_t>(t.room)) return false;
    const double before = entropy(n, t.classes);
    Cut top, next;
    for (std::size_t j = 0; j < t.columns; ++j) {
        if (!looked_at(t, r, leaf, j)) continue;
        Cut one;
        try_column(t, n, moment, j, before, all, one);
        if (one.gain > top.gain) next = top, top = one;
        else if (one.gain > next.gain) next = one;
    }
    const double range = std::log2(static_cast<double>(t.classes)), bound = std::sqrt(range * range * std::log(1 / r.delta) / (2 * all));
    if (top.feature < 0 || !(top.gain - next.gain > bound || bound < r.tie)) return false;
    for (int side = 0; side < 2; ++side) {
        const auto at = static_cast<std::size_t>((*t.count)++);
        t.child[2 * leaf + side] = static_cast<std::int32_t>(at);
        t.feature[at] = -1, t.depth[at] = t.depth[leaf] + 1, t.last[at] = 0, t.touched[at] = 0;
        std::memset(t.sums + at * t.width(), 0, t.width() * 8);
        std::memcpy(t.prior + at * t.classes, side ? top.right : top.left, t.classes * 8);
    }
    t.value[leaf] = top.value;
    t.feature[leaf] = top.feature;
    return true;
}

}  // namespace engine::forest::base
