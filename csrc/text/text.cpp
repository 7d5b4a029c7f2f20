#include "text/ops.h"

#include <cmath>

namespace engine::text {
namespace {

using Byte = std::uint8_t;
using Word = std::uint64_t;

constexpr Word basis = 0xCBF29CE484222325ull, prime = 0x100000001B3ull, golden = 0x9E3779B97F4A7C15ull, chars = 0x63686172ull;

Word mix(Word x) {  // splitmix64 finaliser
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

// What stands between words beyond ASCII: punctuation, symbols, blanks, private use (docs/clean.md). First and last of each.
constexpr std::uint32_t between[][2] = {
    {0x80, 0xA9}, {0xAB, 0xB4}, {0xB6, 0xB9}, {0xBB, 0xBF}, {0xD7, 0xD7}, {0xF7, 0xF7}, {0x60C, 0x60D}, {0x61B, 0x61F},
    {0x66A, 0x66D}, {0x6D4, 0x6D4}, {0x964, 0x965}, {0x1680, 0x1680}, {0x2000, 0x206F}, {0x20A0, 0x20CF}, {0x2190, 0x2BFF},
    {0x2E00, 0x2E7F}, {0x3000, 0x3004}, {0x3008, 0x3020}, {0x3030, 0x3030}, {0x303D, 0x303F}, {0x30FB, 0x30FB},
    {0xE000, 0xF8FF}, {0xFD3E, 0xFD3F}, {0xFE10, 0xFE1F}, {0xFE30, 0xFE6F}, {0xFEFF, 0xFEFF}, {0xFF00, 0xFF0F},
    {0xFF1A, 0xFF20}, {0xFF3B, 0xFF40}, {0xFF5B, 0xFF65}, {0xFFE0, 0xFFFF}, {0x1F000, 0x1FAFF}};

bool separates(std::uint32_t c) {
    if (c > 0xF7 && c < 0x60C) return false;
    for (const auto& r : between)
        if (c <= r[1]) return c >= r[0];
    return false;
}

std::uint32_t lower(std::uint32_t c) {  // of one code point beyond ASCII; each as long in UTF-8 as before
    if (c < 0x100) return c >= 0xC0 && c <= 0xDE && c != 0xD7 ? c + 32 : c;
    if (c < 0x180) {
        if (c == 0x130 || c == 0x138 || c == 0x149 || c == 0x17F) return c;
        if (c == 0x178) return 0xFF;
        const bool odd = (c >= 0x139 && c <= 0x148) || c >= 0x179;
        return (c & 1) == odd ? c + 1 : c;
    }
    if (c >= 0x391 && c <= 0x3AB) return c == 0x3A2 ? c : c + 32;
    if (c == 0x386) return 0x3AC;
    if (c >= 0x388 && c <= 0x38A) return c + 37;
    if (c == 0x38C) return 0x3CC;
    if (c == 0x38E || c == 0x38F) return c + 63;
    if (c >= 0x410 && c <= 0x42F) return c + 32;
    if (c >= 0x400 && c <= 0x40F) return c + 80;
    return c;
}

// Length of the well-formed sequence at `p`, 0 where there is none (Unicode 15, table 3-7); `c`: its code point.
int decode(const Byte* p, const Byte* end, std::uint32_t& c) {
    const auto next = [&](int i, Byte lo = 0x80, Byte hi = 0xBF) { return p + i < end && p[i] >= lo && p[i] <= hi; };
    const Byte b = *p;
    if (b >= 0xC2 && b <= 0xDF && next(1)) return c = (b & 31u) << 6 | (p[1] & 63u), 2;
    if (b >= 0xE0 && b <= 0xEF && next(1, b == 0xE0 ? 0xA0 : 0x80, b == 0xED ? 0x9F : 0xBF) && next(2))
        return c = (b & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u), 3;
    if (b >= 0xF0 && b <= 0xF4 && next(1, b == 0xF0 ? 0x90 : 0x80, b == 0xF4 ? 0x8F : 0xBF) && next(2) && next(3))
        return c = (b & 7u) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u), 4;
    return 0;
}

struct Ascii {
    Byte low[128];  // lower case of a byte of a word, else 0
    constexpr Ascii() : low() {
        for (int b = 0; b < 128; ++b)
            low[b] = (b >= '0' && b <= '9') || (b >= 'a' && b <= 'z') || b == '_' ? static_cast<Byte>(b)
                   : b >= 'A' && b <= 'Z' ? static_cast<Byte>(b + 32) : Byte{0};
    }
};
constexpr Ascii ascii;

// The last `hi` n-grams begun, oldest first, each one item longer with every item.
struct Ring {
    Word hash[most];
    int held = 0;
};

struct Walk {
    const Grams& g;
    Slot* slots;
    std::uint64_t last;
    std::uint32_t turn, mask;
    std::uint32_t* keys;
    float* values;
    std::int64_t first, nnz;
    std::uint64_t total = 0;
    Ring words, letters;

