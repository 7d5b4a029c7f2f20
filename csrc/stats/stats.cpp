#include <cmath>

#include "stats/ops.h"

namespace engine::stats {

static bool finite(const float* x, std::size_t n) {
    for (std::size_t j = 0; j < n; ++j)
        if (!std::isfinite(x[j])) return false;
    return true;
}

// log of prior times density of one class; the variance is that of the n rows, plus the floor.
static double joint_of(const double* stats, std::size_t columns, const float* x, double floor, double rows) {
    const double n = stats[0];
    if (!(n > 0)) return -INFINITY;
    double sum = 0, product = 1;
    for (std::size_t j = 0; j < columns; ++j) {
        const double* s = stats + 3 * j;
        const double var = s[2] / n + floor, d = x[j] - s[1];
        sum += d * d / var;
        product *= var;
        if (product < 1e-200 || product > 1e200) sum += std::log(product), product = 1;  // one logarithm for many columns
    }
    return std::log(n / rows) - .5 * (sum + std::log(product) + static_cast<double>(columns) * 1.8378770664093453);
}

static bool bayes(double* data, std::size_t classes, double floor, const Rows& in, double* joint, bool learn) {
    const std::size_t d = in.columns;
    for (std::size_t i = 0; i < in.count; ++i) {
        const float* x = in.x + i * d;
        double rows = 0, top = 0;
        for (std::size_t c = 0; c < classes; ++c) {
            const double* s = data + 3 * d * c;
            rows += s[0];
            if (s[0] > 0)
                for (std::size_t j = 0; j < d; ++j) top = std::fmax(top, s[3 * j + 2] / s[0]);
        }
        const double least = std::fmax(floor * top, 1e-300);
        for (std::size_t c = 0; c < classes; ++c) joint[i * classes + c] = joint_of(data + 3 * d * c, d, x, least, rows);
        if (!learn || !std::isfinite(in.y[i]) || !finite(x, d)) continue;
        if (in.y[i] < 0 || in.y[i] >= static_cast<float>(classes) || in.y[i] != std::floor(in.y[i])) return false;
        double* s = data + 3 * d * static_cast<std::size_t>(in.y[i]);
        for (std::size_t j = 0; j < d; ++j, s += 3) {
            s[0] += 1;
            const double gap = x[j] - s[1];
            s[1] += gap / s[0];
            s[2] += gap * (x[j] - s[1]);
        }
    }
    return true;
}

static void kmeans(double* data, double* gain, double* centres, std::size_t k, std::size_t labels, bool classes, double fade,
                   const Rows& in, std::int64_t* cluster, double* distance) {
    const std::size_t d = in.columns, width = 1 + d + labels;
    for (std::size_t i = 0; i < in.count; ++i) {
        const float* x = in.x + i * d;
        cluster[i] = -1, distance[i] = 0;
        if (!finite(x, d)) continue;
        double least = INFINITY;
        for (std::size_t c = 0; c < k; ++c) {
            double sum = 0;
            for (std::size_t j = 0; j < d; ++j) {
                const double gap = x[j] - centres[c * d + j];
                sum += gap * gap;
            }
            if (sum < least) least = sum, cluster[i] = static_cast<std::int64_t>(c);
        }
        distance[i] = least;
        const auto at = static_cast<std::size_t>(cluster[i]);
        double *row = data + at * width, *more = gain + at * width;
        for (std::size_t f = 0; f < width; ++f) row[f] *= fade, more[f] *= fade;
        row[0] += 1, more[0] += 1;
        for (std::size_t j = 0; j < d; ++j) {
            row[1 + j] += x[j], more[1 + j] += x[j];
            centres[at * d + j] = row[1 + j] / row[0];
        }
        if (!std::isfinite(in.y[i])) continue;
        if (classes) {
            const auto label = static_cast<std::size_t>(in.y[i]);
            row[1 + d + label] += 1, more[1 + d + label] += 1;
        } else {
            row[1 + d] += 1, more[1 + d] += 1;
            row[2 + d] += in.y[i], more[2 + d] += in.y[i];
        }
    }
}

const Ops& ops(Isa) {
    static const Ops portable{bayes, kmeans};
    return portable;
}

}  // namespace engine::stats
