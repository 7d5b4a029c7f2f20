// A crew learns every row together: each member owns a share of the keys, adds up its part of the scores of a lot of
// rows, meets the others at the desk, and learns its keys from the whole scores. One block, no copies, no merge; rows of
// a lot do not see one another's steps, so the model is stale by one lot at most.
// The one place of csrc that waits: for the members of its own crew, with a limit, and it says for whom.
#pragma once
#include <sched.h>
#include <time.h>

#include <atomic>

#include "learn/base.h"

namespace engine::learn {

// Four rows of the block share a cache line, so four neighbouring keys share an owner.
inline std::uint32_t member_of(std::uint32_t key, std::uint32_t members) {
    const std::uint32_t mixed = (key >> 2) * 0x9E3779B1u;
    return static_cast<std::uint32_t>(static_cast<std::uint64_t>(mixed ^ mixed >> 15) * members >> 32);
}

// The keys that members [first, last) own, in their order; `ROOM` places past the last are written over.
constexpr std::size_t ROOM = 16;

inline std::size_t select(const Rows& rows, std::uint32_t first, std::uint32_t last, std::uint32_t members,
                          std::int64_t* indptr, std::uint32_t* keys, float* values) {
    std::size_t n = 0;
    indptr[0] = 0;
    for (std::size_t i = 0; i < rows.count; ++i) {
        for (auto k = rows.indptr[i]; k < rows.indptr[i + 1]; ++k) {
            keys[n] = rows.keys[k];
            if (values) values[n] = rows.values[k];
            n += member_of(rows.keys[k], members) - first < last - first;
        }
        indptr[i + 1] = static_cast<std::int64_t>(n);
    }
    return n;
}

// The memory a crew shares: a line a member (lots done, whether it gave up), then two rounds of sums a member.
struct Desk {
    std::uint8_t* memory;
    std::uint32_t member, members;
    std::size_t lot, floats;  // rows of a lot; floats of a lot's sums, a multiple of 16
    double limit_s;

    static constexpr std::size_t line = 64;
    static std::size_t bytes(std::uint32_t members, std::size_t floats) { return members * (line + 2 * floats * 4); }

    std::atomic<std::uint64_t>& done(std::uint32_t m) const {
        return *reinterpret_cast<std::atomic<std::uint64_t>*>(memory + m * line);
    }
    std::atomic<std::uint32_t>& gone(std::uint32_t m) const {
        return *reinterpret_cast<std::atomic<std::uint32_t>*>(memory + m * line + 8);
    }
    float* sums(std::uint64_t turn, std::uint32_t m) const {
        return reinterpret_cast<float*>(memory + members * line) + ((turn & 1) * members + m) * floats;
    }

    // Says that this member's sums of `turn` are there; waits for all. -1, or the member that did not come.
    int meet(std::uint64_t turn) const {
        done(member).store(turn + 1, std::memory_order_release);
        for (std::uint32_t m = 0; m < members; ++m)
            if (!came(m, turn + 1)) return static_cast<int>(m);
        return -1;
    }

private:
    bool came(std::uint32_t m, std::uint64_t turn) const {
        for (int spins = 0; spins < 2000; ++spins) {
            if (done(m).load(std::memory_order_acquire) >= turn) return true;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
        timespec began, now;
        clock_gettime(CLOCK_MONOTONIC, &began);
        for (;;) {
            if (done(m).load(std::memory_order_acquire) >= turn) return true;
            if (gone(m).load(std::memory_order_relaxed)) return false;
            clock_gettime(CLOCK_MONOTONIC, &now);
            const double waited = double(now.tv_sec - began.tv_sec) + 1e-9 * double(now.tv_nsec - began.tv_nsec);
            if (waited > limit_s) return false;
            if (waited < 1e-3) sched_yield();
            else {
                const timespec nap{0, 50000};
                nanosleep(&nap, nullptr);
            }
        }
    }
};

namespace base {

// Scores (count, classes) of whole rows, taken before their lot is learned; `rows` hold this member's keys alone.
template <Learner L>
inline int split(const Rule& whole, const Table& t, const Rows& rows, const Scratch& s, const Desk& desk, float* out,
                 std::uint64_t* bad) {
    Rule r = whole;
    if (member_of(t.keys - 1, desk.members) != desk.member) r.bias = 0;  // the bias has one owner as any key
    std::uint64_t turn = desk.done(desk.member).load(std::memory_order_relaxed);
    for (std::size_t start = 0; start < rows.count; start += desk.lot, ++turn) {
        const std::size_t end = start + desk.lot < rows.count ? start + desk.lot : rows.count;
        float* mine = desk.sums(turn, desk.member);
        for (std::size_t i = start; i < end; ++i) {
            if (t.far) fetch(t, rows, i + 2);
            const View v = view(t, rows, s, t.keys, i);
            const Line row = line(v, t, r.bias);
            for (std::uint32_t c = 0; c < t.classes; ++c) {
                const Sums part = dot<L>(t, row, c, nullptr, false);
                *mine++ = part.margin, *mine++ = part.square;
            }
        }
        const int absent = desk.meet(turn);
        if (absent >= 0) return absent;
        for (std::size_t i = start; i < end; ++i) {
            float *scores = out + i * t.classes, square = 0;
            bool fine = true;
            for (std::uint32_t c = 0; c < t.classes; ++c) {
                float margin = square = 0;
                for (std::uint32_t m = 0; m < desk.members; ++m) {
                    const float* sums = desk.sums(turn, m) + 2 * ((i - start) * t.classes + c);
                    margin += sums[0], square += sums[1];
                }
                scores[c] = margin;
                fine = fine && std::isfinite(margin) && std::isfinite(square);
            }
            const float y = rows.y[i], weight = rows.weight ? rows.weight[i] : 1.f;
            fine = fine && !std::isinf(y) && std::isfinite(weight);
            *bad += !fine;
            if (!fine || std::isnan(y) || weight == 0) continue;
            t.clock[0] += 1;
            learn_row<L>(r, t, line(view(t, rows, s, t.keys, i), t, r.bias), nullptr, y, weight, scores, square);
        }
    }
    return -1;
}

}  // namespace base
}  // namespace engine::learn
