// Narrow floats, shared-scale integers and plain quantisation; part of base.h, included once for each ISA.
namespace engine::quant::LANES {

template <int kind>
struct Format;  // mantissa shift from float32, exponent rebias, largest value
template <> struct Format<bf16> { static constexpr int shift = 16, bias = 127; static constexpr std::uint32_t top = 0x7f7f0000; using Item = std::uint16_t; };
template <> struct Format<fp16> { static constexpr int shift = 13, bias = 15; static constexpr std::uint32_t top = 0x477fe000; using Item = std::uint16_t; };
template <> struct Format<fp8> { static constexpr int shift = 20, bias = 7; static constexpr std::uint32_t top = 0x43e00000; using Item = std::uint8_t; };

template <int kind>
INLINE I code(F x) {  // nearest even, saturating, subnormals kept
    using K = Format<kind>;
    I a = as<I>(x) & 0x7fffffff;
    const I over = a > std::int32_t(K::top);
    a = (over & std::int32_t(K::top)) | (a & ~over);
    I r = (a + ((1 << (K::shift - 1)) - 1) + ((a >> K::shift) & 1)) >> K::shift;
    if constexpr (K::bias != 127) {
        r -= (127 - K::bias) << (23 - K::shift);
        constexpr std::int32_t step = (127 + 23 + 1 - K::bias - (23 - K::shift)) << 23;  // 2^23 subnormal steps
        const I small = a < ((128 - K::bias) << 23);
        const I low = as<I>(as<F>(a) + as<F>(I{} + step)) - step;
        r = (small & low) | (r & ~small);
    } else {
        const I high = r > std::int32_t(K::top >> 16);
        r = (high & std::int32_t(K::top >> 16)) | (r & ~high);
    }
    constexpr int top = kind == fp8 ? 7 : 15;
    return r | ((as<I>(x) >> 31) & (1 << top));
}

template <int kind>
INLINE F value(I q) {
    using K = Format<kind>;
    constexpr int top = kind == fp8 ? 7 : 15;
    const F a = as<F>((q & ((1 << top) - 1)) << K::shift);
    const F v = K::bias == 127 ? a : a * as<F>(I{} + ((254 - K::bias) << 23));
    return as<F>(as<I>(v) | (q & (1 << top)) << (31 - top));
}

template <class Item>
INLINE void put(void* out, std::size_t at, I q) {
    if constexpr (sizeof(Item) == 1) narrow(static_cast<std::uint8_t*>(out) + at, q);
    else if constexpr (sizeof(Item) == 2) store(static_cast<Item*>(out) + at, __builtin_convertvector(q, H));
    else store(static_cast<Item*>(out) + at, q);
}

// `make(x, q)` gives the residual of W elements and their codes; the last W go through a padded copy.
template <class Item, class Make>
INLINE std::size_t sweep(const float* g, float* e, std::size_t n, void* out, Make make) {
    I bad{}, q;
    std::size_t at = 0, sum = 0;
    while (at + W <= n) {
        const std::size_t stop = n - at > (1u << 20) ? at + (1u << 20) : n;
        for (; at + W <= stop; at += W) {
            store(e + at, make(take(g ? g + at : g, e + at, bad), q));
            put<Item>(out, at, q);
        }
        sum += total(bad);
        bad = I{};
    }
    if (at == n) return sum;
    float x[W] = {}, y[W] = {};
    Item last[W];
    std::memcpy(y, e + at, (n - at) * 4);
    if (g) std::memcpy(x, g + at, (n - at) * 4);
    store(y, make(take(g ? x : g, y, bad), q));
    put<Item>(last, 0, q);
    std::memcpy(e + at, y, (n - at) * 4);
    std::memcpy(static_cast<Item*>(out) + at, last, (n - at) * sizeof(Item));
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
        if constexpr (sizeof(Item) == 1) return __builtin_convertvector(load<UB>(p), I);
        else return __builtin_convertvector(load<UH>(p), I);
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
        const F r = y + magic;
        q = as<I>(r) - as<I>(F{} + magic);
        return x - (r - magic) * scale;
    });
}

inline void quantise(const float* x, std::size_t n, float inverse, float zero, std::uint8_t* out) {
    auto make = [=](const float* p) __attribute__((always_inline)) {
        F y = load<F>(p) * inverse + zero;
        y = y > 0.f ? y : F{};  // NaN becomes 0
        y = y > 255.f ? F{} + 255.f : y;
        return as<I>(y + magic) - as<I>(F{} + magic);
    };
    std::size_t at = 0;
    for (; at + W <= n; at += W) narrow(out + at, make(x + at));
    if (at == n) return;
    float y[W] = {};
    std::uint8_t last[W];
    std::memcpy(y, x + at, (n - at) * 4);
    narrow(last, make(y));
    std::memcpy(out + at, last, n - at);
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
    {shared<std::int8_t>, shared<std::int16_t>, shared<std::int32_t>}, quantise, add};

}  // namespace engine::quant::LANES
