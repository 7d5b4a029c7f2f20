// Loops over elements, in the compiler's own vectors: included once for each ISA, inside its namespace and target.

template <Kind kind, class U>
inline U ordered(U bits) {  // order-preserving: the bits of a negative float are turned over, sign kept
    using S = std::make_signed_t<U>;
    if constexpr (kind < Kind::half) return bits;
    return static_cast<U>(bits ^ static_cast<U>(static_cast<U>(static_cast<S>(bits) >> (8 * sizeof(U) - 1)) >> 1));
}

template <Kind kind, class U>
inline u8 exponent(U bits) {
    if constexpr (kind == Kind::half) return static_cast<u8>(bits >> 10 & 31);
    if constexpr (kind == Kind::brain) return static_cast<u8>(bits >> 7 & 255);
    if constexpr (kind == Kind::single) return static_cast<u8>(bits >> 23 & 255);
    return 0;
}

template <class U>
inline U zigzag(U d) { return static_cast<U>(d << 1 ^ static_cast<U>(static_cast<std::make_signed_t<U>>(d) >> (8 * sizeof(U) - 1))); }

template <class U>
inline U zagzig(U z) { return static_cast<U>(z >> 1 ^ static_cast<U>(0 - (z & 1))); }

inline u32 bits_of(float x) { u32 v; std::memcpy(&v, &x, 4); return v; }
inline float float_of(u32 v) { float x; std::memcpy(&x, &v, 4); return x; }

// Base moved on by beta of its last step; base itself where that is not finite, whose bits would differ between machines.
inline u32 predict(u32 base, u32 before, float beta) {
    const float b = float_of(base), step = b - float_of(before), moved = b + beta * step;
    const u32 p = bits_of(moved);
    return (p & 0x7f800000u) == 0x7f800000u ? base : p;
}

template <class U>
inline const U* typed(const u8* p, std::size_t at) { return reinterpret_cast<const U*>(p) + at; }

template <Kind kind, class U>
inline void exponents_of(const Job& job, std::size_t at, std::size_t n, u8* __restrict cond) {
    const U* __restrict base = typed<U>(job.base, at);
    for (std::size_t i = 0; i < n; ++i) cond[i] = exponent<kind, U>(base[i]);
}

template <Kind kind, class U, bool under>
inline std::size_t diff_of(const Job& job, std::size_t at, std::size_t n, u32* __restrict z, u8* __restrict cond) {
    const U *__restrict now = typed<U>(job.now, at), *__restrict base = typed<U>(job.base, at);
    u32 count = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const U v = zigzag<U>(static_cast<U>(ordered<kind, U>(now[i]) - ordered<kind, U>(base[i])));
        z[i] = v;
        count += v != 0;
        if constexpr (kind >= Kind::half && under) cond[i] = exponent<kind, U>(base[i]);
    }
    return count;
}

inline std::size_t diff_predicted(const Job& job, std::size_t at, std::size_t n, u32* __restrict z) {
    const u32 *__restrict now = typed<u32>(job.now, at), *__restrict base = typed<u32>(job.base, at), *__restrict before = typed<u32>(job.previous, at);
    const float beta = job.beta;
    u32 count = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const u32 p = predict(base[i], before[i], beta);
        const u32 v = zigzag<u32>(ordered<Kind::single, u32>(now[i]) - ordered<Kind::single, u32>(p));
        z[i] = v;
        count += v != 0;
    }
    return count;
}

template <Kind kind>
inline std::size_t diff_wide(const Job& job, std::size_t at, std::size_t n, u32* __restrict z, u32* __restrict high) {
    const u64 *__restrict now = typed<u64>(job.now, at), *__restrict base = typed<u64>(job.base, at);
    u32 count = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const u64 v = zigzag<u64>(ordered<kind, u64>(now[i]) - ordered<kind, u64>(base[i]));
        z[i] = static_cast<u32>(v);
        high[i] = static_cast<u32>(v >> 32);
        count += v != 0;
    }
    return count;
}

template <Kind kind, class U>
inline std::size_t diff_any(const Job& job, std::size_t at, std::size_t n, u32* z, u8* cond) {
    return cond ? diff_of<kind, U, true>(job, at, n, z, cond) : diff_of<kind, U, false>(job, at, n, z, cond);
}

