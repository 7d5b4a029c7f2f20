#include "sparse/ops.h"

#include <pybind11/stl.h>

#include "bind/array.h"

using namespace engine::sparse;

void bind_sparse(py::module_& m) {
    using Floats = Arr<float>;
    using Index = Arr<std::uint32_t>;
    m.def("threshold_encode", [](const std::optional<Floats>& g, Floats& e, std::size_t start, float t, Index& index, Floats& value,
                                 std::size_t at, const std::string& isa) {
        const auto n = static_cast<std::size_t>(e.size()), room = static_cast<std::size_t>(index.size());
        need(!g || g->size() == e.size(), "threshold: g and e differ in size");
        need(value.size() == index.size() && at <= room, "threshold: index and value differ in size");
        need(start <= n && n <= 0x100000000ull, "threshold: start past the end, or more than 2^32 elements");
        const float* x = g ? g->data() : nullptr;
        float *residual = writable(e), *v = writable(value) + at;
        auto* i = writable(index) + at;
        const auto& table = ops(level(isa));
        Scan scan;
        {
            py::gil_scoped_release release;
            scan = table.threshold(x, residual, start, n, t, i, v, room - at);
        }
        return py::make_tuple(scan.next, at + scan.count, scan.bad);
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
    m.def("rice_encode", [](const Index& index, std::uint64_t n, int low, Arr<std::uint8_t>& out) {
        const auto count = static_cast<std::size_t>(index.size());
        need(low >= 0 && low <= 31, "rice: expected 0..31 low bits");
        need(static_cast<std::size_t>(out.size()) >= rice_bound(count, n, low), "rice: out is too small");
        const auto* i = index.data();
        auto* bytes = writable(out);
        std::uint64_t past = 0;
        for (std::size_t j = 0; j < count; ++j) {
            need(i[j] >= past && i[j] < n, "rice: expected ascending indices below n");
            past = std::uint64_t(i[j]) + 1;
        }
        py::gil_scoped_release release;
        return rice_encode(i, count, low, bytes);
    }, py::arg("index").noconvert(), py::arg("n"), py::arg("low"), py::arg("out").noconvert());
    m.def("rice_decode", [](const Arr<std::uint8_t>& in, std::uint64_t n, int low, Index& index) {
        need(low >= 0 && low <= 31 && n <= 0x100000000ull, "rice: expected 0..31 low bits, n up to 2^32");
        const auto* bytes = in.data();
        auto* i = writable(index);
        const auto size = static_cast<std::size_t>(in.size()), count = static_cast<std::size_t>(index.size());
        bool ok;
        {
            py::gil_scoped_release release;
            ok = rice_decode(bytes, size, count, n, low, i);
        }
        need(ok, "rice: not that many ascending indices below n");
    }, py::arg("data").noconvert(), py::arg("n"), py::arg("low"), py::arg("index").noconvert());
}
