#include "bind/array.h"
#include "delta/ops.h"
#include "delta/series.h"

#include <memory>

using namespace engine::delta;

namespace {

using Bytes = Arr<u8>;

template <class W>
W& kept() {  // one a thread: pages would otherwise be faulted in at every call
    static thread_local std::unique_ptr<W> made(new W);
    return *made;
}

Tools tools(const std::string& isa) {
    const auto l = level(isa);
    return {ops(l), engine::entropy::ops(l), engine::check::ops(l)};
}

const u8* version(const py::object& array, py::ssize_t size, const char* message) {
    if (array.is_none()) return nullptr;
    need(py::isinstance<Bytes>(array), message);
    const auto bytes = py::reinterpret_borrow<Bytes>(array);
    need(bytes.size() == size, message);
    return bytes.data();
}

Job made(u32 kind, std::size_t size, std::size_t chunk, std::size_t first) {
    need(kind <= static_cast<u32>(Kind::twice), "delta: unknown kind of element");
    Job job{};
    job.kind = static_cast<Kind>(kind);
    const auto width = widths[kind];
    need(size % width == 0, "delta: not whole elements");
    job.items = size / width;
    job.chunk = chunk;
    job.first = first;
    need(chunk && chunk <= chunk_limit && chunk % engine::entropy::block == 0, "delta: expected chunks of a multiple of 65536 elements, at most 2^20");
    need(first % chunk == 0, "delta: expected to begin at a chunk");
    return job;
}

}  // namespace