inline std::size_t diff(const Job& job, std::size_t at, std::size_t n, u32* z, u32* high, u8* cond) {
    switch (job.kind) {
        case Kind::int8: return diff_any<Kind::int8, u8>(job, at, n, z, cond);
        case Kind::int16: return diff_any<Kind::int16, u16>(job, at, n, z, cond);
        case Kind::int32: return diff_any<Kind::int32, u32>(job, at, n, z, cond);
        case Kind::half: return diff_any<Kind::half, u16>(job, at, n, z, cond);
        case Kind::brain: return diff_any<Kind::brain, u16>(job, at, n, z, cond);
        case Kind::int64: return diff_wide<Kind::int64>(job, at, n, z, high);
        case Kind::twice: return diff_wide<Kind::twice>(job, at, n, z, high);
        default: break;
    }
    if (!job.previous) return diff_any<Kind::single, u32>(job, at, n, z, cond);
    const auto count = diff_predicted(job, at, n, z);
    if (cond) exponents_of<Kind::single, u32>(job, at, n, cond);
    return count;
}

// `ordered` is its own inverse. No __restrict on base and out: they may be one.
template <Kind kind, class U>
inline void join_of(const Job& job, std::size_t at, std::size_t n, const u32* __restrict z, u8* out) {
    const U* base = typed<U>(job.base, at);
    U* to = reinterpret_cast<U*>(out);
#pragma GCC ivdep
    for (std::size_t i = 0; i < n; ++i)
        to[i] = ordered<kind, U>(static_cast<U>(ordered<kind, U>(base[i]) + zagzig<U>(static_cast<U>(z[i]))));
}

inline void join_predicted(const Job& job, std::size_t at, std::size_t n, const u32* __restrict z, u8* out) {
    const u32 *base = typed<u32>(job.base, at), *before = typed<u32>(job.previous, at);
    u32* to = reinterpret_cast<u32*>(out);
    const float beta = job.beta;
#pragma GCC ivdep
    for (std::size_t i = 0; i < n; ++i) {
        const u32 p = predict(base[i], before[i], beta);
        to[i] = ordered<Kind::single, u32>(ordered<Kind::single, u32>(p) + zagzig<u32>(z[i]));
    }
}

template <Kind kind>
inline void join_wide(const Job& job, std::size_t at, std::size_t n, const u32* __restrict z, const u32* __restrict high, u8* out) {
    const u64* base = typed<u64>(job.base, at);
    u64* to = reinterpret_cast<u64*>(out);
#pragma GCC ivdep
    for (std::size_t i = 0; i < n; ++i) {
        const u64 v = z[i] | static_cast<u64>(high[i]) << 32;
        to[i] = ordered<kind, u64>(ordered<kind, u64>(base[i]) + zagzig<u64>(v));
    }
}

inline void join(const Job& job, std::size_t at, std::size_t n, const u32* z, const u32* high, u8* out) {
    switch (job.kind) {
        case Kind::int8: return join_of<Kind::int8, u8>(job, at, n, z, out);
        case Kind::int16: return join_of<Kind::int16, u16>(job, at, n, z, out);
        case Kind::int32: return join_of<Kind::int32, u32>(job, at, n, z, out);
        case Kind::half: return join_of<Kind::half, u16>(job, at, n, z, out);
        case Kind::brain: return join_of<Kind::brain, u16>(job, at, n, z, out);
        case Kind::int64: return join_wide<Kind::int64>(job, at, n, z, high, out);
        case Kind::twice: return join_wide<Kind::twice>(job, at, n, z, high, out);
        default: return job.previous ? join_predicted(job, at, n, z, out) : join_of<Kind::single, u32>(job, at, n, z, out);
    }
}

inline void exponents(const Job& job, std::size_t at, std::size_t n, u8* cond) {
    switch (job.kind) {
        case Kind::half: return exponents_of<Kind::half, u16>(job, at, n, cond);
        case Kind::brain: return exponents_of<Kind::brain, u16>(job, at, n, cond);
        case Kind::single: return exponents_of<Kind::single, u32>(job, at, n, cond);
        default: std::memset(cond, 0, n);
    }
}

using Wide = u32 __attribute__((vector_size(64), aligned(4)));

inline u32 any(const u32* z) {
    Wide all{};
    for (std::size_t r = 0; r < group / 16; ++r) {
        Wide v;
        std::memcpy(&v, z + 16 * r, 64);
        all |= v;
    }
    u32 some = 0;
    for (int i = 0; i < 16; ++i) some |= all[i];
    return some;
}

