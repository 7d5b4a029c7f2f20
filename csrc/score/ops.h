// Prequential scoring kernels: one pass over the rows of a batch, sums into time buckets by global order.
#pragma once
#include "kernel.h"

namespace engine::score {

// Columns of a bucket: rows, hits, no-change hits, loss * 2^24, rows whose score is not finite, then a count per class.
enum : int { rows = 0, hits = 1, same = 2, loss = 3, odd = 4, labels = 5 };
// Float columns of a regression bucket: e^2, |e|, no-change e^2, no-change |e|, y, y^2; its int columns: rows, 0, rows with a previous, 0, odd.
constexpr int sums_width = 6;
constexpr int bins = 65536;

struct Rows {
    const float* scores;       // (n, classes), (n) for binary and regression
    const float* y;            // (n), NaN = no label, skipped
    const float* previous;     // (n), NaN = none
    const std::int64_t* order; // (n)
    std::int64_t n;
};

struct Table {
    std::int64_t* data;        // (buckets, width)
    std::int64_t buckets, width, bucket_rows;
};

// Each returns n, or the first row i it could not place: past the last bucket (i), or bad order or label (-1 - i).
struct Ops {
    std::int64_t (*binary)(Rows in, Table out, std::int64_t* confusion, std::int64_t* hist);
    std::int64_t (*multi)(Rows in, std::int64_t classes, Table out, std::int64_t* confusion);
    std::int64_t (*real)(Rows in, Table out, double* sums);
};

const Ops& ops(Isa level);

}  // namespace engine::score
