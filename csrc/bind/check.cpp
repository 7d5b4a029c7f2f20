#include "bind/array.h"
#include "check/ops.h"

void bind_check(py::module_& m) {
    m.def("crc32c", [](const py::buffer& data, std::uint32_t seed, const std::string& isa) {
        const auto info = data.request();
        need(PyBuffer_IsContiguous(info.view(), 'C'), "crc32c: expected a C-contiguous buffer");
        const auto size = static_cast<std::size_t>(info.size) * static_cast<std::size_t>(info.itemsize);
        const auto& ops = engine::check::ops(level(isa));
        py::gil_scoped_release release;
        return ops.crc32c(static_cast<const std::uint8_t*>(info.ptr), size, seed);
    }, py::arg("data"), py::arg("seed") = 0, py::kw_only(), py::arg("isa") = "");
    m.def("hash64", [](const Arr<std::uint32_t>& words, std::uint64_t offset, const std::string& isa) {
        const auto* data = words.data();
        const auto count = static_cast<std::size_t>(words.size());
        const auto& ops = engine::check::ops(level(isa));
        py::gil_scoped_release release;
        return ops.hash64(data, count, offset);
    }, py::arg("words").noconvert(), py::arg("offset") = 0, py::kw_only(), py::arg("isa") = "");
}
