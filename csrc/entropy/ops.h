// Entropy kernels: a 32-lane class coder of 32-bit integers, canonical Huffman and range coding of bytes, sorted index sets.
// plain/entropy.py is the definition of the class coder. Decoders take any bytes: they refuse, they never read outside.
#pragma once
#include "kernel.h"

namespace engine::entropy {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

inline constexpr std::size_t block = 65536;  // values behind one header
inline constexpr std::size_t wide = 16384;   // from here on 32 lanes, below 1
inline constexpr u32 rare = 63;              // symbol of a value stored whole
inline constexpr u32 widest = 26;            // bit length above which a value is rare: code + offset <= 32 bits, one refill
inline constexpr u32 window = 62;            // classes 1..62 of a conditioned block

// Bits not yet sent (encoder) or not yet used (decoder) of each lane: hi:lo holds `left` of them.
struct Lanes { u32 lo[32], hi[32], left[32]; };

struct Code { u8 length[64], bits[64]; };  // canonical, bits reversed: the first bit is the lowest

// Buffers of one call, some 600 KiB; emission runs backwards, so words and rare values grow down from their ends.
struct Work {
    u8 symbol[block + 64];
    u32 word[block + 128];
    u32 odd[block + 64];
    u32 value[block + 64];
};

struct Decoder {  // of one block; `word` to `end` are lane words, `odd` to `odd_end` rare values
    alignas(64) Lanes lanes;
    alignas(64) u8 symbol[128];
    alignas(64) u8 length[64];
    const u8 *word, *end, *odd, *odd_end;
    std::size_t done;
    u32 base, count;  // count of lanes
    bool bad;
};

struct Ops {
    // Class of each value: bit length + cond - (base - 1), 0 for 0, `rare` where it does not fit. cond may be null (= 0).
    void (*classes)(const u32* value, const u8* cond, std::size_t n, u32 base, u8* symbol);
    // Push n values, last first, on the lanes; `word` and `odd` move down as they fill.
    void (*emit)(const u32* value, const u8* symbol, std::size_t n, const Code& code, u32 count, Lanes& lanes, u32*& word, u32*& odd);
    // The next n values; all but the last call of a block in multiples of 32. Sets d.bad where the bytes are wrong.
    void (*run)(Decoder& d, const u8* cond, u32* value, std::size_t n);
    // Runs of successive indices; `ascending` is false unless strictly ascending.
    std::size_t (*runs)(const u32* index, std::size_t n, bool& ascending);
    // gap[i] = index[i] - index[i-1] - 1 with index[-1] = before; and back in place, false unless strictly ascending.
    void (*gaps)(const u32* index, std::size_t n, u32 before, u32* gap);
    bool (*ungaps)(u32* index, std::size_t n, u32 before);
};

const Ops& ops(Isa level);

// Bytes that n values take at most.
std::size_t bound(std::size_t n);
// One block, n <= 65536: choose the base by sample, count, build the code, emit. Returns bytes, or 0 when they would exceed `room`.
std::size_t encode(const Ops& ops, const u32* value, const u8* cond, std::size_t n, u8* out, std::size_t room, Work& work);
// Open the block of n values at `in`; false where its header is wrong. `next` = bytes of the block.
bool open(Decoder& d, const u8* in, std::size_t size, std::size_t n, std::size_t& next);
// True if the block has been read to its exact end.
bool close(const Decoder& d);
// Any n: blocks one after another.
std::size_t encode_all(const Ops& ops, const u32* value, const u8* cond, std::size_t n, u8* out, std::size_t room, Work& work);
// Bytes used, 0 where they are wrong (n = 0: 0).
std::size_t decode_all(const Ops& ops, const u8* in, std::size_t size, const u8* cond, u32* value, std::size_t n);

// Counts of the classes of a sample under cond or none; smallest class window base; cost in bits of an optimal code.
u32 sample_base(const u32* value, const u8* cond, std::size_t n);
u64 sample_cost(const u32* value, const u8* cond, std::size_t n);

// Sorted, unique indices below `universe` <= 2^32: method byte, then gaps (0), bit-packing (1), bitmap (2) or runs (3).
std::size_t index_bound(std::size_t n, u64 universe);
std::size_t index_encode(const Ops& ops, const u32* index, std::size_t n, u64 universe, bool fast, u8* out, std::size_t room, Work& work);
// False unless the bytes are n ascending indices below `universe`; `used` = bytes read.
bool index_decode(const Ops& ops, const u8* in, std::size_t size, u32* index, std::size_t n, u64 universe, std::size_t& used, Work& work);

// Canonical Huffman over bytes, code lengths <= 12. 0 where it does not fit / the bytes are wrong.
std::size_t huffman_encode(const u8* in, std::size_t n, u8* out, std::size_t room);
bool huffman_decode(const u8* in, std::size_t size, u8* out, std::size_t n);
// Adaptive binary range coder, order 0 (the coder of LZMA, I. Pavlov). 0 where it does not fit.
std::size_t range_encode(const u8* in, std::size_t n, u8* out, std::size_t room);
bool range_decode(const u8* in, std::size_t size, u8* out, std::size_t n);

}  // namespace engine::entropy
