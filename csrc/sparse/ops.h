// Selection of large elements with fused error feedback; plain/sparse.py is the definition.
#pragma once
#include "kernel.h"

namespace engine::sparse {

struct Scan { std::size_t next, count, bad; };  // elements done, entries written, elements where g + e is not finite

struct Ops {
    // x = g + e (g null: e; e where not finite); entries |x| >= t go to (index, value) and leave 0 in e. Stops at element `next`
    // when fewer than 64 places of `room` are left, to be continued from there.
    Scan (*threshold)(const float* g, float* e, std::size_t start, std::size_t n, float t, std::uint32_t* index, float* value, std::size_t room);
};

// Bits of the k-th largest magnitude among values, 1 <= k <= count, and how many are strictly greater: radix select, 11 + 10 + 10 bits.
std::uint32_t select(const float* value, std::size_t count, std::size_t k, std::size_t& greater);
// Keep the k largest entries in place, in order, lowest place first among equals; the rest goes back to e. Returns the k-th magnitude.
float keep(std::uint32_t* index, float* value, std::size_t count, std::size_t k, float* e);
// acc[index] += value; false, with nothing added, where an index is not below n.
bool scatter_add(const std::uint32_t* index, const float* value, std::size_t count, float* acc, std::size_t n);
// One index of each of `count` strata of n elements, edges at i n / count, drawn from the key. 1 <= count <= n <= 2^32.
void strata(std::uint64_t n, std::uint64_t count, std::uint64_t key, std::uint32_t* index);

const Ops& ops(Isa level);

}  // namespace engine::sparse
