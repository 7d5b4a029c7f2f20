// Ids remembered since a slice of time, in an open-addressed table.
#include "route/ops.h"

namespace engine::route {

std::size_t seen(const std::uint64_t* ids, std::size_t n, std::int64_t part, std::int64_t low, bool add, std::uint64_t* name,
                 std::int64_t* since, std::size_t room, std::size_t used, std::uint8_t* fresh) {
    const std::size_t mask = room - 1;
    constexpr std::size_t ahead = 16;
    for (std::size_t i = 0; i < n; ++i) {
        if (i + ahead < n) __builtin_prefetch(name + (hash(ids[i + ahead]) >> 20 & mask));
        const std::uint64_t id = ids[i];
        fresh[i] = 1;
        if (!id) continue;
        std::size_t at = hash(id) >> 20 & mask;
        while (name[at] && name[at] != id) at = (at + 1) & mask;
        if (name[at]) {
            fresh[i] = since[at] < low;
            if (add && fresh[i]) since[at] = part;
        } else if (add) {
            name[at] = id, since[at] = part, ++used;
        }
    }
    return used;
}

}  // namespace engine::route
