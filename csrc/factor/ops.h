// Factorization machines over a block of rows (w, n, m, mark, v...): predict, then learn, example by example.
// n, m: AdaGrad's sums of squares for w and, one a row, for all its factors.  One portable source with four fixed lanes.
#pragma once
#include "kernel.h"

namespace engine::factor {

struct Rule {
    bool logistic;                          // else squared loss
    float rate, rate_v, beta, l2, l2_v;     // step = rate / (beta + sqrt(sum of squares))
    std::uint32_t factors, fields;          // factors: a multiple of 4; fields 0 = plain, else v holds `fields` vectors
};

// `block` float32 (keys + 1, 4 + factors * max(1, fields)); the last row is the bias.
struct Table {
    float* block;
    std::size_t keys, width;
};

struct Rows {
    std::size_t count;
    const std::int64_t* indptr;
    const std::uint32_t* keys;
    const float *values, *y, *weight;  // values, weight: null = all 1
};

// First-touch copies: ids (capacity), side (capacity, width) = base rows. Null ids: nothing is tracked.
struct Track {
    std::uint32_t* ids;
    float* side;
    std::size_t capacity, count;
};

struct Ops {
    void (*predict)(const Rule&, const Table&, const Rows&, float* scores);
    // Learns rows from `start` on; returns the first row not done: less than count only where the track is full.
    std::size_t (*learn)(const Rule&, const Table&, const Rows&, Track&, std::size_t start, float* scores, std::uint64_t* bad);
};

const Ops& ops(Isa level);

}  // namespace engine::factor
