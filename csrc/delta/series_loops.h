// Loops over a column of a series: included once for each ISA after loops.h, inside its namespace and target.

inline constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to the nearest integer, held in the low bits
inline i64 bits_of(double x) { i64 v; std::memcpy(&v, &x, 8); return v; }
inline double double_of(i64 v) { double x; std::memcpy(&x, &v, 8); return x; }
inline i64 rounded(double x) { return bits_of(x + magic) - bits_of(magic); }            // |x| < 2^51
inline double real_of(i64 v) { return double_of(static_cast<i64>(static_cast<u64>(v) + static_cast<u64>(bits_of(magic)))) - magic; }          // |v| < 2^51

template <class U>
inline void widen(const u8* in, std::size_t n, i64* __restrict k) {
    const U* __restrict x = typed<U>(in, 0);
    for (std::size_t i = 0; i < n; ++i) k[i] = static_cast<i64>(x[i]);
}

template <Kind kind, class U>
inline void order(const u8* in, std::size_t n, i64* __restrict k) {
    const U* __restrict x = typed<U>(in, 0);
    for (std::size_t i = 0; i < n; ++i) k[i] = static_cast<i64>(static_cast<std::make_signed_t<U>>(ordered<kind, U>(x[i])));
}

// Elements as integers in the order of their values.
inline void series_whole(Kind kind, const u8* in, std::size_t n, i64* k) {
    switch (kind) {
        case Kind::int8: return widen<std::int8_t>(in, n, k);
        case Kind::int16: return widen<std::int16_t>(in, n, k);
        case Kind::int32: return widen<std::int32_t>(in, n, k);
        case Kind::int64: return widen<i64>(in, n, k);
        case Kind::half: return order<Kind::half, u16>(in, n, k);
        case Kind::brain: return order<Kind::brain, u16>(in, n, k);
        case Kind::twice: return order<Kind::twice, u64>(in, n, k);
        default: return order<Kind::single, u32>(in, n, k);
    }
}

template <Kind kind, class U>
inline void disorder(const i64* __restrict k, std::size_t n, u8* out) {
    U* __restrict x = reinterpret_cast<U*>(out);
    for (std::size_t i = 0; i < n; ++i) x[i] = ordered<kind, U>(static_cast<U>(k[i]));
}

inline void series_back(Kind kind, const i64* k, std::size_t n, u8* out) {
    switch (kind) {
        case Kind::int8: return disorder<Kind::int8, u8>(k, n, out);
        case Kind::int16: return disorder<Kind::int16, u16>(k, n, out);
        case Kind::int32: return disorder<Kind::int32, u32>(k, n, out);
        case Kind::int64: return disorder<Kind::int64, u64>(k, n, out);
        case Kind::half: return disorder<Kind::half, u16>(k, n, out);
        case Kind::brain: return disorder<Kind::brain, u16>(k, n, out);
        case Kind::twice: return disorder<Kind::twice, u64>(k, n, out);
        default: return disorder<Kind::single, u32>(k, n, out);
    }
}

// Counts of steps: x = k / scale (scale a power of ten) to the bit, or |x - k * step| < step / 2 with scale = 1 / step.
template <class F, class U>
inline std::size_t steps_of(const u8* in, std::size_t n, bool decimal, double scale, double step, F limit, i64* __restrict k, u8* __restrict bad) {
    const F* __restrict x = typed<F>(in, 0);
    u32 count = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const double v = static_cast<double>(x[i]) * scale;
        const bool near = v < 1125899906842624.0 && v > -1125899906842624.0;  // 2^50
        const i64 q = rounded(near ? v : 0.0);
        const double r = real_of(q);
        const F made = static_cast<F>(decimal ? r / scale : r * step), miss = made - x[i];
        U a, b;
        std::memcpy(&a, &made, sizeof a);
        std::memcpy(&b, x + i, sizeof b);
        const bool fits = near & (decimal ? a == b : (miss < limit) & (miss > -limit));
        k[i] = fits ? q : 0;
        bad[i] = !fits;
        count += !fits;
    }
    return count;
}

inline std::size_t series_steps(Kind kind, const u8* in, std::size_t n, bool decimal, double scale, double step, double limit, i64* k, u8* bad) {
    if (kind == Kind::twice) return steps_of<double, u64>(in, n, decimal, scale, step, limit, k, bad);
    return steps_of<float, u32>(in, n, decimal, scale, step, below<float>(limit), k, bad);
}

template <class F>
inline void real_back(const i64* __restrict k, std::size_t n, bool decimal, double scale, double step, u8* out) {
    F* __restrict x = reinterpret_cast<F*>(out);
    if (decimal)
        for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<F>(real_of(k[i]) / scale);
    else
        for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<F>(real_of(k[i]) * step);
}

inline void series_real(Kind kind, const i64* k, std::size_t n, bool decimal, double scale, double step, u8* out) {
    if (kind == Kind::twice) return real_back<double>(k, n, decimal, scale, step, out);
    return real_back<float>(k, n, decimal, scale, step, out);
}

// z = zigzag of the difference of `order`; k[-1] and k[-2] are the values before. Returns bits used by any | or of all high halves << 32.
template <int grade>
inline u64 gaps_of(const i64* __restrict k, std::size_t n, u32* __restrict z, u32* __restrict high) {
    u64 any = 0;
    for (std::size_t i = 0; i < n; ++i) {
        u64 d = static_cast<u64>(k[i]);
        if constexpr (grade == 1) d -= static_cast<u64>(k[static_cast<std::ptrdiff_t>(i) - 1]);
        if constexpr (grade == 2) d -= 2 * static_cast<u64>(k[static_cast<std::ptrdiff_t>(i) - 1]) - static_cast<u64>(k[static_cast<std::ptrdiff_t>(i) - 2]);
        const u64 v = zigzag<u64>(d);
        z[i] = static_cast<u32>(v);
        high[i] = static_cast<u32>(v >> 32);
        any |= v;
    }
    return any;
}

inline u64 series_gaps(int grade, const i64* k, std::size_t n, u32* z, u32* high) {
    switch (grade) {
        case 0: return gaps_of<0>(k, n, z, high);
        case 1: return gaps_of<1>(k, n, z, high);
        default: return gaps_of<2>(k, n, z, high);
    }
}

// The reverse, sums carried in k[-1] and k[-2].
inline void series_sums(int grade, const u32* z, const u32* high, std::size_t n, i64* k) {
    u64 last = static_cast<u64>(k[-1]), step = last - static_cast<u64>(k[-2]);
    for (std::size_t i = 0; i < n; ++i) {
        const u64 d = zagzig<u64>(z[i] | static_cast<u64>(high[i]) << 32);
        if (grade == 0) last = d;
        if (grade == 1) last += d;
        if (grade == 2) last += step += d;
        k[i] = static_cast<i64>(last);
    }
}
