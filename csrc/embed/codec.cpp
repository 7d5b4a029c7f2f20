// Gradient codecs for hosts without Python: the frames of engine.codec, from the same kernels.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "embed/failure.h"
#include "embed/frame.h"
#include "engine.h"
#include "entropy/ops.h"
#include "quant/ops.h"
#include "sparse/ops.h"

using namespace engine::embed;
namespace check = engine::check;

namespace {

constexpr const char* modes[] = {"sign", "ternary", "int2", "int4", "int8", "int2s", "int4s", "int8s"};
constexpr std::size_t mode_bits[] = {1, 2, 2, 4, 8, 2, 4, 8};
constexpr const char* narrows[] = {"bf16", "fp16", "fp8"};
constexpr std::size_t narrow_bytes[] = {2, 2, 1};
constexpr const char* tops[] = {"topk.bf16", "topk.fp16", "topk.fp8", "topk.f32"};
constexpr u8 float32 = 10;
constexpr std::size_t sample = 1024, line = 16;
const engine_codec_t defaults = {0, 0, 0, 0, 0};

struct Params {  // extension of an Update's frame
    char name[16];
    u32 block, count;
    u64 seed, step, bad;
};
static_assert(sizeof(Params) == 48);

enum Which { is_quant, is_narrow, is_top, is_none };
struct Codec { Which which; int at; };

template <std::size_t N>
int find(const char* const (&names)[N], const char* name) {
    for (std::size_t i = 0; i < N; ++i)
        if (!std::strncmp(name, names[i], 16)) return static_cast<int>(i);
    return -1;
}

Codec named(const char* name) {
    int at;
    if ((at = find(modes, name)) >= 0) return {is_quant, at};
    if ((at = find(narrows, name)) >= 0) return {is_narrow, at};
    if ((at = find(tops, name)) >= 0) return {is_top, at};
    if (!std::strcmp(name, "topk")) return {is_top, 0};
    return {is_none, 0};
}

int unknown(const char* name) {
    return fail(ENGINE_USAGE, std::string("codec: expected sign, ternary, int2, int4, int8, int2s, int4s, int8s, bf16, fp16, fp8, topk, "
                                          "topk.fp16, topk.fp8 or topk.f32, found ") + (name ? name : "NULL"));
}

std::size_t codes_size(int mode, std::size_t n) { return (n + 63) / 64 * 8 * mode_bits[mode]; }

// Elements behind one scale: as asked, or what engine.codec.quant takes.
std::size_t block_of(int mode, const engine_codec_t& o) { return o.block ? o.block : mode == engine::quant::sign ? 2304 : 1024; }

u64 key_of(u64 seed, u64 step, u64 stream) {
    u64 x = 0;
    for (const u64 word : {seed, step, stream}) {
        x = (x ^ word) + 0x9E3779B97F4A7C15u;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
        x = (x ^ x >> 27) * 0x94D049BB133111EBu;
        x ^= x >> 31;
    }
    return x;
}

std::size_t top_count(std::size_t n, const engine_codec_t& o) {
    const double density = o.density > 0 ? o.density : 0.01;
    return std::min(n, std::max<std::size_t>(1, static_cast<std::size_t>(std::nearbyint(density * static_cast<double>(n)))));
}

struct Places {  // head of an index set: engine/codec/index.py
    char magic[2];
    u8 width, zero;
    u32 segments;
    u64 universe, count;
};
static_assert(sizeof(Places) == 24);

std::size_t value_bytes(int top) { return top == 3 ? 4 : narrow_bytes[top]; }

// A threshold that about 1.3 k elements reach, from a sample; 0 where the array is small.
float guess(const float* g, const float* e, std::size_t n, std::size_t k) {
    const std::size_t part = n / sample * sample, want = static_cast<std::size_t>(1.3 * static_cast<double>(k) * line / sample) + 1;
    if (part < 64 * sample || want * sample / line > n / 2) return 0;
    const std::size_t count = part / sample * line;
    std::unique_ptr<float[]> seen(new float[count]);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = i / line * sample + i % line;
        const float x = std::fabs(g[at] + e[at]);
        seen[i] = std::isfinite(x) ? x : 0;
    }
    std::nth_element(seen.get(), seen.get() + (count - want), seen.get() + count);
    return seen[count - want];
}

