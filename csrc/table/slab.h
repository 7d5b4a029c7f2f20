// The slab of a parameter table: rows of key -> floats in memory that every process of the node maps. Open addressing, linear
// probing; a row is found, read and written without any call to its owner.
//
//   head 4 KiB | writer lines 64 B each | lock lines 64 B each | dirty bits, two sets | sketch of unseen keys | rows
//
// Row: key + 1 (0: none), version, clock, floats; 32 bytes, or a multiple of 64. The version is a seqlock: odd while a writer is inside;
// 0 = never used, and with it the end of a probe. `generation` moves when rows or their ownership do, so that whoever routed by an
// older one notices; while it is odd nobody may look. `gate` holds writers off. A writer says so in its line before it looks at
// either, so that whoever closes the gate can wait for those inside, and knows whose line it waits for.
#pragma once
#include <atomic>
#include <cstring>

#include "kernel.h"

namespace engine::table {

constexpr std::uint64_t magic = 0x45534c4142303031ull;
constexpr std::size_t head_bytes = 4096, line_bytes = 64, lock_lines = 1024, sketch_bytes = 1 << 16, dirty_sets = 2;
constexpr unsigned patience = 20000;  // looks at a busy row before the caller is told to wait elsewhere

struct Head {
    std::uint64_t magic, buckets;
    std::uint32_t width, row_bytes, writers, admit;
    alignas(64) std::atomic<std::uint64_t> generation;
    std::atomic<std::uint32_t> gate, clock, dirty;  // dirty: which sets of dirty bits are kept
    alignas(64) std::atomic<std::uint32_t> making;  // held by the one who makes a row: no key is made twice, graves are used again
    alignas(64) std::atomic<std::uint64_t> used, graves;
};

struct Line { alignas(64) std::atomic<std::uint64_t> busy; };
struct Lock { alignas(64) std::atomic<std::uint32_t> next; std::atomic<std::uint32_t> now; std::atomic<std::uint64_t> expiry; std::atomic<std::uint32_t> epoch; };

struct Row {
    std::atomic<std::uint64_t> key;
    std::atomic<std::uint32_t> version, clock;
    float* values() { return reinterpret_cast<float*>(this + 1); }
};
static_assert(sizeof(Row) == 16 && sizeof(Lock) == 64 && sizeof(Line) == 64 && sizeof(Head) <= head_bytes);

struct Slab {
    Head* head;
    Line* lines;
    Lock* locks;
    std::atomic<std::uint64_t>* dirty[dirty_sets];
    std::atomic<std::uint8_t>* sketch;
    std::uint8_t* rows;
    std::uint64_t mask;
    std::size_t row_bytes, width;

    Row* row(std::uint64_t bucket) const { return reinterpret_cast<Row*>(rows + bucket * row_bytes); }
};

inline std::size_t row_bytes(std::size_t width) { return width <= 4 ? 32 : (sizeof(Row) + 4 * width + 63) / 64 * 64; }
inline std::size_t dirty_bytes(std::uint64_t buckets) { return ((buckets + 63) / 64 * 8 + 63) / 64 * 64; }

inline std::size_t slab_bytes(std::uint64_t buckets, std::size_t width, std::size_t writers) {
    return head_bytes + (writers + lock_lines) * line_bytes + dirty_sets * dirty_bytes(buckets) + sketch_bytes + buckets * row_bytes(width);
}

// A view of memory of slab_bytes; the head tells the sizes.
inline Slab view(std::uint8_t* memory) {
    auto* head = reinterpret_cast<Head*>(memory);
    Slab s;
    s.head = head;
    std::uint8_t* at = memory + head_bytes;
    s.lines = reinterpret_cast<Line*>(at), at += head->writers * line_bytes;
    s.locks = reinterpret_cast<Lock*>(at), at += lock_lines * line_bytes;
    for (auto& set : s.dirty) set = reinterpret_cast<std::atomic<std::uint64_t>*>(at), at += dirty_bytes(head->buckets);
    s.sketch = reinterpret_cast<std::atomic<std::uint8_t>*>(at), at += sketch_bytes;
    s.rows = at, s.mask = head->buckets - 1, s.row_bytes = head->row_bytes, s.width = head->width;
    return s;
}

inline void rest() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Not the hash that routes: the keys of one rank share the top bits of that one.
inline std::uint64_t spread(std::uint64_t key) {
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9ull;
    key = (key ^ key >> 27) * 0x94D049BB133111EBull;
    return key ^ key >> 31;
}

constexpr std::uint64_t none = ~std::uint64_t(0);

// Bucket of the key, or `none`; `free` gets the first bucket where a row can be made.
inline std::uint64_t find(const Slab& s, std::uint64_t key, std::uint64_t& free) {
    free = none;
    std::uint64_t bucket = spread(key) & s.mask;
    for (std::uint64_t i = 0; i <= s.mask; ++i, bucket = (bucket + 1) & s.mask) {
        Row* row = s.row(bucket);
        std::uint64_t k = row->key.load(std::memory_order_acquire);
        if (k == key + 1) return bucket;
        if (k) continue;
        if (row->version.load(std::memory_order_acquire) == 0) {
            if (free == none) free = bucket;
            return none;
        }
        for (unsigned wait = 0; wait < patience && row->version.load(std::memory_order_acquire) & 1 && !(k = row->key.load(std::memory_order_acquire)); ++wait) rest();
        if (k == key + 1) return bucket;
        if (!k && free == none) free = bucket;  // a grave
    }
    return none;
}

// Odd version taken from even `v`: true. The row is then this writer's alone.
inline bool enter(Row* row, std::uint32_t& v) {
    for (unsigned wait = 0; wait < patience; ++wait) {
        v = row->version.load(std::memory_order_relaxed);
        if (!(v & 1) && row->version.compare_exchange_weak(v, v + 1, std::memory_order_acquire, std::memory_order_relaxed)) {
            std::atomic_thread_fence(std::memory_order_release);
            return true;
        }
        rest();
    }
    return false;
}

inline void leave(Row* row, std::uint32_t version) { row->version.store(version, std::memory_order_release); }

// A copy that no writer touched meanwhile; the version it had, or 1 (odd) where a writer stays inside.
inline std::uint32_t read(Row* row, float* out, std::size_t width) {
    for (unsigned wait = 0; wait < patience; ++wait) {
        const std::uint32_t v = row->version.load(std::memory_order_acquire);
        if (v & 1) {
            rest();
            continue;
        }
        std::memcpy(out, row->values(), 4 * width);
        std::atomic_thread_fence(std::memory_order_acquire);
        if (row->version.load(std::memory_order_relaxed) == v) return v;
    }
    return 1;
}

inline void mark(const Slab& s, std::uint64_t bucket) {
    const std::uint32_t kept = s.head->dirty.load(std::memory_order_relaxed);
    if (!kept) return;
    const std::uint64_t bit = std::uint64_t(1) << (bucket & 63);
    for (std::size_t set = 0; set < dirty_sets; ++set)
        if (kept >> set & 1 && !(s.dirty[set][bucket >> 6].load(std::memory_order_relaxed) & bit))
            s.dirty[set][bucket >> 6].fetch_or(bit, std::memory_order_relaxed);
}

}  // namespace engine::table
