#include <cmath>
#include <initializer_list>

#include "table/ops.h"

namespace engine::table {

void make(std::uint8_t* memory, std::uint64_t buckets, std::size_t width, std::size_t writers, std::uint32_t admit) {
    auto* head = reinterpret_cast<Head*>(memory);
    head->buckets = buckets;
    head->width = static_cast<std::uint32_t>(width), head->row_bytes = static_cast<std::uint32_t>(row_bytes(width));
    head->writers = static_cast<std::uint32_t>(writers), head->admit = admit;
    std::atomic_thread_fence(std::memory_order_release);
    head->magic = magic;
}

Status begin(const Slab& s, std::size_t w, std::uint64_t generation) {
    auto& busy = s.lines[w].busy;
    busy.store(1, std::memory_order_seq_cst);
    Status status = Status::ok;
    if (s.head->gate.load(std::memory_order_seq_cst)) status = Status::busy;
    else if (s.head->generation.load(std::memory_order_seq_cst) != generation) status = Status::moved;
    if (status != Status::ok) busy.store(0, std::memory_order_release);
    return status;
}

void end(const Slab& s, std::size_t w) { s.lines[w].busy.store(0, std::memory_order_release); }

int inside(const Slab& s, std::size_t except) {
    for (std::size_t w = 0; w < s.head->writers; ++w)
        if (w != except && s.lines[w].busy.load(std::memory_order_seq_cst)) return static_cast<int>(w);
    return -1;
}

static void fetch(const Slab& s, const std::uint64_t* keys, std::size_t i, std::size_t n, bool write) {
    if (i >= n) return;
    const std::uint8_t* row = s.rows + (spread(keys[i]) & s.mask) * s.row_bytes;
    const std::size_t bytes = s.row_bytes < 512 ? s.row_bytes : 512;
    for (std::size_t b = 0; b < bytes; b += 64) write ? __builtin_prefetch(row + b, 1) : __builtin_prefetch(row + b, 0);
}

constexpr std::size_t ahead = 6;

Done gather(const Slab& s, const std::uint64_t* keys, std::size_t n, const float* init, float* out, std::uint32_t* versions) {
    for (std::size_t i = 0; i < ahead; ++i) fetch(s, keys, i, n, false);
    for (std::size_t i = 0; i < n; ++i, out += s.width) {
        fetch(s, keys, i + ahead, n, false);
        std::uint64_t free;
        const std::uint64_t bucket = find(s, keys[i], free);
        versions[i] = 0;
        if (bucket != none) {
            Row* row = s.row(bucket);
            versions[i] = read(row, out, s.width);
            if (versions[i] & 1) return {i, Status::busy};
            if (row->key.load(std::memory_order_relaxed) != keys[i] + 1) versions[i] = 0;  // dropped meanwhile
        }
        if (!versions[i]) std::memcpy(out, init, 4 * s.width);
    }
    return {n, Status::ok};
}

static void change(const Rule& r, float* w, const float* g, std::size_t n, std::size_t width) {
    switch (r.op) {
        case Op::add: for (std::size_t j = 0; j < n; ++j) w[j] += g[j]; break;
        case Op::assign: std::memcpy(w, g, 4 * n); break;
        case Op::max: for (std::size_t j = 0; j < n; ++j) w[j] = w[j] < g[j] ? g[j] : w[j]; break;
        case Op::sgd: for (std::size_t j = 0; j < n; ++j) w[j] -= r.rate * g[j]; break;
        case Op::adagrad:
            for (std::size_t j = 0; j < n; ++j) {
                w[n + j] += g[j] * g[j];
                w[j] -= r.rate * g[j] / (std::sqrt(w[n + j]) + r.more);
            }
            break;
        case Op::momentum:
            for (std::size_t j = 0; j < n; ++j) {
                w[n + j] = r.more * w[n + j] + g[j];
                w[j] -= r.rate * w[n + j];
            }
            break;
        case Op::merge: r.merger->run(r.merger->self, w, g, width); break;
    }
}

// Counts the asking for a key that has no row; true once it was asked for often enough. A count-min sketch of two saturating rows.
static bool admitted(const Slab& s, std::uint64_t key) {
    if (s.head->admit <= 1) return true;
    const std::uint64_t h = spread(key ^ 0x5bd1e995u);
    std::uint8_t least = 255;
    for (const std::size_t at : {static_cast<std::size_t>(h) & (sketch_bytes / 2 - 1), sketch_bytes / 2 + (static_cast<std::size_t>(h >> 32) & (sketch_bytes / 2 - 1))}) {
        std::uint8_t seen = s.sketch[at].load(std::memory_order_relaxed);
        if (seen < 255) seen = static_cast<std::uint8_t>(s.sketch[at].fetch_add(1, std::memory_order_relaxed) + 1);
        least = seen < least ? seen : least;
    }
    return least >= s.head->admit;
}

// Makes a row of the key where there is none, entered; `waiting` where another made it first.
static Status make_row(const Slab& s, std::uint64_t key, Row*& row, std::uint64_t& bucket, std::uint32_t& version) {
    auto& making = s.head->making;
    unsigned wait = 0;
    for (std::uint32_t free = 0; !making.compare_exchange_weak(free, 1, std::memory_order_acquire); free = 0, rest())
        if (++wait == patience) return Status::busy;
    Status status = Status::waiting;
    if (find(s, key, bucket) == none) {
        status = Status::full;
        if (bucket != none && s.head->used.load(std::memory_order_relaxed) * 8 < (s.mask + 1) * 7) {
            row = s.row(bucket);
            version = row->version.load(std::memory_order_relaxed);
            status = Status::busy;
            if (!(version & 1) && row->version.compare_exchange_strong(version, version + 1, std::memory_order_acquire)) {
                status = Status::ok;
                if (version) s.head->graves.fetch_sub(1, std::memory_order_relaxed);
                s.head->used.fetch_add(1, std::memory_order_relaxed);
                row->key.store(key + 1, std::memory_order_release);
                std::atomic_thread_fence(std::memory_order_release);
            }
        }
    }
    making.store(0, std::memory_order_release);
    return status;
}

// The row of the key, entered; made where there is none. `fresh` says that it was.
static Status hold(const Slab& s, std::uint64_t key, bool make_it, Row*& row, std::uint64_t& bucket, std::uint32_t& version, bool& fresh) {
    for (unsigned wait = 0; wait < patience; ++wait) {
        std::uint64_t free;
        bucket = find(s, key, free);
        fresh = bucket == none;
        if (fresh) {
            if (!make_it) return Status::waiting;
            const Status status = make_row(s, key, row, bucket, version);
            if (status == Status::waiting) continue;
            return status;
        }
        row = s.row(bucket);
        if (!enter(row, version)) return Status::busy;
        if (row->key.load(std::memory_order_relaxed) == key + 1) return Status::ok;
        leave(row, version);
    }
    return Status::busy;
}

Done apply(const Slab& s, const Rule& rule, const std::uint64_t* keys, std::size_t n, const float* items, const float* init, std::uint32_t* versions) {
    const std::size_t m = sent(rule.op, s.width);
    const std::uint32_t clock = s.head->clock.load(std::memory_order_relaxed);
    for (std::size_t i = 0; i < ahead; ++i) fetch(s, keys, i, n, true);
    for (std::size_t i = 0; i < n; ++i, items += m) {
        fetch(s, keys, i + ahead, n, true);
        Row* row;
        std::uint64_t bucket;
        std::uint32_t v;
        bool fresh;
        Status status = hold(s, keys[i], false, row, bucket, v, fresh);
        if (status == Status::waiting) {
            if (!admitted(s, keys[i])) {
                if (versions) versions[i] = 0;
                continue;
            }
            status = hold(s, keys[i], true, row, bucket, v, fresh);
        }
        if (status != Status::ok) return {i, status};
        if (fresh) std::memcpy(row->values(), init, 4 * s.width);
        change(rule, row->values(), items, m, s.width);
        row->clock.store(clock, std::memory_order_relaxed);
        mark(s, bucket);
        leave(row, v + 2);
        if (versions) versions[i] = v + 2;
    }
    return {n, Status::ok};
}

Status commit(const Slab& s, const std::uint64_t* keys, const std::uint32_t* expected, std::size_t n, const float* values, const float* init, std::size_t* at) {
    constexpr std::size_t most = 4096;
    if (n > most) return Status::full;
    Row* rows[most];
    std::uint64_t buckets[most];
    std::uint32_t versions[most];
    const std::uint32_t clock = s.head->clock.load(std::memory_order_relaxed);
    std::size_t i = 0;
    Status status = Status::ok;
    for (; i < n; ++i) {  // keys ascend, so two commits never wait for one another in a ring
        bool fresh;
        status = hold(s, keys[i], expected[i] == 0, rows[i], buckets[i], versions[i], fresh);
        if (status == Status::waiting) status = Status::conflict;
        if (status != Status::ok) break;
        if (fresh) std::memcpy(rows[i]->values(), init, 4 * s.width);
        if (fresh || versions[i] == expected[i]) continue;
        leave(rows[i], versions[i]);
        status = Status::conflict;
        break;
    }
    if (status != Status::ok) {
        *at = i;
        while (i--) leave(rows[i], expected[i] ? versions[i] : versions[i] + 2);  // a row made here stays, as it began
        return status;
    }
    for (i = 0; i < n; ++i) {
        std::memcpy(rows[i]->values(), values + i * s.width, 4 * s.width);
        rows[i]->clock.store(clock, std::memory_order_relaxed);
        mark(s, buckets[i]);
        leave(rows[i], versions[i] + 2);
    }
    return Status::ok;
}

Done stage(const Slab& s, const std::uint64_t* keys, const std::uint32_t* versions, const std::uint32_t* clocks, std::size_t n, const float* values) {
    for (std::size_t i = 0; i < n; ++i, values += s.width) {
        Row* row;
        std::uint64_t bucket;
        std::uint32_t v;
        bool fresh;
        const Status status = hold(s, keys[i], true, row, bucket, v, fresh);
        if (status != Status::ok) return {i, status};
        if (!fresh && static_cast<std::int32_t>(versions[i] - v) <= 0) {
            leave(row, v);
            continue;
        }
        std::memcpy(row->values(), values, 4 * s.width);
        row->clock.store(clocks[i], std::memory_order_relaxed);
        mark(s, bucket);
        leave(row, versions[i]);
    }
    return {n, Status::ok};
}

}  // namespace engine::table
