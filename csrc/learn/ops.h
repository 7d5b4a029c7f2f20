// Linear learners over a block of rows (w, a, n, mark): predict, then learn, example by example.
// One portable source with four fixed lanes (SSE2 and NEON are at the ABI floor), so every ISA gives the same bits.
#pragma once
#include "kernel.h"

namespace engine::learn {

enum class Loss : int { squared, logistic, hinge, quantile, poisson, epsilon };
enum class Learner : int { sgd, adagrad, ftrl, nag, pa1, pa2 };
enum class Merge : int { owner, add, average, touch, conflict };

// Whether a step asks for |x|^2 (PA) or the sum of (x / scale)^2 (NAG) beside the margin.
constexpr bool squared(Learner l) { return l == Learner::nag || l == Learner::pa1 || l == Learner::pa2; }

struct Rule {
    Loss loss;
    Learner learner;
    float rate, power, beta, l1, l2, tau, epsilon;  // rate: step size, FTRL alpha, PA aggressiveness C
    float bias;                                     // value of the constant feature; 0 = none
};

// Rows in CSR, or dense where `x` is given. `keys` of dense rows is 0..width-1.
struct Rows {
    std::size_t count;
    const std::int64_t* indptr;
    const std::uint32_t* keys;
    const float *values, *x;
    std::size_t width;  // dense columns
    const float *y, *weight;
};

// `block` float32 (keys * classes, 4). FTRL: w z n mark; NAG: w scale n mark; AdaGrad: w - n mark; SGD, PA: w - - mark.
// `mark` holds the bits of 1 + place in the touched list, 0 = untouched since the base.
struct Table {
    float* block;
    std::uint32_t classes, keys;  // bias is key keys - 1 where there is one
    double* clock;                // examples learned, sum of normalised squares (NAG)
    double* scale;                // (columns, 3): n, mean, M2; null = no scaler
    bool pairs;                   // all pairs of a row's features, hashed into the key space
    bool far;                     // larger than the cache: prefetch
};

// First-touch copies: ids (capacity), side (capacity, 4) = base w, a, n and the sum of gradients since.
struct Track {
    std::uint32_t* ids;
    float* side;
    std::size_t capacity, count;
};

struct Scratch {  // one expanded row
    std::uint32_t* keys;
    float* values;
};

struct Desk;

struct Ops {
    // Scores (count, classes). The table is not changed.
    void (*predict)(const Rule&, const Table&, const Rows&, const Scratch&, float* scores);
    // Scores before learning; learns rows from `start` on and returns the first row not done: less than count only
    // where the track is full. Rows with a NaN label are scored only; rows with non-finite numbers are counted in `bad`.
    std::size_t (*learn)(const Rule&, const Table&, const Rows&, const Scratch&, Track*, std::size_t start, float* scores,
                         std::uint64_t* bad);
    // The keys that members [first, last) of a crew own, in their order (split.h); returns how many.
    std::size_t (*select)(const Rows&, std::uint32_t first, std::uint32_t last, std::uint32_t members, std::int64_t* indptr,
                          std::uint32_t* keys, float* values);
    // The same for a member of a crew, whose rows hold the keys it owns (split.h). -1, or the member that did not come.
    int (*split)(const Rule&, const Table&, const Rows&, const Scratch&, const Desk&, float* scores, std::uint64_t* bad);
    // The two halves of `learn` for rows whose columns lie with several members: this one's part of the sums of rows
    // [start, end), and the step of its columns from the sums of all, from row `at` on (base.h).
    void (*halve)(const Rule&, const Table&, const Rows&, const Scratch&, std::size_t start, std::size_t end, float* sums);
    std::size_t (*whole)(const Rule&, const Table&, const Rows&, const Scratch&, Track*, std::size_t at, std::size_t start,
                         std::size_t end, const float* sums, std::uint64_t* bad);
    // One step with ready gradients g (m,) of block rows ids (m,); false where the track is full.
    bool (*step)(const Rule&, const Table&, Track*, const std::uint32_t* ids, const float* g, std::size_t m);
    // Slope of the loss at each score.
    void (*slope)(const Rule&, const float* scores, const float* y, std::size_t m, float* out);
    void (*sigmoid)(const float* scores, std::size_t m, float* out);
    // values (count, 6) of touched rows in the order given by `order`; see merge.h.
    void (*extract)(const Rule&, Merge, const Table&, const Track&, const std::uint32_t* order, float* values);
    void (*restore)(const Table&, const Track&);
    void (*apply)(const Rule&, Merge, const Table&, const std::uint32_t* ids, const float* values, std::size_t m, int ranks);
    // The same for rows (rows, 4) of the parameter table and items (rows, 7), which its owner merges push by push.
    void (*own)(const Rule&, Merge, float* row, const float* values, std::size_t rows);
    // Merge of two ascending lists of rows (m, 6): sums where keys meet; returns the count.
    std::size_t (*combine)(const std::uint32_t* ka, const float* va, std::size_t na, const std::uint32_t* kb, const float* vb,
                           std::size_t nb, std::uint32_t* keys, float* values);
};

const Ops& ops(Isa level);

}  // namespace engine::learn
