// Cleaning and features, row by row: each row is transformed with what the rows before it taught, then, with `fit`, teaches.
// Rows are float32 (n, d), C-contiguous; NaN is missing and teaches nothing. The same bits on every instruction set.
#pragma once
#include "kernel.h"

namespace engine::clean {

enum class Fill : int { mean = 0, last = 1, constant = 2 };
enum class Far : int { clip = 0, missing = 1, drop = 2 };

struct Shape { std::size_t n, d; };

struct Ops {
    // stats: count, mean, sum of squared deviations, each double (d,). out = (x - mean) / sd; until two rows differ, x - mean.
    void (*standard)(Shape s, const float* x, double* stats, bool fit, float* out);
    // stats: count and mean, double (d,) each, or for `last` seen and value. flags (n, d) or null: 1 where x was missing.
    void (*impute)(Shape s, const float* x, double* stats, Fill how, const float* constant, bool fit, float* out, float* flags);
    // edges: least and largest, double (d,) each, +inf and -inf at first. out in 0..1.
    void (*minmax)(Shape s, const float* x, double* edges, bool fit, float* out);
    // Values further than `z` sd from the mean once `least` rows are seen; those teach nothing. keep (n,): 0 = row is dropped.
    std::uint64_t (*outliers)(Shape s, const float* x, double* stats, double z, double least, Far how, bool fit, float* out, std::uint8_t* keep);
    // ring (k, d): the k rows before, oldest first. out (n, d (1 + k)): the row, then lag 1, lag 2, …
    void (*lag)(Shape s, const float* x, std::size_t k, float* ring, bool fit, float* out);
    // ring (w, d) and its fill `seen`; out (n, 3 d): the row, mean and sd of the w rows before it.
    void (*rolling)(Shape s, const float* x, std::size_t w, float* ring, std::uint64_t* seen, float* out);
};

const Ops& ops(Isa level);

// Numbers (kind 1) under their column's key, categories (kind 2) under a key of their value; NaN gives no entry. owner
// (2^bits) or null: who came first to each key; the result counts entries that met another's key there.
std::uint64_t hash_rows(Shape s, const float* x, const std::uint8_t* kinds, const std::uint64_t* seeds, std::uint32_t mask, bool fit,
                        std::uint32_t* owner, std::int64_t* indptr, std::uint32_t* keys, float* values);
// counts (d, 16384): how many values fell into each bin of float32's order.
void sketch_add(Shape s, const float* x, double* counts);
// Entries whose key was seen at least `least` times before, out of place or in place; counts (mask + 1,).
std::int64_t frequent(std::size_t n, const std::int64_t* indptr, const std::uint32_t* keys, const float* values, std::uint32_t mask,
                      std::uint32_t least, bool fit, std::uint32_t* counts, std::int64_t* out_indptr, std::uint32_t* out_keys, float* out_values);
// Sparse rows times a matrix of signs made from the key: out (n, k).
void project(std::size_t n, const std::int64_t* indptr, const std::uint32_t* keys, const float* values, std::size_t k, std::uint64_t seed, float* out);

}  // namespace engine::clean
