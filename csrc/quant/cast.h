// Narrow floats, shared-scale integers and plain quantisation; part of base.h, included once for each ISA.
namespace engine::quant::LANES {

static inline constexpr std::size_t far = 1u << 22;  // elements

template <int kind>
struct Format;  // mantissa shift from float32, exponent rebias, largest value
template <> struct Format<bf16> { static constexpr int shift = 16, bias = 127; static constexpr std::uint32_t top = 0x7f7f0000; using Item = std::uint16_t; };
template <> struct Format<fp16> { static constexpr int shift = 13, bias = 15; static constexpr std::uint32_t top = 0x477fe000; using Item = std::uint16_t; };
template <> struct Format<fp8> { static constexpr int shift = 20, bias = 7; static constexpr std::uint32_t top = 0x43e00000; using Item = std::uint8_t; };

template <int kind>
INLINE I code(F x) {  // nearest even, saturating, subnormals kept
    using K = Format<kind>;
    I a = as<I>(x) & 0x7fffffff;
    a = a > std::int32_t(K::top) ? I{} + std::int32_t(K::top) : a;
    I r = (a + ((1 << (K::shift - 1)) - 1) + ((a >> K::shift) & 1)) >> K::shift;
    if constexpr (K::bias != 127) {
        r -= (127 - K::bias) << (23 - K::shift);
        constexpr std::int32_t step = (127 + 23 + 1 - K::bias - (23 - K::shift)) << 23;  // 2^23 subnormal steps
        const I low = as<I>(as<F>(a) + as<F>(I{} + step)) - step;
        r = a < ((128 - K::bias) << 23) ? low : r;
    } else {
        r = r > std::int32_t(K::top >> 16) ? I{} + std::int32_t(K::top >> 16) : r;
    }
    constexpr int top = kind == fp8 ? 7 : 15;
    return r | ((as<I>(x) >> 31) & (1 << top));
}

template <int kind>
INLINE F value(I q) {
    using K = Format<kind>;
    constexpr int top = kind == fp8 ? 7 : 15;
    I a = (q & ((1 << top) - 1)) << K::shift;
    if constexpr (K::bias != 127) {  // a subnormal is made as 1.m * 2^(1 - bias) less 2^(1 - bias): float32 sees no denormal
        constexpr std::int32_t first = (128 - K::bias) << 23;
        const I normal = a + ((127 - K::bias) << 23);
        a = a < 1 << 23 ? as<I>(as<F>(normal + (1 << 23)) - as<F>(I{} + first)) : normal;
    }
    return as<F>(a | (q & (1 << top)) << (31 - top));
}

template <class Item>
INLINE void put(void* out, std::size_t at, I q) {
    if constexpr (sizeof(Item) == 1) narrow(static_cast<std::uint8_t*>(out) + at, q);
    else if constexpr (sizeof(Item) == 2) store(static_cast<Item*>(out) + at, __builtin_convertvector(q, H));
    else store(static_cast<Item*>(out) + at, q);
}

// `make(x, q)` gives the residual of W elements and their codes; the last group of 64 goes through a padded copy.
template <class Item, class Make>
INLINE void sweep_group(const float* g, float* e, Item* out, Make make, I& bad) {
    F x[V64];
    I over{};
    for (int j = 0; j < V64; ++j) {
        x[j] = plus(g, e, static_cast<std::size_t>(j * W));
        over = larger(over, as<I>(x[j]) & 0x7fffffff);
    }
    if (__builtin_expect(bits(0x7f7fffff - over) != 0, 0))
        for (int j = 0; j < V64; ++j) x[j] = take(g ? g + j * W : g, e + j * W, bad);
    for (int j = 0; j < V64; ++j) {
        I q;
        store(e + j * W, make(x[j], q));
        put<Item>(out, static_cast<std::size_t>(j * W), q);
    }
}

template <class Item, class Make>
INLINE std::size_t sweep(const float* g, float* e, std::size_t n, void* to, Make make) {
    Item* out = static_cast<Item*>(to);
    std::size_t at = 0, sum = 0;
    while (at + 64 <= n) {  // lanes of the count are emptied before they can overflow
        const std::size_t stop = n - at > (1u << 20) ? at + (1u << 20) : n;
        I bad{};
        for (; at + 64 <= stop; at += 64) sweep_group(g ? g + at : g, e + at, out + at, make, bad);
        sum += total(bad);
    }
    if (at == n) return sum;
    alignas(64) float x[64] = {}, y[64] = {};
    Item last[64];
    I bad{};
    std::memcpy(y, e + at, (n - at) * 4);
    if (g) std::memcpy(x, g + at, (n - at) * 4);
    sweep_group(g ? x : g, y, last, make, bad);
    std::memcpy(e + at, y, (n - at) * 4);
    std::memcpy(out + at, last, (n - at) * sizeof(Item));
    return sum + total(bad);
}

template <int kind>
std::size_t cast(const float* g, float* e, std::size_t n, void* out) {
    return sweep<typename Format<kind>::Item>(g, e, n, out, [](F x, I& q) __attribute__((always_inline)) {
        q = code<kind>(x);
        return x - value<kind>(q);
    });
}

template <int kind>
void widen(const void* in, std::size_t n, float* acc) {
    using Item = typename Format<kind>::Item;
    const auto* item = static_cast<const Item*>(in);
    auto get = [](const Item* p) __attribute__((always_inline)) {
        if constexpr (sizeof(Item) == 1) return bytes(p);
        else return halves(p);
    };
    std::size_t at = 0;
    for (; at + W <= n; at += W) store(acc + at, load<F>(acc + at) + value<kind>(get(item + at)));
    if (at == n) return;
    Item last[W] = {};
    float x[W] = {};
    std::memcpy(last, item + at, (n - at) * sizeof(Item));
    std::memcpy(x, acc + at, (n - at) * 4);
    store(x, load<F>(x) + value<kind>(get(last)));
    std::memcpy(acc + at, x, (n - at) * 4);
}

template <class Item>
std::size_t shared(const float* g, float* e, std::size_t n, float inverse, float scale, float levels, void* out) {
    return sweep<Item>(g, e, n, out, [=](F x, I& q) __attribute__((always_inline)) {
        F y = x * inverse;
        y = y > levels ? F{} + levels : y;
        y = y < -levels ? F{} - levels : y;
        q = round(y);
        return x - __builtin_convertvector(q, F) * scale;
    });
}

template <class Item>
void shared_add(const void* in, std::size_t n, float scale, float* acc) {
    const auto* item = static_cast<const Item*>(in);
    std::size_t at = 0;
    for (; at + W <= n; at += W) {
        I q;
        if constexpr (sizeof(Item) == 1) q = bytes(item + at);
        else if constexpr (sizeof(Item) == 2) q = halves(item + at) << 16 >> 16;
        else q = load<I>(item + at);
        store(acc + at, load<F>(acc + at) + __builtin_convertvector(q, F) * scale);
    }
    for (; at < n; ++at) {
        const float product = static_cast<float>(item[at]) * scale;
        acc[at] += product;
    }
}

inline float peak(const float* g, const float* e, std::size_t n) {
    I most{};
    std::size_t at = 0;
    auto see = [&](const float* x, const float* y) __attribute__((always_inline)) {
        const I a = as<I>(plus(x, y, 0)) & 0x7fffffff;
        most = larger(most, a < 0x7f800000 ? a : as<I>(load<F>(y)) & 0x7fffffff);
    };
    for (; at + W <= n; at += W) see(g + at, e + at);
    if (at < n) {
        float x[W] = {}, y[W] = {};
        std::memcpy(x, g + at, (n - at) * 4);
        std::memcpy(y, e + at, (n - at) * 4);
        see(x, y);
    }
    std::int32_t top = 0;
    for (int j = 0; j < W; ++j) top = most[j] > top ? most[j] : top;
    return as<float>(top);
}

template <bool past, class Make>
INLINE void quantise_group(const float* p, std::uint8_t* to, Make make) {
    I q[V64];
    for (int j = 0; j < V64; ++j) q[j] = make(p + j * W);
    narrow64<true, past>(to, q);
}

inline void quantise(const float* x, std::size_t n, float inverse, float zero, std::uint8_t* out) {
    auto make = [=](const float* p) __attribute__((always_inline)) {
        F y = load<F>(p) * inverse + zero;
        y = y > 0.f ? y : F{};  // NaN becomes 0
        y = y > 255.f ? F{} + 255.f : y;
        return round(y);
    };
    std::size_t at = 0;
    auto edge = [&](std::size_t count) __attribute__((always_inline)) {  // fewer than 64, through padded copies
        float y[64] = {};
        std::uint8_t codes[64];
        std::memcpy(y, x + at, count * 4);
        quantise_group<false>(y, codes, make);
        std::memcpy(out + at, codes, count);
        at += count;
    };
    if (n >= far) {  // more than the cache holds: codes are written past it, which saves reading what they overwrite
        edge(-reinterpret_cast<std::uintptr_t>(out) % 64);
        for (; at + 64 <= n; at += 64) quantise_group<true>(x + at, out + at, make);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    for (; at + 64 <= n; at += 64) quantise_group<false>(x + at, out + at, make);
    if (at < n) edge(n - at);
}

inline void from_bf16(const std::uint16_t* x, std::size_t n, float* out) {
    std::size_t at = 0;
    for (; at + W <= n; at += W) store(out + at, halves(x + at) << 16);
    for (; at < n; ++at) out[at] = as<float>(static_cast<std::uint32_t>(x[at]) << 16);
}

inline void from_f64(const double* x, std::size_t n, float* out) {
    using D = double __attribute__((vector_size(W * 8)));
    std::size_t at = 0;
    for (; at + W <= n; at += W) store(out + at, __builtin_convertvector(load<D>(x + at), F));
    for (; at < n; ++at) out[at] = static_cast<float>(x[at]);
}

inline void add(const float* g, float* e, std::size_t n) {
    std::size_t at = 0;
    for (; at + W <= n; at += W) store(e + at, load<F>(e + at) + load<F>(g + at));
    for (; at < n; ++at) e[at] += g[at];
}

static const Ops table{
    {encode<sign>, encode<ternary>, encode<int2>, encode<int4>, encode<int8>, encode<int2s>, encode<int4s>, encode<int8s>},
    {decode<sign>, decode<ternary>, decode<int2>, decode<int4>, decode<int8>, decode<int2>, decode<int4>, decode<int8>},
    {cast<bf16>, cast<fp16>, cast<fp8>}, {widen<bf16>, widen<fp16>, widen<fp8>},
    {shared<std::int8_t>, shared<std::int16_t>, shared<std::int32_t>},
    {shared_add<std::int8_t>, shared_add<std::int16_t>, shared_add<std::int32_t>}, peak, quantise, from_bf16, from_f64, add};

}  // namespace engine::quant::LANES
