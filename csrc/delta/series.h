// A column of a series as bytes: differences of order 0 to 2 of its values as integers, class-coded. plain/series.py is the definition.
#pragma once
#include "delta/ops.h"

namespace engine::delta {

using i64 = std::int64_t;

struct Series {  // of one ISA; see csrc/delta/series_loops.h
    void (*whole)(Kind kind, const u8* in, std::size_t n, i64* k);
    void (*back)(Kind kind, const i64* k, std::size_t n, u8* out);
    std::size_t (*steps)(Kind kind, const u8* in, std::size_t n, bool decimal, double scale, double step, double limit, i64* k, u8* bad);
    void (*real)(Kind kind, const i64* k, std::size_t n, bool decimal, double scale, double step, u8* out);
    u64 (*gaps)(int grade, const i64* k, std::size_t n, u32* z, u32* high);
    void (*sums)(int grade, const u32* z, const u32* high, std::size_t n, i64* k);
};

struct SeriesWork {  // k begins at held[2]: the two values before a block stand in front of it
    i64 held[entropy::block + 2];
    u32 z[2][entropy::block + 64], index[entropy::block + 64], wrong[entropy::block + 64], change[2][entropy::block + 64];
    u8 bad[entropy::block + 64];
    u8 set[20 * entropy::block];
    entropy::Work code;
};

const Series& series(Isa level);
// n elements; `bound` > 0 lets single and twice differ by less than it. Bytes, 0 where they exceed `room`.
std::size_t series_encode(const Tools& tools, const Series& ops, Kind kind, const u8* in, std::size_t n, double bound, u8* out, std::size_t room, SeriesWork& work);
// False unless the bytes are n elements to their exact end.
bool series_decode(const Tools& tools, const Series& ops, Kind kind, const u8* in, std::size_t size, u8* out, std::size_t n, SeriesWork& work);

}  // namespace engine::delta
