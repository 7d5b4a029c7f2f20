#include "sparse/ops.h"

#include "bind/feed.h"

using namespace engine::sparse;

void bind_sparse(py::module_& m) {
    using Floats = Arr<float>;
    using Index = Arr<std::uint32_t>;
    m.def("threshold_encode", [](const Source& g, Floats& e, std::size_t start, float t, Index& index, Floats& value, std::size_t at,
                                 const std::string& isa) {
        const auto n = static_cast<std::size_t>(e.size()), room = static_cast<std::size_t>(index.size());
        const Feed feed(g, e);
        need(value.size() == index.size() && at <= room, "threshold: index and value differ in size");
        need(start <= n && n <= 0x100000000ull, "threshold: start past the end, or more than 2^32 elements");
        float *residual = writable(e), *v = writable(value);
        auto* i = writable(index);
        const auto& table = ops(level(isa));
        const auto& widen = engine::quant::ops(level(isa));
        py::gil_scoped_release release;
        if (feed.size == 4) {
            const Scan scan = table.threshold(static_cast<const float*>(feed.data), residual, start, n, t, i + at, v + at, room - at);
            return std::make_tuple(scan.next, at + scan.count, scan.bad);
        }
        alignas(64) float piece[engine::quant::largest];
        std::size_t bad = 0, next = start;
        for (std::size_t count = 0, done = 0; done == count && next < n;) {
            count = n - next < engine::quant::largest ? n - next : engine::quant::largest;
            feed.widen(widen, next, count, piece);
            const Scan scan = table.threshold(piece, residual + next, 0, count, t, i + at, v + at, room - at);
            for (std::size_t j = at; j < at + scan.count; ++j) i[j] += static_cast<std::uint32_t>(next);
            done = scan.next;
            next += done;
            at += scan.count;
            bad += scan.bad;
        }
        return std::make_tuple(next, at, bad);
    }, py::arg("g").noconvert().none(true), py::arg("e").noconvert(), py::arg("start"), py::arg("t"), py::arg("index").noconvert(),
       py::arg("value").noconvert(), py::arg("at") = 0, py::kw_only(), py::arg("isa") = "");
    m.def("topk_keep", [](Index& index, Floats& value, std::size_t count, std::size_t k, Floats& e) {
        need(1 <= k && k <= count && count <= static_cast<std::size_t>(index.size()) && index.size() == value.size(), "topk: expected 1 <= k <= count <= size");
        auto* i = writable(index);
        const auto n = static_cast<std::uint64_t>(e.size());
        for (std::size_t j = 0; j < count; ++j) need(i[j] < n, "topk: an index is past the end");
        float *v = writable(value), *residual = writable(e);
        py::gil_scoped_release release;
        return keep(i, v, count, k, residual);
    }, py::arg("index").noconvert(), py::arg("value").noconvert(), py::arg("count"), py::arg("k"), py::arg("e").noconvert());
    m.def("scatter_add", [](const Index& index, const Floats& value, Floats& acc) {
        need(index.size() == value.size(), "scatter: index and value differ in size");
        const auto* i = index.data();
        const auto* v = value.data();
        float* sum = writable(acc);
        const auto count = static_cast<std::size_t>(index.size()), n = static_cast<std::size_t>(acc.size());
        bool ok;
        {
            py::gil_scoped_release release;
            ok = scatter_add(i, v, count, sum, n);
        }
        need(ok, "scatter: an index is past the end");
    }, py::arg("index").noconvert(), py::arg("value").noconvert(), py::arg("acc").noconvert());
    m.def("strata", [](std::uint64_t n, std::uint64_t key, Index& index) {
        const auto count = static_cast<std::uint64_t>(index.size());
        need(count <= n && n <= 0x100000000ull, "strata: expected at most n indices, n up to 2^32");
        auto* i = writable(index);
        py::gil_scoped_release release;
        if (count) strata(n, count, key, i);
    }, py::arg("n"), py::arg("key"), py::arg("index").noconvert());
}
