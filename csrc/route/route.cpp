#include "route/base.h"

#if defined(__x86_64__)
#include "route/avx512.h"
#endif

namespace engine::route {

namespace {

struct Heap {
    std::uint64_t* count;
    std::uint32_t *heap, *where;  // heap[h] = counter at heap place h, least count first; where[counter] = h

    void put(std::size_t h, std::uint32_t c) { heap[h] = c, where[c] = static_cast<std::uint32_t>(h); }
    void down(std::size_t h, std::size_t used) {
        const std::uint32_t c = heap[h];
        for (std::size_t child = 2 * h + 1; child < used; h = child, child = 2 * h + 1) {
            if (child + 1 < used && count[heap[child + 1]] < count[heap[child]]) ++child;
            if (count[heap[child]] >= count[c]) break;
            put(h, heap[child]);
        }
        put(h, c);
    }
    void up(std::size_t h) {
        const std::uint32_t c = heap[h];
        for (; h && count[heap[(h - 1) / 2]] > count[c]; h = (h - 1) / 2) put(h, heap[(h - 1) / 2]);
        put(h, c);
    }
};

// Linear probing; an entry is counter + 1, 0 = free. Removal closes the gap, so no mark of the dead is needed.
struct Index {
    const std::uint64_t* key;
    std::uint32_t* place;
    std::size_t mask;

    std::size_t home(std::uint64_t k) const { return static_cast<std::size_t>(hash(k) >> 32) & mask; }
    std::size_t find(std::uint64_t k) const {
        std::size_t p = home(k);
        while (place[p] && key[place[p] - 1] != k) p = (p + 1) & mask;
        return p;
    }
    void drop(std::uint64_t k) {
        std::size_t hole = find(k), p = hole;
        for (;;) {
            place[hole] = 0;
            std::size_t h;
            do {
                p = (p + 1) & mask;
                if (!place[p]) return;
                h = home(key[place[p] - 1]);
            } while (hole <= p ? hole < h && h <= p : hole < h || h <= p);
            place[hole] = place[p];
            hole = p;
        }
    }
};

}  // namespace

std::size_t heavy_count(const std::uint64_t* keys, std::size_t n, std::uint64_t weight, std::uint64_t* key, std::uint64_t* count,
                        std::uint64_t* error, std::uint32_t* heap, std::uint32_t* where, std::uint32_t* place, std::size_t room, std::size_t used) {
    Heap order{count, heap, where};
    Index index{key, place, 2 * room - 1};
    for (std::size_t i = 0; i < n; ++i) {
        const std::size_t p = index.find(keys[i]);
        std::uint32_t c;
        if (place[p]) {
            c = place[p] - 1;
            count[c] += weight;
        } else if (used < room) {
            c = static_cast<std::uint32_t>(used);
            key[c] = keys[i], count[c] = weight, error[c] = 0, place[p] = c + 1;
            order.put(used, c);
            order.up(used++);
            continue;
        } else {
            c = heap[0];
            index.drop(key[c]);
            key[c] = keys[i], error[c] = count[c], count[c] += weight;
            place[index.find(keys[i])] = c + 1;
        }
        order.down(where[c], used);
    }
    return used;
}

const Ops& ops(Isa level) {
    static const Ops portable{base::route<std::int16_t>, base::route<std::int32_t>};
#if defined(__x86_64__)
    static const Ops widest{avx512::route<std::int16_t>, avx512::route<std::int32_t>};
    if (level == Isa::avx512) return widest;
#endif
    (void)level;
    return portable;
}

}  // namespace engine::route