void bind_delta(py::module_& m) {
    m.def("delta_encode", [](u32 kind, const Bytes& now, const py::object& base, const py::object& previous, double beta, double bound, bool fast,
                             std::size_t chunk, std::size_t first, Bytes& out, Bytes& rows, const py::object& rec, const std::string& isa) {
        auto job = made(kind, static_cast<std::size_t>(now.size()), chunk, first);
        job.now = now.data();
        job.base = version(base, now.size(), "delta_encode: base: expected uint8 of the size of now, or None");
        job.previous = version(previous, now.size(), "delta_encode: previous: expected uint8 of the size of now, or None");
        need(!job.previous || (job.kind == Kind::single && job.base), "delta_encode: a predictor needs float32 and a base");
        need(!(bound > 0) || job.kind == Kind::single || job.kind == Kind::twice, "delta_encode: a bound needs float32 or float64");
        job.beta = static_cast<float>(beta);
        job.bound = bound;
        job.fast = fast;
        const auto count = (job.items + chunk - 1) / chunk;
        need(static_cast<std::size_t>(rows.size()) == count * sizeof(Row), "delta_encode: rows: expected 32 bytes a chunk");
        u8* made = nullptr;
        if (!rec.is_none()) {
            need(py::isinstance<Bytes>(rec), "delta_encode: rec: expected uint8");
            auto bytes = py::reinterpret_borrow<Bytes>(rec);
            need(bytes.size() == now.size(), "delta_encode: rec: expected the size of now");
            made = writable(bytes);
        }
        need(made || !(bound > 0), "delta_encode: a bound needs rec");
        u8* to = writable(out);
        const auto room = static_cast<std::size_t>(out.size());
        auto* table = reinterpret_cast<Row*>(writable(rows));
        const auto use = tools(isa);
        std::size_t used;
        {
            py::gil_scoped_release release;
            used = encode(use, job, to, room, table, made, kept<Work>());
        }
        need(used || !job.items || room >= engine::delta::bound(job), "delta_encode: out is smaller than delta_bound");
        return used;
    }, py::arg("kind"), py::arg("now").noconvert(), py::arg("base"), py::arg("previous"), py::arg("beta"), py::arg("bound"), py::arg("fast"),
       py::arg("chunk"), py::arg("first"), py::arg("out").noconvert(), py::arg("rows").noconvert(), py::arg("rec") = py::none(), py::kw_only(),
       py::arg("isa") = "");
    m.def("delta_bound", [](u32 kind, std::size_t size, std::size_t chunk) { return bound(made(kind, size, chunk, 0)); }, py::arg("kind"), py::arg("size"), py::arg("chunk"));
    m.def("delta_decode", [](u32 kind, const Bytes& rows, const Bytes& payload, const py::object& base, const py::object& previous, double beta,
                             double bound, std::size_t chunk, std::size_t first, Bytes& out, Bytes& faults, bool scratch, std::size_t items,
                             const std::string& isa) {
        need(kind <= static_cast<u32>(Kind::twice), "delta: unknown kind of element");
        const auto width = widths[kind];
        need(items <= (std::size_t(1) << 60), "delta_decode: too many items");
        auto job = made(kind, items * width, chunk, first);
        job.base = version(base, static_cast<py::ssize_t>(items * width), "delta_decode: base: expected uint8 of all items, or None");
        job.previous = version(previous, static_cast<py::ssize_t>(items * width), "delta_decode: previous: expected uint8 of all items, or None");
        need(!job.previous || (job.kind == Kind::single && job.base), "delta_decode: a predictor needs float32 and a base");
        job.beta = static_cast<float>(beta);
        job.bound = job.kind == Kind::single || job.kind == Kind::twice ? bound : 0;
        const auto count = (items + chunk - 1) / chunk;
        need(static_cast<std::size_t>(rows.size()) == count * sizeof(Row) && static_cast<std::size_t>(faults.size()) == count,
             "delta_decode: expected 32 bytes of rows and one fault a chunk");
        need(static_cast<std::size_t>(out.size()) >= (scratch ? std::min(items, chunk) : items) * width, "delta_decode: out is too small");
        const auto size = static_cast<std::size_t>(payload.size());
        const u8 *table = rows.data(), *body = payload.data();
        u8 *to = writable(out), *found = writable(faults);
        const auto use = tools(isa);
        std::size_t bad = 0;
        {
            py::gil_scoped_release release;
            for (std::size_t c = 0; c < count; ++c) {
                Row row;
                std::memcpy(&row, table + c * sizeof row, sizeof row);
                const std::size_t at = c * chunk, n = std::min(chunk, items - at), padded = (std::size_t(row.length) + 63) / 64 * 64;
                if (found[c]) continue;  // the caller passes over a chunk by marking it
                found[c] = row.offset > size || size - row.offset < padded
                               ? u8(layout) : u8(decode(use, job, at, n, row, body, scratch ? to : to + at * width, kept<Work>()));
                bad += found[c] != fine;
            }
        }
        return bad;
    }, py::arg("kind"), py::arg("rows").noconvert(), py::arg("payload").noconvert(), py::arg("base"), py::arg("previous"), py::arg("beta"),
       py::arg("bound"), py::arg("chunk"), py::arg("first"), py::arg("out").noconvert(), py::arg("faults").noconvert(), py::arg("scratch"),
       py::arg("items"), py::kw_only(), py::arg("isa") = "");
    m.def("series_encode", [](u32 kind, const Bytes& data, double bound, Bytes& out, const std::string& isa) {
        const auto job = made(kind, static_cast<std::size_t>(data.size()), engine::entropy::block, 0);
        need(bound >= 0 && (bound == 0 || job.kind == Kind::single || job.kind == Kind::twice), "series_encode: a bound needs float32 or float64");
        const u8* in = data.data();
        u8* to = writable(out);
        const auto room = static_cast<std::size_t>(out.size());
        const auto use = tools(isa);
        const auto& ops = engine::delta::series(level(isa));
        py::gil_scoped_release release;
        return series_encode(use, ops, job.kind, in, job.items, bound, to, room, kept<SeriesWork>());
    }, py::arg("kind"), py::arg("data").noconvert(), py::arg("bound"), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("series_decode", [](u32 kind, const Bytes& data, Bytes& out, const std::string& isa) {
        const auto job = made(kind, static_cast<std::size_t>(out.size()), engine::entropy::block, 0);
        const u8* in = data.data();
        u8* to = writable(out);
        const auto size = static_cast<std::size_t>(data.size());
        const auto use = tools(isa);
        const auto& ops = engine::delta::series(level(isa));
        bool ok;
        {
            py::gil_scoped_release release;
            ok = series_decode(use, ops, job.kind, in, size, to, job.items, kept<SeriesWork>());
        }
        need(ok, "series_decode: not a column of this many elements");
    }, py::arg("kind"), py::arg("data").noconvert(), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
}
