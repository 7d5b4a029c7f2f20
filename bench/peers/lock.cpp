// The table's own lock word and commit, called from native code: what they cost without Python around them.
#include <time.h>

#include <cstdlib>

#include "table/ops.h"

extern "C" double lock_ns(unsigned long n) {
    engine::table::Lock lock{};
    unsigned long held = 0;
    timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (unsigned long i = 0; i < n; ++i) {
        const auto ticket = engine::table::take_ticket(lock);
        held += engine::table::turn(lock, ticket, 0, i, 1000000000) == engine::table::Status::ok;
        engine::table::release(lock, ticket);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    return held == n ? (static_cast<double>(b.tv_sec - a.tv_sec) * 1e9 + static_cast<double>(b.tv_nsec - a.tv_nsec)) / static_cast<double>(n) : -1;
}

// Read a row, change it, commit it against its version, one row a transaction, over `keys` hot rows of `width` floats.
extern "C" double commit_ns(unsigned long n, unsigned long keys, unsigned long width) {
    using namespace engine::table;
    const std::size_t size = slab_bytes(4096, width, 8);
    auto* memory = static_cast<std::uint8_t*>(std::aligned_alloc(64, (size + 63) / 64 * 64));
    std::memset(memory, 0, size);
    make(memory, 4096, width, 8, 1);
    const Slab s = view(memory);
    float init[1024] = {}, row[1024];
    unsigned long done = 0;
    timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (unsigned long i = 0; i < n; ++i) {
        const std::uint64_t key = i * 2654435761u % keys;
        std::uint32_t version;
        std::size_t at;
        gather(s, &key, 1, init, row, &version);
        row[0] += 1;
        if (begin(s, 0, 0) == Status::ok) {
            done += commit(s, &key, &version, 1, row, init, &at) == Status::ok;
            end(s, 0);
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    std::free(memory);
    return done == n ? (static_cast<double>(b.tv_sec - a.tv_sec) * 1e9 + static_cast<double>(b.tv_nsec - a.tv_nsec)) / static_cast<double>(n) : -1;
}
