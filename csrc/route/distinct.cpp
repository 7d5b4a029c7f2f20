// The distinct keys of a batch, in the order they first come, and the place of each key among them.
#include <cstring>

#include "route/ops.h"

namespace engine::route {

std::size_t distinct(const std::uint32_t* keys, std::size_t n, std::uint64_t* each, std::uint32_t* place, std::uint64_t* table,
                     std::size_t room) {
    std::memset(table, 0, 8 * room);
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const std::uint64_t key = keys[i];
        std::size_t at = hash(key + 1) >> 20 & (room - 1);
        while (table[at] && table[at] >> 32 != key) at = (at + 1) & (room - 1);
        if (!table[at]) {
            each[count] = key;
            table[at] = key << 32 | ++count;
        }
        place[i] = static_cast<std::uint32_t>(table[at]) - 1;
    }
    return count;
}

}  // namespace engine::route