    void emit(Word hash) {
        const auto key = static_cast<std::uint32_t>(hash) & mask;
        ++total;
        for (Word at = key * golden >> 32;; ++at) {
            Slot& slot = slots[at & last];
            if (slot.turn != turn) {
                slot = {turn, static_cast<std::uint32_t>(nnz - first)};
                keys[nnz] = key;
                values[nnz++] = 1;
                return;
            }
            if (keys[first + slot.place] == key) {
                values[first + slot.place] += 1;
                return;
            }
        }
    }

    void letter(const Byte* bytes, int size, Word start) {  // one character more
        if (letters.held == g.char_hi) {
            for (int i = 1; i < letters.held; ++i) letters.hash[i - 1] = letters.hash[i];
            --letters.held;
        }
        letters.hash[letters.held++] = start;
        for (int i = 0; i < letters.held; ++i) {
            Word h = letters.hash[i];
            for (int b = 0; b < size; ++b) h = (h ^ bytes[b]) * prime;
            letters.hash[i] = h;
            if (letters.held - i >= g.char_lo) emit(mix(h));
        }
    }

    void word(Word hash) {
        if (words.held == g.word_hi) {
            for (int i = 1; i < words.held; ++i) words.hash[i - 1] = words.hash[i];
            --words.held;
        }
        for (int i = 0; i < words.held; ++i) words.hash[i] = mix(words.hash[i] * golden + hash);
        words.hash[words.held++] = hash;
        for (int i = 0; i < words.held && words.held - i >= g.word_lo; ++i) emit(words.hash[i]);
    }

    void weigh() {
        float* v = values + first;
        const auto n = nnz - first;
        double scale = static_cast<double>(total);
        if (g.weigh == Weigh::l2) {
            double squares = 0;
            for (std::int64_t i = 0; i < n; ++i) squares += static_cast<double>(v[i]) * v[i];
            scale = std::sqrt(squares);
        }
        for (std::int64_t i = 0; i < n; ++i)
            v[i] = g.weigh == Weigh::binary ? 1.0f
                 : g.weigh == Weigh::sqrt   ? static_cast<float>(std::sqrt(static_cast<double>(v[i])))
                                            : static_cast<float>(v[i] / scale);
    }
};

}  // namespace

std::int64_t grams(const Byte* p, const Byte* end, const Grams& g, Word seed, std::uint32_t mask, Seen& seen,
                   std::uint32_t* keys, float* values, std::int64_t nnz) {
    Walk walk{g, seen.slot, slots(g, static_cast<std::uint64_t>(end - p)) - 1, ++seen.turn, mask, keys, values, nnz, nnz, 0, {}, {}};
    const Word start = seed ^ basis, letter = start ^ chars;
    const Byte blank = ' ';
    Word hash = start;
    bool open = false;  // inside a word
    for (;;) {
        Byte bytes[4];
        int size = 0, used = 1;
        if (p < end && *p < 0x80) {
            bytes[0] = ascii.low[*p];
            size = bytes[0] != 0;
        } else if (p < end) {
            std::uint32_t c = 0;
            used = decode(p, end, c);
            if (used && !separates(c)) {
                size = used;
                if (const std::uint32_t l = lower(c); l == c)
                    for (int i = 0; i < size; ++i) bytes[i] = p[i];
                else
                    bytes[0] = static_cast<Byte>(0xC0 | l >> 6), bytes[1] = static_cast<Byte>(0x80 | (l & 63));
            }
            used += !used;
        }
        if (size) {
            if (!open && g.char_hi) walk.letters.held = 0, walk.letter(&blank, 1, letter);
            open = true;
            for (int i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * prime;
            if (g.char_hi) walk.letter(bytes, size, letter);
        } else if (open) {
            if (g.char_hi) walk.letter(&blank, 1, letter);
            if (g.word_hi) walk.word(mix(hash));
            hash = start;
            open = false;
        }
        if (p == end) break;
        p += used;
    }
    if (g.weigh != Weigh::count) walk.weigh();
    return walk.nnz;
}

}  // namespace engine::text