struct Entries {
    std::unique_ptr<u32[]> index;
    std::unique_ptr<float[]> value;
    std::size_t room = 0, count = 0, bad = 0;

    void grow(std::size_t to) {
        std::unique_ptr<u32[]> more(new u32[to]);
        std::unique_ptr<float[]> also(new float[to]);
        std::copy_n(index.get(), count, more.get());
        std::copy_n(value.get(), count, also.get());
        index = std::move(more), value = std::move(also), room = to;
    }
};

// Every entry |g + e| >= t, at least k of them by lowering t where it was too high; e keeps the rest.
void collect(const engine::sparse::Ops& ops, const float* g, float* e, std::size_t n, std::size_t k, float t, Entries& found) {
    found.grow(std::min(n, 2 * k) + 128);
    for (bool first = true;; first = false) {
        for (std::size_t at = 0; at < n;) {
            if (found.room - found.count < 64) found.grow(2 * found.room);
            const auto more = ops.threshold(first ? g : nullptr, e, at, n, t, found.index.get() + found.count, found.value.get() + found.count,
                                            found.room - found.count);
            at = more.next;
            found.count += more.count;
            found.bad += first ? more.bad : 0;
        }
        if (found.count >= k) return;
        float most = 0;
        for (std::size_t i = 0; i < found.count; ++i) {
            e[found.index[i]] = found.value[i];
            most = std::max(most, std::fabs(found.value[i]));
        }
        found.count = 0;
        t = t > 1e-3f * most && t > 1e-37f ? t / 2 : 0;
    }
}

struct Target {  // a frame being written
    u8* out;
    std::size_t head, n;
    const engine_codec_t& options;
};

int finish(const Target& to, Family family, Params params, const char* name, Row* rows, u32 chunks, std::size_t payload, std::size_t* size) {
    std::memcpy(params.name, name, std::strlen(name));  // shorter than 16, and zeros behind it
    params.seed = to.options.seed;
    params.step = to.options.step;
    Frame fields;
    fields.kind = update, fields.codec = family, fields.dtype = float32, fields.ndim = 1, fields.chunks = chunks, fields.ext_size = sizeof params;
    const u64 shape = to.n;
    seal(to.out, fields, &params, &shape, rows, payload);
    *size = to.head + payload;
    return ENGINE_OK;
}

int encode_quant(const Target& to, int mode, const float* g, float* e, std::size_t* size) {
    const std::size_t block = block_of(mode, to.options), codes = codes_size(mode, to.n), blocks = (to.n + block - 1) / block;
    u8 *body = to.out + to.head, *scales = body + padded(codes);
    const u64 key = key_of(to.options.seed, to.options.step, to.options.stream);
    Params params{};
    params.block = static_cast<u32>(block);
    params.bad = engine::quant::ops(engine::isa()).encode[mode](g, e, to.n, block, body, reinterpret_cast<float*>(scales),
                                                                {u32(key), u32(key >> 32), 0});
    Row rows[] = {close_chunk(body, 0, codes), close_chunk(scales, padded(codes), 4 * blocks)};
    return finish(to, quant, params, modes[mode], rows, 2, padded(codes) + padded(4 * blocks), size);
}

int encode_narrow(const Target& to, int kind, const float* g, float* e, std::size_t* size) {
    u8* body = to.out + to.head;
    Params params{};
    params.bad = engine::quant::ops(engine::isa()).cast[kind](g, e, to.n, body);
    Row rows[] = {close_chunk(body, 0, to.n * narrow_bytes[kind])};
    auto plain = to;
    engine_codec_t options = to.options;
    options.seed = 0;  // a cast draws nothing
    return finish({plain.out, plain.head, plain.n, options}, quant, params, narrows[kind], rows, 1, padded(rows[0].length), size);
}

