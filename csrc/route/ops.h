// Key -> slot -> owner through a table, and the sketch of heavy keys; plain/route.py is the definition.
#pragma once
#include "kernel.h"

namespace engine::route {

// A slot that was split: the next `bits` bits of the hash choose one of 2^bits slots from `base` on.
struct Fork { std::uint32_t base, bits; };

// owner[slot] >= 0 is a rank; below 0 it is ~number of a fork. The first 2^bits slots are the roots, what follows are leaves.
// T is std::int16_t where every rank fits 15 bits (half the memory to miss in), else std::int32_t.
template <class T>
struct Map {
    const T* owner;
    const Fork* forks;
    int bits;
};

inline std::uint64_t hash(std::uint64_t key) { return (key ^ key >> 32) * 0x9E3779B97F4A7C15ull; }

template <class T>
inline std::uint32_t slot(const Map<T>& map, std::uint64_t key) {
    std::uint64_t h = hash(key);
    auto s = static_cast<std::uint32_t>(h >> (64 - map.bits));
    h <<= map.bits;
    for (int v = map.owner[s]; v < 0; v = map.owner[s]) {
        const Fork& fork = map.forks[~v];
        s = fork.base + static_cast<std::uint32_t>(h >> (64 - fork.bits));
        h <<= fork.bits;
    }
    return s;
}

struct Ops {
    void (*route16)(const Map<std::int16_t>& map, const std::uint64_t* keys, std::size_t n, std::int32_t* owner);
    void (*route32)(const Map<std::int32_t>& map, const std::uint64_t* keys, std::size_t n, std::int32_t* owner);
};

// SpaceSaving (Metwally, Agrawal, El Abbadi, ICDT 2005) over `room` counters: keys u64, counts and errors u64, in arrays of `room`;
// `heap` (room) orders them by count, `place` (2 * room, a power of two) finds a key. `used` counters are taken; returns the new number.
std::size_t heavy_count(const std::uint64_t* keys, std::size_t n, std::uint64_t weight, std::uint64_t* key, std::uint64_t* count,
                        std::uint64_t* error, std::uint32_t* heap, std::uint32_t* where, std::uint32_t* place, std::size_t room, std::size_t used);

// Which ids were not there since slice `low`: fresh[i] = 1, in order, so that the second of two is not; 0 is no id. `add` remembers
// them, since slice `part`. Table of `room`, a power of two, at most half full: name (0 = empty), since. Returns how many are taken.
std::size_t seen(const std::uint64_t* ids, std::size_t n, std::int64_t part, std::int64_t low, bool add, std::uint64_t* name,
                 std::int64_t* since, std::size_t room, std::size_t used, std::uint8_t* fresh);

// The distinct keys of n < 2^32, in the order they first come, and the place of each among them; returns how many. `table`: scratch of
// `room` words, a power of two, at least 2 n.
std::size_t distinct(const std::uint32_t* keys, std::size_t n, std::uint64_t* each, std::uint32_t* place, std::uint64_t* table,
                     std::size_t room);

const Ops& ops(Isa level);

}  // namespace engine::route
