// Text to hashed n-grams: words of a UTF-8 text and the n-grams of characters inside them, as keys of 2^bits with their counts.
#pragma once
#include "kernel.h"

namespace engine::text {

enum class Weigh : int { count = 0, binary = 1, sqrt = 2, tf = 3, l2 = 4 };
constexpr int most = 8;  // longest n-gram

// Orders lo..hi of n-grams of words and of characters (hi 0: none); characters are those of a word between two blanks.
struct Grams { int word_lo, word_hi, char_lo, char_hi; Weigh weigh; };

// Which keys a text has already: `slots` for the longest text, zero at first; `turn` counts the texts.
struct Slot { std::uint32_t turn, place; };
struct Seen { Slot* slot; std::uint32_t turn; };

// Most entries that `bytes` of text give.
inline std::uint64_t room(const Grams& g, std::uint64_t bytes) {
    const auto words = static_cast<std::uint64_t>(g.word_hi ? g.word_hi - g.word_lo + 1 : 0);
    const auto chars = static_cast<std::uint64_t>(g.char_hi ? g.char_hi - g.char_lo + 1 : 0);
    return (bytes / 2 + 1) * words + (2 * bytes + 2) * chars;
}

// Slots that `bytes` of text want: a power of two, twice as many as there are entries.
inline std::uint64_t slots(const Grams& g, std::uint64_t bytes) {
    std::uint64_t n = 64;
    while (n < 2 * room(g, bytes)) n *= 2;
    return n;
}

// Appends the entries of one text at `nnz`, in the order in which their keys first come; the new end.
std::int64_t grams(const std::uint8_t* begin, const std::uint8_t* end, const Grams& g, std::uint64_t seed, std::uint32_t mask,
                   Seen& seen, std::uint32_t* keys, float* values, std::int64_t nnz);

}  // namespace engine::text