int encode_top(const Target& to, int kind, const float* g, float* e, std::size_t* size) {
    const auto& ops = engine::sparse::ops(engine::isa());
    const std::size_t n = to.n, k = top_count(n, to.options), values = k * value_bytes(kind);
    Entries found;
    collect(ops, g, e, n, k, guess(g, e, n, k), found);
    engine::sparse::keep(found.index.get(), found.value.get(), found.count, k, e);
    u8 *body = to.out + to.head, *places = body + padded(values);
    if (kind == 3) {
        std::memcpy(body, found.value.get(), values);
    } else {
        engine::quant::ops(engine::isa()).cast[kind](nullptr, found.value.get(), k, body);  // leaves what narrowing loses
        for (std::size_t i = 0; i < k; ++i) e[found.index[i]] += found.value[i];
    }
    const Places set{{'E', 'I'}, 4, 0, 1, n, k};
    std::memcpy(places, &set, sizeof set);
    const std::unique_ptr<engine::entropy::Work> work(new engine::entropy::Work);
    const std::size_t used = sizeof set + engine::entropy::index_encode(engine::entropy::ops(engine::isa()), found.index.get(), k, n, false,
                                                                        places + sizeof set, engine::entropy::index_bound(k, n), *work);
    Row rows[] = {close_chunk(body, 0, values), close_chunk(places, padded(values), used)};
    Params params{};
    params.count = static_cast<u32>(k);
    params.bad = found.bad;
    engine_codec_t options = to.options;
    options.seed = 0;
    return finish({to.out, to.head, n, options}, sparse, params, tops[kind], rows, 2, padded(values) + padded(used), size);
}

int decode_quant(const Frame& f, const Params& params, int mode, float* acc, std::size_t n, std::string& why) {
    const std::size_t block = params.block;
    if (block < engine::quant::group || block > engine::quant::largest || block % engine::quant::group)
        return fail(ENGINE_DATA, "codec: expected blocks of a multiple of 64 up to 4096, found " + std::to_string(block));
    const u8* codes = chunk(f, 0, codes_size(mode, n), why);
    const u8* scales = codes ? chunk(f, 1, 4 * ((n + block - 1) / block), why) : nullptr;
    if (!scales) return fail(ENGINE_DATA, why);
    engine::quant::ops(engine::isa()).decode[mode](codes, reinterpret_cast<const float*>(scales), n, block, acc);
    return ENGINE_OK;
}

int decode_top(const Frame& f, const Params& params, int kind, float* acc, std::size_t n, std::string& why) {
    const std::size_t k = params.count;
    if (k > n) return fail(ENGINE_DATA, "codec: " + std::to_string(k) + " entries of " + std::to_string(n) + " elements");
    const u8* values = chunk(f, 0, k * value_bytes(kind), why);
    const u8* places = values ? chunk(f, 1, whole, why) : nullptr;
    if (!places) return fail(ENGINE_DATA, why);
    std::unique_ptr<u32[]> index(new u32[k + 1]);
    std::unique_ptr<float[]> value(new float[k + 1]());
    Places set{};
    std::size_t used = 0;
    const std::size_t size = f.row(1).length;
    if (size >= sizeof set) std::memcpy(&set, places, sizeof set);
    const std::unique_ptr<engine::entropy::Work> work(new engine::entropy::Work);
    if (std::memcmp(set.magic, "EI", 2) || set.width != 4 || set.segments != 1 || set.universe != n || set.count != k ||
        !engine::entropy::index_decode(engine::entropy::ops(engine::isa()), places + sizeof set, size - sizeof set, index.get(), k, n, used, *work) ||
        used != size - sizeof set)
        return fail(ENGINE_DATA, "codec: the indices are not those of the frame");
    if (kind == 3) std::memcpy(value.get(), values, 4 * k);
    else engine::quant::ops(engine::isa()).widen[kind](values, k, value.get());
    if (!engine::sparse::scatter_add(index.get(), value.get(), k, acc, n)) return fail(ENGINE_DATA, "codec: an index is out of range");
    return ENGINE_OK;
}

std::size_t bound(Codec codec, std::size_t n, const engine_codec_t& o) {
    std::size_t body = 0;
    if (codec.which == is_quant) body = padded(codes_size(codec.at, n)) + padded(4 * (n / block_of(codec.at, o) + 1));
    if (codec.which == is_narrow) body = padded(n * narrow_bytes[codec.at]);
    if (codec.which == is_top) {
        const std::size_t k = top_count(n, o);
        body = padded(k * value_bytes(codec.at)) + padded(sizeof(Places) + engine::entropy::index_bound(k, n));
    }
    return head_size(1, sizeof(Params), 2) + body + align;
}

}  // namespace

