// Hoeffding trees of one width: rows sorted to leaves, leaves keep sums that add up over replicas, leaves split.
// A leaf's sums: hits of the majority, hits of naive Bayes, rows, - ; weight a class; then x and x^2 a column and class.
#pragma once
#include "kernel.h"

namespace engine::forest {

constexpr std::size_t head = 4;

// Arrays of `room` nodes, `count` of them in use; node 0 is the root. A leaf has feature -1.
struct Tree {
    std::int32_t *feature, *child, *depth;  // child (room, 2)
    double *value, *sums, *prior, *last;    // sums (room, head + classes + 2 * columns * classes), prior (room, classes)
    std::uint8_t* touched;                  // (room)
    std::size_t room, columns, classes;
    std::int64_t* count;
    std::size_t width() const { return head + classes + 2 * columns * classes; }
};

struct Rule {
    double grace, delta, tie;      // rows between attempts, chance of a wrong split, bound that ends a tie
    std::size_t subset, depth;     // columns looked at in a leaf, deepest split
    double poisson;                // mean weight of a row by bagging; 0 = every row counts 1
    std::uint64_t seed;
    bool bayes;                    // leaves may predict by naive Bayes where that was right more often
};

struct Rows {
    std::size_t count;
    const float *x, *y, *weight;
    const std::int64_t* order;
};

struct Ops {
    // Adds each class's share at the row's leaf, times `gain`, to votes (count, classes).
    void (*predict)(const Tree&, const Rule&, const Rows&, double gain, double* votes);
    // As predict, then learns; hits (count): 1 where this tree was right. Attempts splits as it goes where `split`.
    void (*learn)(const Tree&, const Rule&, const Rows&, double gain, double* votes, std::uint8_t* hits, bool split);
    // Attempts a split of every leaf that has seen `grace` rows since its last attempt; returns the splits.
    std::size_t (*attempt)(const Tree&, const Rule&);
};

const Ops& ops(Isa level);

}  // namespace engine::forest
