// What a process knows of its node: the ledger's copy, and the slabs of the ranks that share memory with it.
#pragma once
#include "table/ops.h"

namespace engine::table {

// The ledger of shard/ledger.py in memory: owner 16 or 32 bits a slot, epochs, and what changed when.
struct Ledger {
    std::uint64_t* head;  // [5] version, [6] slots in use, [7] forks in use
    void* owner;
    std::uint32_t *epoch, *stamp;
    std::uint8_t* state;
    std::int32_t* backup;
    route::Fork* forks;
    int bits, narrow, backups;
    std::size_t room;

    route::Map<std::int16_t> map16() const { return {static_cast<const std::int16_t*>(owner), forks, bits}; }
    route::Map<std::int32_t> map32() const { return {static_cast<const std::int32_t*>(owner), forks, bits}; }
    std::uint32_t slot(std::uint64_t key) const { return narrow ? route::slot(map16(), key) : route::slot(map32(), key); }
    std::int32_t rank(std::uint32_t slot) const { return narrow ? static_cast<const std::int16_t*>(owner)[slot] : static_cast<const std::int32_t*>(owner)[slot]; }
    std::size_t change_bytes() const { return 20 + 4 * static_cast<std::size_t>(backups); }
};

#pragma pack(push, 1)
struct Change { std::uint32_t slot, epoch; std::int32_t owner; std::uint8_t state, bits; std::int16_t fork; std::uint32_t base; };  // then the backups
#pragma pack(pop)
static_assert(sizeof(Change) == 20);

void entry(const Ledger& ledger, std::uint32_t slot, std::uint8_t* out);
// Takes changes that are newer; those that follow leaves of a fork come after them, as the ledger sends them. Returns how many were.
std::size_t learn(const Ledger& ledger, const std::uint8_t* changes, std::size_t count);
// All changes or none: each entry must stand at an epoch one (frozen) or two below the change's.
bool flip(const Ledger& ledger, const std::uint8_t* changes, std::size_t count);

constexpr std::size_t most_ranks = 256;  // of a node

struct Node {
    Ledger ledger;
    Slab slabs[most_ranks];
    std::size_t count;
    const std::int16_t* place;  // rank -> its slab here, -1 on another node
    Merger merger;              // what Op::merge does; run is null where the table was not told

    std::int32_t owner(std::uint64_t key) const { return ledger.rank(ledger.slot(key)); }
};

// As the kernels of the same name, over all slabs of the node. Keys of other nodes are left out: their places go to `away`, their number to
// `far`. `at` is where to start and where it stopped; Status::moved: the map changed, route again from `at`.
Status gather(const Node& node, const std::uint64_t* keys, std::size_t n, const float* init, float* out, std::uint32_t* versions,
              std::uint32_t* away, std::size_t* far);
Status apply(const Node& node, std::size_t writer, const Rule& rule, const std::uint64_t* keys, std::size_t n, const float* items, const float* init,
             std::uint32_t* versions, std::uint32_t* away, std::size_t* far, std::size_t* at);

// All rows of one owner, or none; Status::moved where the owner is on another node, or the rows have several.
Status commit(const Node& node, std::size_t writer, const std::uint64_t* keys, const std::uint32_t* expected, std::size_t n, const float* values,
              const float* init, std::size_t* at);

}  // namespace engine::table
