// Included inside a namespace that may use SSE 4.1: the decimal number [s, e) of digits, one point and a leading minus, as
// float(double); false for any other form. Reads the 32 bytes before `e`. Equal to base::real: an exact integer below 2^53
// divided by an exact power of ten (Clinger, PLDI 1990), or `nearest`.
inline std::uint64_t digits16(__m128i d) {
    const __m128i two = _mm_maddubs_epi16(d, _mm_set1_epi16(1 << 8 | 10));
    const __m128i four = _mm_madd_epi16(two, _mm_set1_epi32(1 << 16 | 100));
    const __m128i eight = _mm_madd_epi16(_mm_packus_epi32(four, four), _mm_set1_epi32(1 << 16 | 10000));
    const std::uint64_t both = static_cast<std::uint64_t>(_mm_cvtsi128_si64(eight));
    return (both & 0xFFFFFFFFu) * 100000000ull + (both >> 32);
}

// The `used` (0..16) characters before `e`, digits and at most one point, as an integer; `after`: the point
// and the digits after it, 0 where there is none.
inline bool part_of(const Byte* e, unsigned used, std::uint64_t& m, int& after) {
    static constexpr Byte kept[32] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                      255, 255, 255, 255, 255, 255, 255};
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(e - 16));
    const __m128i window = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kept + used));
    const __m128i d = _mm_and_si128(_mm_sub_epi8(x, _mm_set1_epi8('0')), window);
    const unsigned body = 0xFFFFu << (16 - used) & 0xFFFFu;
    const unsigned digits = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(d, _mm_set1_epi8(9)), d)));
    const unsigned point = body & ~digits;
    const __m128i order = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m128i packed = d;
    after = 0;
    if (point) {
        const int place = __builtin_ctz(point);
        if ((point & (point - 1)) || e[place - 16] != '.') return false;
        after = 16 - place;
        const __m128i at = _mm_set1_epi8(static_cast<char>(place + 1));  // up to the point: one place up
        packed = _mm_shuffle_epi8(d, _mm_add_epi8(order, _mm_cmplt_epi8(order, at)));
    }
    m = digits16(packed);
    return true;
}

// 17 to 24 characters, at most 19 digits, the last 16 characters all digits.
inline bool long_of(const Byte* s, const Byte* e, float& out) {
    const bool minus = *s == '-';
    std::uint64_t head, tail;
    int after, none;
    if (!part_of(e, 16, tail, none) || none || !part_of(e - 16, static_cast<unsigned>(e - s) - 16 - minus, head, after) || head > 999)
        return false;
    return base::nearest(head * 10000000000000000ull + tail, after ? 15 + after : 0, minus, out);
}

inline bool decimal_of(const Byte* s, const Byte* e, float& out) {
    const auto size = static_cast<std::size_t>(e - s);
    if (size - 1 > 15) return size && size <= 24 && long_of(s, e, out);
    const unsigned minus = *s == '-', used = static_cast<unsigned>(size) - minus;
    std::uint64_t m;
    int after;
    if (!part_of(e, used, m, after) || (used < 2 && (!used || after))) return false;
    const int fraction = after - (after > 0);
    if (m >> 53) return base::nearest(m, fraction, minus, out);
    out = base::signed_of(static_cast<double>(static_cast<std::int64_t>(m)) / base::tens[fraction], minus);
    return true;
}
