// Exact differences of two versions for hosts without Python: the frames of engine.codec.delta with keyframe="none".
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "embed/failure.h"
#include "embed/frame.h"
#include "engine.h"

using namespace engine::embed;
using engine::delta::Job;
using engine::delta::Kind;
using engine::delta::Tools;
using engine::delta::Work;

namespace {

constexpr std::size_t small = 1 << 16, large = 1 << 20;  // elements of a chunk where many, where few change
constexpr u16 whole_flag = 1;
constexpr u32 absent = 7, keyframe = 2;

struct Params {  // extension of a delta's frame
    u64 base_hash, result_hash, seed, step;
    double bound;
    float beta;
    u32 chunk;
    u64 before_hash, zero;
};
static_assert(sizeof(Params) == 64);

struct Element { int dtype; Kind kind; std::size_t width; };
constexpr Element elements[] = {
    {ENGINE_INT8, Kind::int8, 1}, {ENGINE_UINT8, Kind::int8, 1}, {ENGINE_INT16, Kind::int16, 2}, {ENGINE_UINT16, Kind::int16, 2},
    {ENGINE_INT32, Kind::int32, 4}, {ENGINE_UINT32, Kind::int32, 4}, {ENGINE_INT64, Kind::int64, 8}, {ENGINE_UINT64, Kind::int64, 8},
    {ENGINE_FLOAT32, Kind::single, 4}, {ENGINE_FLOAT64, Kind::twice, 8}};

const Element* element(int dtype) {
    for (const Element& each : elements)
        if (each.dtype == dtype) return &each;
    return nullptr;
}

int no_dtype(int dtype) { return fail(ENGINE_DATA, "delta: expected an integer, float32 or float64 dtype, found " + std::to_string(dtype)); }

Tools tools() { return {engine::delta::ops(engine::isa()), engine::entropy::ops(engine::isa()), engine::check::ops(engine::isa())}; }

u64 hash(const void* data, std::size_t bytes) { return engine::delta::hash(engine::check::ops(engine::isa()), static_cast<const u8*>(data), bytes, 0); }

// Large chunks where a sample says that fewer than one element in 16 changes.
std::size_t chunk_of(const u8* now, const u8* base, std::size_t n, std::size_t width) {
    if (!base || n <= small) return small;
    std::size_t changed = 0, seen = 0;
    for (std::size_t block = 0; block < n / 1024; ++block)
        for (std::size_t i = 0; i < 16; ++i, ++seen) {
            const std::size_t at = (block * 1024 + i) * width;
            changed += std::memcmp(now + at, base + at, width) != 0;
        }
    return 16 * changed < seen ? large : small;
}

int wrong_base(u64 expected, u64 found) {
    return fail(ENGINE_DATA, "delta: wrong base: expected hash " + std::to_string(expected) + ", found " + std::to_string(found) +
                "\n  fix: apply the deltas in between first, or ask the sender for a whole frame");
}

}  // namespace

