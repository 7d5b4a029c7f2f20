#include "table/node.h"

namespace engine::table {

void entry(const Ledger& ledger, std::uint32_t slot, std::uint8_t* out) {
    Change c{slot, ledger.epoch[slot], ledger.rank(slot), ledger.state[slot], 0, -1, 0};
    if (c.owner < 0) {
        const route::Fork& fork = ledger.forks[~c.owner];
        c.fork = static_cast<std::int16_t>(~c.owner), c.bits = static_cast<std::uint8_t>(fork.bits), c.base = fork.base;
    }
    std::memcpy(out, &c, sizeof c);
    if (ledger.backups) std::memcpy(out + sizeof c, ledger.backup + std::size_t(slot) * static_cast<std::size_t>(ledger.backups), 4 * static_cast<std::size_t>(ledger.backups));
}

static void put(const Ledger& ledger, const Change& c, const std::uint8_t* backups) {
    if (c.fork >= 0) {
        ledger.forks[c.fork] = {c.base, c.bits};
        const std::uint64_t end = c.base + (std::uint64_t(1) << c.bits);
        if (ledger.head[6] < end) ledger.head[6] = end;
        if (ledger.head[7] < static_cast<std::uint64_t>(c.fork) + 1) ledger.head[7] = static_cast<std::uint64_t>(c.fork) + 1;
    }
    ledger.state[c.slot] = c.state;
    if (ledger.backups) std::memcpy(ledger.backup + std::size_t(c.slot) * static_cast<std::size_t>(ledger.backups), backups, 4 * static_cast<std::size_t>(ledger.backups));
    if (ledger.narrow) static_cast<std::int16_t*>(ledger.owner)[c.slot] = static_cast<std::int16_t>(c.owner);
    else static_cast<std::int32_t*>(ledger.owner)[c.slot] = c.owner;
    ledger.epoch[c.slot] = c.epoch;
    ledger.stamp[c.slot] = static_cast<std::uint32_t>(ledger.head[5]);
}

std::size_t learn(const Ledger& ledger, const std::uint8_t* changes, std::size_t count) {
    std::size_t taken = 0;
    for (std::size_t i = 0; i < count; ++i, changes += ledger.change_bytes()) {
        Change c;
        std::memcpy(&c, changes, sizeof c);
        if (c.slot >= ledger.room || c.epoch <= ledger.epoch[c.slot]) continue;
        if (!taken++) ++ledger.head[5];
        put(ledger, c, changes + sizeof c);
    }
    return taken;
}

bool flip(const Ledger& ledger, const std::uint8_t* changes, std::size_t count) {
    const std::size_t size = ledger.change_bytes();
    for (std::size_t i = 0; i < count; ++i) {
        Change c;
        std::memcpy(&c, changes + i * size, sizeof c);
        if (c.slot >= ledger.room || c.epoch <= ledger.epoch[c.slot] || c.epoch - ledger.epoch[c.slot] > 2) return false;
    }
    learn(ledger, changes, count);
    return true;
}

static void far_away(std::uint32_t* away, std::size_t* far, std::size_t i) { away[(*far)++] = static_cast<std::uint32_t>(i); }

Status gather(const Node& node, const std::uint64_t* keys, std::size_t n, const float* init, float* out, std::uint32_t* versions,
              std::uint32_t* away, std::size_t* far) {
    std::uint64_t before[most_ranks];
    for (std::size_t r = 0; r < node.count; ++r) {
        before[r] = node.slabs[r].head->generation.load(std::memory_order_acquire);
        if (before[r] & 1) return Status::busy;
    }
    *far = 0;
    const std::size_t width = node.slabs[0].width;
    constexpr std::size_t batch = 128;
    const Slab* slab[batch];
    for (std::size_t i = 0; i < n; i += batch) {
        const std::size_t m = n - i < batch ? n - i : batch;
        for (std::size_t j = 0; j < m; ++j) {
            const std::int16_t r = node.place[node.owner(keys[i + j])];
            slab[j] = r < 0 ? nullptr : &node.slabs[r];
            if (slab[j]) __builtin_prefetch(slab[j]->rows + (spread(keys[i + j]) & slab[j]->mask) * slab[j]->row_bytes);
        }
        for (std::size_t j = 0; j < m; ++j) {
            if (!slab[j]) {
                far_away(away, far, i + j);
                continue;
            }
            std::size_t run = 1;
            while (j + run < m && slab[j + run] == slab[j]) ++run;
            const Done done = gather(*slab[j], keys + i + j, run, init, out + (i + j) * width, versions + i + j);
            if (done.status != Status::ok) return done.status;
            j += run - 1;
        }
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    for (std::size_t r = 0; r < node.count; ++r)
        if (node.slabs[r].head->generation.load(std::memory_order_relaxed) != before[r]) return Status::moved;
    return Status::ok;
}

// The batch goes in everywhere it has something to write, or nowhere; so no map changes under it.
static Status enter_all(const Node& node, std::size_t writer, const std::uint64_t* keys, std::size_t n, std::int16_t* place, bool* in) {
    std::uint64_t before[most_ranks];
    for (std::size_t r = 0; r < node.count; ++r) {
        before[r] = node.slabs[r].head->generation.load(std::memory_order_acquire);
        in[r] = false;
    }
    bool wanted[most_ranks] = {};
    for (std::size_t j = 0; j < n; ++j) {
        place[j] = node.place[node.owner(keys[j])];
        if (place[j] >= 0) wanted[place[j]] = true;
    }
    for (std::size_t r = 0; r < node.count; ++r) {
        if (!wanted[r]) continue;
        const Status status = before[r] & 1 ? Status::busy : begin(node.slabs[r], writer, before[r]);
        if (status != Status::ok) {
            while (r--) if (in[r]) end(node.slabs[r], writer);
            return status;
        }
        in[r] = true;
    }
    return Status::ok;
}

Status apply(const Node& node, std::size_t writer, const Rule& rule, const std::uint64_t* keys, std::size_t n, const float* items, const float* init,
             std::uint32_t* versions, std::uint32_t* away, std::size_t* far, std::size_t* at) {
    constexpr std::size_t batch = 512;
    std::int16_t place[batch];
    bool in[most_ranks];
    const std::size_t m = sent(rule.op, node.slabs[0].width);
    for (std::size_t& i = *at; i < n;) {
        const std::size_t count = n - i < batch ? n - i : batch;
        Status status = enter_all(node, writer, keys + i, count, place, in);
        if (status != Status::ok) return status;
        std::size_t j = 0;
        while (j < count && status == Status::ok) {
            if (place[j] < 0) {
                far_away(away, far, i + j++);
                continue;
            }
            std::size_t run = 1;
            while (j + run < count && place[j + run] == place[j]) ++run;
            const Done done = apply(node.slabs[place[j]], rule, keys + i + j, run, items + (i + j) * m, init, versions ? versions + i + j : nullptr);
            status = done.status;
            j += done.count;
        }
        for (std::size_t r = 0; r < node.count; ++r) if (in[r]) end(node.slabs[r], writer);
        i += j;
        if (status != Status::ok) return status;
    }
    return Status::ok;
}

Status commit(const Node& node, std::size_t writer, const std::uint64_t* keys, const std::uint32_t* expected, std::size_t n, const float* values,
              const float* init, std::size_t* at) {
    const std::int16_t place = n ? node.place[node.owner(keys[0])] : std::int16_t(-1);
    if (place < 0) return Status::moved;
    const Slab& slab = node.slabs[place];
    const std::uint64_t generation = slab.head->generation.load(std::memory_order_acquire);
    if (generation & 1) return Status::busy;
    for (std::size_t i = 0; i < n; ++i)
        if (node.place[node.owner(keys[i])] != place) return Status::moved;
    const Status in = begin(slab, writer, generation);
    if (in != Status::ok) return Status::busy;
    const Status status = commit(slab, keys, expected, n, values, init, at);
    end(slab, writer);
    return status;
}

}  // namespace engine::table