template <u32 width>
inline void pack_of(const u32* z, u8* out) {
    Wide held{};
    u32 bits = 0;
#pragma GCC unroll 32
    for (u32 r = 0; r < 32; ++r) {
        Wide v;
        std::memcpy(&v, z + 16 * r, 64);
        held |= v << bits;
        bits += width;
        if (bits >= 32) {
            std::memcpy(out, &held, 64);
            out += 64;
            bits -= 32;
            held = bits ? v >> (width - bits) : Wide{};
        }
    }
}

template <u32 width>
inline void unpack_of(const u8* in, u32* z) {
    constexpr u32 mask = width == 32 ? ~0u : (1u << width % 32) - 1;
    Wide held{};
    u32 bits = 0;  // of `held` not yet used
#pragma GCC unroll 32
    for (u32 r = 0; r < 32; ++r) {
        Wide v = held;
        if (bits < width) {
            Wide next;
            std::memcpy(&next, in, 64);
            in += 64;
            if (bits) v |= next << bits;
            else v = next;
            held = width - bits < 32 ? next >> (width - bits) : Wide{};
            bits += 32 - width;
        } else {
            held >>= width;
            bits -= width;
        }
        v &= mask;
        std::memcpy(z + 16 * r, &v, 64);
    }
}

template <u32... width>
inline void pack_any(const u32* z, u32 which, u8* out, std::integer_sequence<u32, width...>) {
    static constexpr void (*table[])(const u32*, u8*) = {pack_of<width + 1>...};
    if (which) table[which - 1](z, out);
}

template <u32... width>
inline void unpack_any(const u8* in, u32 which, u32* z, std::integer_sequence<u32, width...>) {
    static constexpr void (*table[])(const u8*, u32*) = {unpack_of<width + 1>...};
    if (which) table[which - 1](in, z);
    else std::memset(z, 0, 4 * group);
}

inline void pack(const u32* z, u32 width, u8* out) { pack_any(z, width, out, std::make_integer_sequence<u32, 32>()); }
inline void unpack(const u8* in, u32 width, u32* z) { unpack_any(in, width, z, std::make_integer_sequence<u32, 32>()); }

// The bound is compared in the element's own precision, rounded down to it: rounding is monotone, so a difference that
// rounds below the bound is below it. What is not finite, or moves by more than 2^24 steps, is marked.
template <class F, class U, class I>
inline std::size_t quantise_of(const Job& job, std::size_t at, std::size_t n, u32* __restrict z, u8* __restrict rec, u8* __restrict bad) {
    const F *__restrict now = typed<F>(job.now, at), *__restrict base = typed<F>(job.base, at);
    F* __restrict to = reinterpret_cast<F*>(rec);
    const F limit = below<F>(job.bound), step = 2 * limit, inverse = 1 / step;
    u32 count = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const F steps = (now[i] - base[i]) * inverse;
        const bool near = steps < F(16777216) && steps > F(-16777216);
        const I q = static_cast<I>(near ? steps + (steps < 0 ? F(-0.5) : F(0.5)) : F(0));
        const F made = base[i] + static_cast<F>(q) * step, miss = made - now[i];
        const bool wrong = !(near && miss < limit && miss > -limit);
        z[i] = wrong ? 0 : zigzag<u32>(static_cast<u32>(q));
        to[i] = wrong ? now[i] : made;
        bad[i] = wrong;
        count += wrong;
    }
    return count;
}

inline std::size_t quantise(const Job& job, std::size_t at, std::size_t n, u32* z, u8* rec, u8* bad) {
    if (job.kind == Kind::twice) return quantise_of<double, u64, std::int64_t>(job, at, n, z, rec, bad);
    return quantise_of<float, u32, std::int32_t>(job, at, n, z, rec, bad);
}

template <class F>
inline void restore_of(const Job& job, std::size_t at, std::size_t n, const u32* __restrict z, u8* out) {
    const F* base = typed<F>(job.base, at);
    F* to = reinterpret_cast<F*>(out);
    const F step = 2 * below<F>(job.bound);
#pragma GCC ivdep
    for (std::size_t i = 0; i < n; ++i) to[i] = base[i] + static_cast<F>(static_cast<std::int32_t>(zagzig<u32>(z[i]))) * step;
}

inline void restore(const Job& job, std::size_t at, std::size_t n, const u32* z, u8* out) {
    if (job.kind == Kind::twice) return restore_of<double>(job, at, n, z, out);
    return restore_of<float>(job, at, n, z, out);
}
