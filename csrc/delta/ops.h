// Delta kernels: the difference of two versions of an array, counted in units in the last place, chunk by chunk.
// plain/delta.py is the definition, docs/format.md has the bytes. Decoders take any bytes: they refuse, they never read outside.
#pragma once
#include "check/ops.h"
#include "entropy/ops.h"

namespace engine::delta {

using entropy::u16;
using entropy::u32;
using entropy::u64;
using entropy::u8;

// What an element is: an integer of 1, 2, 4 or 8 bytes, or a float whose bits are put in the order of its values.
enum class Kind : u32 { int8, int16, int32, int64, half, brain, single, twice };
inline constexpr std::size_t widths[] = {1, 2, 4, 8, 2, 2, 4, 8};

enum Mode : u32 { zero, raw, keyframe, sparse, dense, packed, lossy, absent };  // keyframe is coded and read by the caller
inline constexpr u32 conditioned = 1 << 8, predicted = 1 << 9, narrow = 1 << 10;
enum Fault : u8 { fine, other, checksum, layout, result };  // other: a keyframe, for the caller

inline constexpr std::size_t chunk_limit = 1 << 20;   // elements of a chunk; a multiple of entropy::block, or one chunk alone
inline constexpr std::size_t sparse_limit = 1 << 17;  // changes in a sparse chunk

struct Row {  // of a frame's chunk table
    u64 offset;
    u32 length, items, mode, crc;
    u64 hash;
};
static_assert(sizeof(Row) == 32);

struct Job {  // versions of `items` elements from element `first` of the array on
    Kind kind;
    const u8 *now, *base, *previous;  // base null: keyframes; previous null: no predictor
    float beta;                       // predicted = base + beta * (base - previous), single only
    double bound;                     // > 0: single and twice may differ by less than this
    bool fast;                        // bit-packing rather than the class coder
    std::size_t first, items, chunk;
};

struct Work {  // of one call, a few MiB; kept by the caller
    entropy::Work code;
    u8 cond[entropy::block + 64];
    u32 z[2][entropy::block + 512];  // low and, of 8-byte elements, high halves
    u32 index[sparse_limit + 64], change[2][sparse_limit + 64];
    u8 under[sparse_limit + 64];
    alignas(64) u8 packed[4 * entropy::block + 512];  // a packed block on its way out
    alignas(64) u8 made[2048 * 8];  // a part just decoded
    u8 set[16 * sparse_limit + chunk_limit / 8 + 8192];  // index_bound of a sparse chunk
};

struct Ops {
    // z = zigzag of the difference of now and (predicted) base; cond, unless null, its exponent. Returns how many are not 0.
    std::size_t (*diff)(const Job& job, std::size_t at, std::size_t n, u32* z, u32* high, u8* cond);
    // The reverse, to `out`, which may be base itself.
    void (*join)(const Job& job, std::size_t at, std::size_t n, const u32* z, const u32* high, u8* out);
    void (*exponents)(const Job& job, std::size_t at, std::size_t n, u8* cond);
    // Places of z != 0 (plus `at`) and z - 1.
    std::size_t (*pick)(const u32* z, std::size_t n, u32 at, u32* index, u32* change);
    // All bits of 512 values.
    u32 (*any)(const u32* z);
    // 512 values in `width` bits each, 16 side by side, and back.
    void (*pack)(const u32* z, u32 width, u8* out);
    void (*unpack)(const u8* in, u32 width, u32* z);
    // z = zigzag of round((now - base) / (2 bound)); rec = what is decoded from it. Marks in `bad` where that misses the bound.
    std::size_t (*quantise)(const Job& job, std::size_t at, std::size_t n, u32* z, u8* rec, u8* bad);
    void (*restore)(const Job& job, std::size_t at, std::size_t n, const u32* z, u8* out);
    // A copy that leaves nothing of `out` in the caches.
    void (*stream)(u8* out, const u8* in, std::size_t n);
};

struct Tools {  // the tables of one ISA
    const Ops& delta;
    const entropy::Ops& entropy;
    const check::Ops& check;
};

const Ops& ops(Isa level);

// All chunks of the job, each padded to 64 bytes, and their rows; `rec`, unless null, gets what will be decoded.
// Returns bytes, 0 where they exceed `room` (bound() is enough).
std::size_t encode(const Tools& tools, const Job& job, u8* out, std::size_t room, Row* rows, u8* rec, Work& work);
std::size_t bound(const Job& job);
// Chunk of `row` whose element `at` is the first: verify, decode to `out`, compare the hash of what was decoded.
Fault decode(const Tools& tools, const Job& job, std::size_t at, std::size_t n, const Row& row, const u8* payload, u8* out, Work& work);
// Hash of bytes that begin at byte `first` of the array, a multiple of 8.
u64 hash(const check::Ops& check, const u8* data, std::size_t size, std::size_t first);

}  // namespace engine::delta
