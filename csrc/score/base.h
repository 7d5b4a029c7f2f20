#pragma once
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "score/ops.h"

namespace engine::score::base {

constexpr double top = 16.0, unit = 16777216.0;

// exp(-a) for a in [0, 64] by + - * only, so that NumPy gives the same bits (see kernels/plain/score.py).
inline double decay(double a) {
    const double k = std::floor(a * 1.4426950408889634 + 0.5);
    const double r = k * 0.6931471805599453 - a;
    double p = 2.505210838544172e-08;  // 1/11! ... 1/0!
    for (double c : {2.755731922398589e-07, 2.7557319223985893e-06, 2.48015873015873e-05, 1.984126984126984e-04,
                     1.388888888888889e-03, 8.333333333333333e-03, 4.1666666666666664e-02, 1.6666666666666666e-01, 0.5, 1.0, 1.0})
        p = p * r + c;
    const std::uint64_t bits = static_cast<std::uint64_t>(1023 - static_cast<std::int64_t>(k)) << 52;
    double scale;
    std::memcpy(&scale, &bits, 8);
    return p * scale;
}

// log(1 + t) for t in [0, 1]: 2 atanh(t / (2 + t)).
inline double grow(double t) {
    const double s = t / (t + 2.0), q = s * s;
    double p = 1.0 / 23.0;
    for (double c : {1.0 / 21.0, 1.0 / 19.0, 1.0 / 17.0, 1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0})
        p = p * q + c;
    return 2.0 * s * p;
}

// Log loss of margin m for its own class (m already signed), clipped to |m| <= 16; NaN costs the most.
inline double cost(double m) {
    if (std::isnan(m)) m = -top;
    const double a = std::fabs(m) < top ? std::fabs(m) : top;
    return grow(decay(a)) + (m < 0 ? a : 0.0);
}

inline std::int64_t fixed(double x) { return static_cast<std::int64_t>(x * unit + 0.5); }

// Bucket of the row, remembered while rows stay in it: a division a row is avoided.
struct Place {
    const Table& table;
    std::int64_t low = 0, high = 0, at = 0;
    // -2: bad order, -1: past the last bucket.
    std::int64_t find(std::int64_t order) {
        if (order >= low && order < high) return at;
        if (order < 0) return -2;
        const std::int64_t slot = order / table.bucket_rows;
        if (slot >= table.buckets) return -1;
        at = slot, low = slot * table.bucket_rows, high = low + table.bucket_rows;
        return at;
    }
};

inline std::int64_t binary(Rows in, Table out, std::int64_t* confusion, std::int64_t* hist) {
    Place place{out};
    for (std::int64_t i = 0; i < in.n; ++i) {
        const float y = in.y[i];
        if (std::isnan(y)) continue;
        if (y != 0.0f && y != 1.0f) return -1 - i;
        const std::int64_t slot = place.find(in.order[i]);
        if (slot < 0) return slot == -1 ? i : -1 - i;
        std::int64_t* row = out.data + slot * out.width;
        const double m = in.scores[i];
        const int label = y == 1.0f, odd_score = std::isnan(m), guess = odd_score ? 1 - label : m > 0;
        const double edge = odd_score ? 0.0 : m < -top ? -top : m > top ? top : m;
        std::int64_t bin = static_cast<std::int64_t>((edge + top) * 2048.0);
        if (bin > bins - 1) bin = bins - 1;
        row[rows] += 1;
        row[hits] += guess == label;
        row[same] += in.previous[i] == y;
        row[loss] += fixed(cost(label ? m : -m));
        row[odd] += !std::isfinite(m);
        row[labels + label] += 1;
        confusion[label * 2 + guess] += 1;
        hist[label * bins + bin] += 1;
    }
    return in.n;
}

// exp of margin's sigmoid over the sum of all: the probability a one-vs-rest model gives its class.
inline double sigmoid(double m) {
    const double a = std::fabs(m) < top ? std::fabs(m) : top, e = decay(a);
    return (m < 0 ? e : 1.0) / (1.0 + e);
}

// -log p for p in (0, 1] by halving into [0.5, 1].
inline double negative_log(double p) {
    int e;
    const double f = std::frexp(p, &e);  // p = f 2^e, f in [0.5, 1)
    return grow(1.0 / f - 1.0) - static_cast<double>(e) * 0.6931471805599453;
}

inline std::int64_t multi(Rows in, std::int64_t classes, Table out, std::int64_t* confusion) {
    Place place{out};
    for (std::int64_t i = 0; i < in.n; ++i) {
        const float y = in.y[i];
        if (std::isnan(y)) continue;
        if (!(y >= 0.0f && y < static_cast<float>(classes)) || y != std::floor(y)) return -1 - i;
        const std::int64_t slot = place.find(in.order[i]);
        if (slot < 0) return slot == -1 ? i : -1 - i;
        std::int64_t* row = out.data + slot * out.width;
        const float* s = in.scores + i * classes;
        const auto label = static_cast<std::int64_t>(y);
        std::int64_t guess = 0;
        bool nan = false, finite = true;
        double total = 0;
        for (std::int64_t k = 0; k < classes; ++k) {
            nan |= std::isnan(s[k]);
            finite &= std::isfinite(s[k]);
            if (s[k] > s[guess]) guess = k;
            total += sigmoid(s[k]);
        }
        if (nan) guess = (label + 1) % classes;
        const double worst = top, l = nan ? worst : negative_log(sigmoid(s[label]) / total);
        row[rows] += 1;
        row[hits] += guess == label;
        row[same] += in.previous[i] == y;
        row[loss] += fixed(l < worst ? (l > 0 ? l : 0.0) : worst);
        row[odd] += !finite;
        row[labels + label] += 1;
        confusion[label * classes + guess] += 1;
    }
    return in.n;
}

inline std::int64_t real(Rows in, Table out, double* sums) {
    Place place{out};
    for (std::int64_t i = 0; i < in.n; ++i) {
        const double y = in.y[i];
        if (std::isnan(y)) continue;
        const std::int64_t slot = place.find(in.order[i]);
        if (slot < 0) return slot == -1 ? i : -1 - i;
        std::int64_t* row = out.data + slot * out.width;
        double* sum = sums + slot * sums_width;
        const double score = in.scores[i], before = in.previous[i];
        const bool finite = std::isfinite(score);
        const double e = finite ? y - score : y;  // a score that is not finite is counted and scored as 0
        row[rows] += 1;
        row[odd] += !finite;
        sum[0] += e * e;
        sum[1] += std::fabs(e);
        if (!std::isnan(before)) {
            row[same] += 1;
            sum[2] += (y - before) * (y - before);
            sum[3] += std::fabs(y - before);
        }
        sum[4] += y;
        sum[5] += y * y;
    }
    return in.n;
}

}  // namespace engine::score::base
