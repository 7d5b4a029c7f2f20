// Statistics learned row by row: Gaussian naive Bayes and streaming k-means. Each row is scored, then learned.
#pragma once
#include "kernel.h"

namespace engine::stats {

struct Rows {
    std::size_t count, columns;
    const float *x, *y;  // y NaN = no label
};

struct Ops {
    // data (classes, columns, 3): n, mean, sum of squared deviations. joint (count, classes): log of prior times density.
    // Rows whose x or y is not finite are scored only. False where a label is no class.
    bool (*bayes)(double* data, std::size_t classes, double floor, const Rows&, double* joint, bool learn);
    // data (k, 1 + columns + labels): rows, sums, labels; gain: the same since the base; both fade by `fade` a row first.
    // Writes each row's centre and squared distance before it is learned. Centres must all be there.
    void (*kmeans)(double* data, double* gain, double* centres, std::size_t k, std::size_t labels, bool classes, double fade,
                   const Rows&, std::int64_t* cluster, double* distance);
};

const Ops& ops(Isa level);

}  // namespace engine::stats
