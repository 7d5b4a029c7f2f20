// Kernels over a slab: batches of keys, every row under its seqlock; plain/table.py says what each means.
#pragma once
#include "route/ops.h"
#include "table/slab.h"

namespace engine::table {

enum class Status : std::uint32_t { ok = 0, moved = 1, busy = 2, full = 3, conflict = 4, waiting = 5, broken = 6 };
// What an owner does with what it is sent: row <- f(row, sent). sgd, adagrad and momentum descend along a gradient; merge is what the
// table was told its rows are: (w, a, n, G) of a learner, one or more a row, which take seven columns each (learn/merge.h).
enum class Op : std::uint32_t { add = 0, assign = 1, max = 2, sgd = 3, adagrad = 4, momentum = 5, merge = 6 };
struct Merger { void (*run)(const void* self, float* row, const float* item, std::size_t width); const void* self; };
struct Rule { Op op; float rate, more; const Merger* merger; };  // more: epsilon of adagrad, decay of momentum

struct Done { std::size_t count; Status status; };  // items done before it stopped, and why

// Floats an item of `op` carries for rows of `width`; 0 where the width does not suit.
inline std::size_t sent(Op op, std::size_t width) {
    if (op == Op::merge) return width % 4 ? 0 : width / 4 * 7;
    const bool stateful = op == Op::adagrad || op == Op::momentum;
    return stateful ? (width % 2 ? 0 : width / 2) : width;
}

// A fresh slab in zeroed memory of slab_bytes.
void make(std::uint8_t* memory, std::uint64_t buckets, std::size_t width, std::size_t writers, std::uint32_t admit);

// Writer `w` goes in where the gate is open and the generation is the one it routed by; and comes out.
Status begin(const Slab& s, std::size_t w, std::uint64_t generation);
void end(const Slab& s, std::size_t w);
// The first writer still inside, after the gate was closed; -1 where there is none.
int inside(const Slab& s, std::size_t except);

// Rows of the keys, `init` (width) and version 0 where there is none. Stops at a row a writer will not leave.
Done gather(const Slab& s, const std::uint64_t* keys, std::size_t n, const float* init, float* out, std::uint32_t* versions);
// Applies items to rows, made from `init` where they are not there (once a key was asked for `admit` times; before, it is left out and its
// version is 0). `versions` (or null) gets each row's version after. The writer is inside already.
Done apply(const Slab& s, const Rule& rule, const std::uint64_t* keys, std::size_t n, const float* items, const float* init, std::uint32_t* versions);
// Assigns all rows, or none where a version is not the one expected (0: no row); `at` gets the place of the first that differs. n <= 4096.
Status commit(const Slab& s, const std::uint64_t* keys, const std::uint32_t* expected, std::size_t n, const float* values, const float* init, std::size_t* at);
// Takes copies of rows as they are, versions and clocks with them, where they are newer than what is here.
Done stage(const Slab& s, const std::uint64_t* keys, const std::uint32_t* versions, const std::uint32_t* clocks, std::size_t n, const float* values);

// Exports up to `room` rows from bucket `at` on (`at` moves): all, or of dirty set `set` >= 0 those marked, which are unmarked. Of these only
// where `wanted[slot]` is not 0 (null: all).
struct Export { std::uint64_t* keys; std::uint32_t *versions, *clocks; float* values; };
Done take(const Slab& s, int set, const route::Map<std::int16_t>* narrow, const route::Map<std::int32_t>* wide, const std::uint8_t* wanted,
          std::uint64_t* at, const Export& out, std::size_t room);
// How many rows are of the wanted slots.
std::size_t count(const Slab& s, const route::Map<std::int16_t>* narrow, const route::Map<std::int32_t>* wide, const std::uint8_t* wanted);
// Removes rows of the wanted slots (null: of any) whose clock is below `older`; returns how many.
std::size_t drop(const Slab& s, const route::Map<std::int16_t>* narrow, const route::Map<std::int32_t>* wide, const std::uint8_t* wanted, std::uint32_t older);
// Rebuilds the rows without graves, through `scratch` of used * row_bytes. Nobody may be inside: the gate is closed, the generation odd.
void rebuild(const Slab& s, std::uint8_t* scratch);

// Tickets in turn. `take_ticket` asks, `turn` says whether the ticket holds the lock now; a holder past its lease, or of another epoch, is passed over.
std::uint32_t take_ticket(Lock& lock);
Status turn(Lock& lock, std::uint32_t ticket, std::uint32_t epoch, std::uint64_t now_ns, std::uint64_t lease_ns);
Status release(Lock& lock, std::uint32_t ticket);

}  // namespace engine::table