extern "C" {

uint64_t engine_delta_hash(const void* data, size_t bytes) { return data || !bytes ? hash(data, bytes) : 0; }

size_t engine_delta_bound(size_t n, int dtype) {
    const Element* e = element(dtype);
    return e ? head_size(1, sizeof(Params), (n + small - 1) / small) + n * e->width + 64 * (n / small + 1) + 64 : 0;
}

int engine_delta_encode(const void* now, const void* base, size_t n, int dtype, const engine_delta_t* options, void* out, size_t* size) {
    static const engine_delta_t none = {0, 1, 0, 0, 0, nullptr};
    const engine_delta_t& o = options ? *options : none;
    const Element* e = element(dtype);
    if (!e) return no_dtype(dtype);
    if (!size || !out || (n && !now)) return fail(ENGINE_USAGE, "delta: expected now, out and size, found NULL");
    const bool lossy = o.bound > 0 && base;
    if (!(o.bound >= 0 && std::isfinite(o.bound)) || (o.bound > 0 && (dtype < ENGINE_FLOAT32 || !o.result)))
        return fail(ENGINE_USAGE, "delta: a bound is a positive number, for float32 and float64, and needs `result`");
    const std::size_t need = engine_delta_bound(n, dtype);
    if (*size < need) {
        *size = need;
        return fail(ENGINE_USAGE, "delta: expected room for " + std::to_string(need) + " bytes\n  fix: allocate engine_delta_bound");
    }
    try {
        const std::unique_ptr<Work> work(new Work);
        Job job{};
        job.kind = e->kind;
        job.now = static_cast<const u8*>(now), job.base = static_cast<const u8*>(base);
        job.beta = 0.95f, job.bound = base ? o.bound : 0, job.fast = o.fast != 0, job.items = n;
        job.chunk = chunk_of(job.now, job.base, n, e->width);
        const std::size_t count = (n + job.chunk - 1) / job.chunk, head = head_size(1, sizeof(Params), count);
        std::vector<Row> rows(count);
        auto* to = static_cast<u8*>(out);
        const std::size_t used = engine::delta::encode(tools(), job, to + head, *size - head, rows.data(), lossy ? static_cast<u8*>(o.result) : nullptr, *work);
        if (n && o.result && !lossy) std::memcpy(o.result, now, n * e->width);
        Params params{};
        params.base_hash = base ? hash(base, n * e->width) : 0;
        for (const Row& row : rows) params.result_hash += row.hash;
        params.step = o.step, params.bound = job.bound, params.chunk = static_cast<u32>(job.chunk);
        Frame fields;
        fields.kind = delta_kind, fields.codec = delta_family, fields.dtype = static_cast<u8>(dtype), fields.ndim = 1;
        fields.flags = base ? 0 : whole_flag, fields.chunks = static_cast<u32>(count), fields.ext_size = sizeof params;
        fields.base = o.base_version, fields.next = o.new_version;
        const u64 shape = n;
        seal(to, fields, &params, &shape, rows.data(), used);
        *size = head + used;
        return ENGINE_OK;
    } catch (const std::bad_alloc&) {
        return fail(ENGINE_FAILED, "delta: out of memory");
    }
}

int engine_delta_apply(const void* base, const void* frame, size_t size, void* out, size_t n, int dtype) {
    const Element* e = element(dtype);
    if (!e) return no_dtype(dtype);
    try {
        Frame f;
        Params p;
        std::string why;
        if (!open(frame, size, f, why)) return fail(ENGINE_DATA, why);
        if (f.kind != delta_kind || f.codec != delta_family || f.ext_size != sizeof p) return fail(ENGINE_DATA, "delta: expected a delta frame");
        std::memcpy(&p, f.ext, sizeof p);
        if (f.dtype != dtype || f.items != n || (n && !out))
            return fail(ENGINE_DATA, "delta: expected " + std::to_string(f.items) + " elements of dtype " + std::to_string(f.dtype) + ", found " +
                        std::to_string(n) + " of " + std::to_string(dtype));
        const std::size_t chunk = p.chunk;
        if ((chunk != small && chunk != large) || f.chunks != (n + chunk - 1) / chunk || !(p.bound >= 0 && std::isfinite(p.bound)) || p.zero)
            return fail(ENGINE_DATA, "delta: layout is wrong");
        if (p.beta != 0) return fail(ENGINE_DATA, "delta: it needs the version before its base\n  fix: encode without a predictor");
        Job job{};
        if (!(f.flags & whole_flag)) {
            if (!base) return fail(ENGINE_DATA, "delta: it needs its base\n  fix: ask the sender for a whole frame");
            const u64 found = hash(base, n * e->width);
            if (found != p.base_hash) return wrong_base(p.base_hash, found);
            if (base == out) return fail(ENGINE_USAGE, "delta: out is the base\n  fix: apply to a second array");
            job.base = static_cast<const u8*>(base);
        }
        job.kind = e->kind, job.bound = p.bound, job.items = n, job.chunk = chunk;
        const std::unique_ptr<Work> work(new Work);
        u64 sum = 0;
        for (std::size_t c = 0; c < f.chunks; ++c) {
            const Row row = f.row(c);
            const std::size_t at = c * chunk, count = std::min(chunk, n - at);
            const auto fault = engine::delta::decode(tools(), job, at, count, row, f.body, static_cast<u8*>(out) + at * e->width, *work);
            sum += row.hash;
            if (fault == engine::delta::fine) continue;
            const char* what = (row.mode & 255) == keyframe ? "is packed by blosc2, which only Python reads; encode with keyframe='none'"
                : (row.mode & 255) == absent ? "is absent" : fault == engine::delta::checksum ? "has a wrong checksum"
                : fault == engine::delta::result ? "does not give its result" : "has a wrong layout";
            return fail(ENGINE_DATA, "delta: chunk " + std::to_string(c) + " " + what);
        }
        return sum == p.result_hash ? int(ENGINE_OK) : fail(ENGINE_DATA, "delta: the result hash is not the sum of its chunks");
    } catch (const std::bad_alloc&) {
        return fail(ENGINE_FAILED, "delta: out of memory");
    }
}

}  // extern "C"
