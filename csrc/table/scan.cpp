#include "table/ops.h"

namespace engine::table {

static bool chosen(const route::Map<std::int16_t>* narrow, const route::Map<std::int32_t>* wide, const std::uint8_t* wanted, std::uint64_t key) {
    return !wanted || wanted[narrow ? route::slot(*narrow, key) : route::slot(*wide, key)];
}

Done take(const Slab& s, int set, const route::Map<std::int16_t>* narrow, const route::Map<std::int32_t>* wide, const std::uint8_t* wanted,
          std::uint64_t* at, const Export& out, std::size_t room) {
    std::size_t count = 0;
    const std::uint64_t buckets = s.mask + 1;
    for (; *at < buckets && count < room; ++*at) {
        if (set >= 0) {
            auto& word = s.dirty[set][*at >> 6];
            const std::uint64_t bit = std::uint64_t(1) << (*at & 63), held = word.load(std::memory_order_relaxed);
            if (!(held >> (*at & 63))) {  // none from here to the end of the word
                *at |= 63;
                continue;
            }
            if (!(held & bit)) continue;
            word.fetch_and(~bit, std::memory_order_acq_rel);  // before the row is read: a later change marks it again
        }
        Row* row = s.row(*at);
        const std::uint64_t key = row->key.load(std::memory_order_acquire);
        if (!key || !chosen(narrow, wide, wanted, key - 1)) continue;
        const std::uint32_t clock = row->clock.load(std::memory_order_relaxed);
        const std::uint32_t v = read(row, out.values + count * s.width, s.width);
        if (v & 1) {
            if (set >= 0) mark(s, *at);
            return {count, Status::busy};
        }
        if (row->key.load(std::memory_order_relaxed) != key) continue;
        out.keys[count] = key - 1, out.versions[count] = v, out.clocks[count] = clock;
        ++count;
    }
    return {count, Status::ok};
}

std::size_t count(const Slab& s, const route::Map<std::int16_t>* narrow, const route::Map<std::int32_t>* wide, const std::uint8_t* wanted) {
    std::size_t found = 0;
    for (std::uint64_t bucket = 0; bucket <= s.mask; ++bucket) {
        const std::uint64_t key = s.row(bucket)->key.load(std::memory_order_relaxed);
        found += key && chosen(narrow, wide, wanted, key - 1);
    }
    return found;
}

std::size_t drop(const Slab& s, const route::Map<std::int16_t>* narrow, const route::Map<std::int32_t>* wide, const std::uint8_t* wanted, std::uint32_t older) {
    std::size_t count = 0;
    for (std::uint64_t bucket = 0; bucket <= s.mask; ++bucket) {
        Row* row = s.row(bucket);
        const std::uint64_t key = row->key.load(std::memory_order_acquire);
        if (!key || row->clock.load(std::memory_order_relaxed) >= older || !chosen(narrow, wide, wanted, key - 1)) continue;
        std::uint32_t v;
        if (!enter(row, v)) continue;
        if (row->key.load(std::memory_order_relaxed) == key && row->clock.load(std::memory_order_relaxed) < older) {
            row->key.store(0, std::memory_order_relaxed);
            s.head->used.fetch_sub(1, std::memory_order_relaxed);
            s.head->graves.fetch_add(1, std::memory_order_relaxed);
            v += 2;
            if (!v) v = 2;
            ++count;
        }
        leave(row, v);
    }
    return count;
}

void rebuild(const Slab& s, std::uint8_t* scratch) {
    std::size_t count = 0;
    for (std::uint64_t bucket = 0; bucket <= s.mask; ++bucket) {
        Row* row = s.row(bucket);
        if (row->key.load(std::memory_order_relaxed)) std::memcpy(scratch + count++ * s.row_bytes, static_cast<void*>(row), s.row_bytes);
    }
    std::memset(s.rows, 0, (s.mask + 1) * s.row_bytes);
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint8_t* from = scratch + i * s.row_bytes;
        std::uint64_t key, bucket;
        std::memcpy(&key, from, 8);
        bucket = spread(key - 1) & s.mask;
        while (s.row(bucket)->key.load(std::memory_order_relaxed)) bucket = (bucket + 1) & s.mask;
        std::memcpy(static_cast<void*>(s.row(bucket)), from, s.row_bytes);
        mark(s, bucket);
    }
    s.head->graves.store(0, std::memory_order_relaxed);
}

std::uint32_t take_ticket(Lock& lock) { return lock.next.fetch_add(1, std::memory_order_relaxed); }

Status turn(Lock& lock, std::uint32_t ticket, std::uint32_t epoch, std::uint64_t now_ns, std::uint64_t lease_ns) {
    std::uint32_t at = lock.now.load(std::memory_order_acquire);
    if (static_cast<std::int32_t>(ticket - at) < 0) return Status::broken;  // its turn has passed
    if (at == ticket) {
        std::uint64_t free = 0;
        if (lock.expiry.compare_exchange_strong(free, now_ns + lease_ns, std::memory_order_acq_rel) || free > now_ns) {
            lock.epoch.store(epoch, std::memory_order_relaxed);
            return Status::ok;
        }
        return Status::broken;  // its own lease has run out
    }
    std::uint64_t expiry = lock.expiry.load(std::memory_order_acquire);
    if (expiry == 0) {  // free, and the one whose turn it is has not come: from now on it is waited for
        if (lock.expiry.compare_exchange_strong(expiry, now_ns + lease_ns, std::memory_order_acq_rel)) lock.epoch.store(epoch, std::memory_order_relaxed);
        return Status::waiting;
    }
    // Past its lease, or granted before the membership changed: a holder that lives finds out when it asks again or releases.
    if (expiry <= now_ns || static_cast<std::int32_t>(epoch - lock.epoch.load(std::memory_order_relaxed)) > 0) {
        if (lock.expiry.compare_exchange_strong(expiry, 0, std::memory_order_acq_rel)) lock.now.compare_exchange_strong(at, at + 1, std::memory_order_acq_rel);
    }
    return Status::waiting;
}

Status release(Lock& lock, std::uint32_t ticket) {
    std::uint32_t at = ticket;
    if (lock.now.load(std::memory_order_acquire) != ticket) return Status::broken;
    lock.expiry.store(0, std::memory_order_release);
    return lock.now.compare_exchange_strong(at, ticket + 1, std::memory_order_acq_rel) ? Status::ok : Status::broken;
}

}  // namespace engine::table