extern "C" {

size_t engine_encode_bound(const char* codec, size_t n, const engine_codec_t* options) {
    const Codec found = codec ? named(codec) : Codec{is_none, 0};
    return found.which == is_none ? 0 : bound(found, n, options ? *options : defaults);
}

int engine_encode(const char* codec, const float* g, float* residual, size_t n, const engine_codec_t* options, void* out, size_t* size) {
    const engine_codec_t& o = options ? *options : defaults;
    const Codec found = codec ? named(codec) : Codec{is_none, 0};
    if (found.which == is_none) return unknown(codec);
    if (!size || !out || (n && (!g || !residual))) return fail(ENGINE_USAGE, "encode: expected g, residual, out and size, found NULL");
    if (found.which == is_quant && o.block && (o.block < 64 || o.block > 4096 || o.block % 64))
        return fail(ENGINE_USAGE, "encode: expected a block of a multiple of 64 up to 4096, found " + std::to_string(o.block));
    if (!(o.density >= 0 && o.density <= 1)) return fail(ENGINE_USAGE, "encode: expected a density in (0, 1], or 0 for 0.01");
    if (n > 0xffffffffu) return fail(ENGINE_USAGE, "encode: expected fewer than 2^32 elements\n  fix: encode parts");
    if (reinterpret_cast<std::uintptr_t>(out) % 8) return fail(ENGINE_USAGE, "encode: expected out at a multiple of 8 bytes");
    const std::size_t need = bound(found, n, o);
    if (*size < need) {
        const std::size_t had = *size;
        *size = need;
        return fail(ENGINE_USAGE, "encode: expected room for " + std::to_string(need) + " bytes, found " + std::to_string(had) +
                    "\n  fix: allocate engine_encode_bound");
    }
    const u32 chunks = found.which == is_narrow ? 1 : 2;
    const Target to{static_cast<u8*>(out), head_size(1, sizeof(Params), chunks), n, o};
    try {
        if (found.which == is_quant) return encode_quant(to, found.at, g, residual, size);
        if (found.which == is_narrow) return encode_narrow(to, found.at, g, residual, size);
        return encode_top(to, found.at, g, residual, size);
    } catch (const std::bad_alloc&) {
        return fail(ENGINE_FAILED, "encode: out of memory");
    }
}

int engine_decode_add(const void* frame, size_t size, float* acc, size_t n) {
    try {
        Frame f;
        std::string why;
        if (!open(frame, size, f, why)) return fail(ENGINE_DATA, why);
        if (f.kind != update || f.ext_size != sizeof(Params) || (f.codec != quant && f.codec != sparse))
            return fail(ENGINE_DATA, "codec: expected the frame of a gradient codec, found kind " + std::to_string(f.kind) + ", codec " +
                        std::to_string(f.codec));
        if (f.items != n || (n && !acc))
            return fail(ENGINE_DATA, "codec: expected " + std::to_string(n) + " elements, found " + std::to_string(f.items));
        Params params;
        std::memcpy(&params, f.ext, sizeof params);
        char name[17] = {};
        std::memcpy(name, params.name, 16);
        const Codec found = named(name);
        const bool family = f.codec == (found.which == is_top ? sparse : quant);
        if (found.which == is_quant && family) return decode_quant(f, params, found.at, acc, n, why);
        if (found.which == is_top && family && std::strcmp(name, "topk")) return decode_top(f, params, found.at, acc, n, why);
        if (found.which != is_narrow || !family) return unknown(name), ENGINE_DATA;
        const u8* codes = chunk(f, 0, n * narrow_bytes[found.at], why);
        if (!codes) return fail(ENGINE_DATA, why);
        engine::quant::ops(engine::isa()).widen[found.at](codes, n, acc);
        return ENGINE_OK;
    } catch (const std::bad_alloc&) {
        return fail(ENGINE_FAILED, "decode: out of memory");
    }
}

}  // extern "C"
