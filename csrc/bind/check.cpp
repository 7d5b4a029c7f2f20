#include <algorithm>

#include "bind/array.h"
#include "check/base.h"

void bind_check(py::module_& m) {
    m.def("crc32c", [](const py::buffer& data, std::uint32_t seed, const std::string& isa) {
        const auto info = data.request();
        need(PyBuffer_IsContiguous(info.view(), 'C'), "crc32c: expected a C-contiguous buffer");
        const auto size = static_cast<std::size_t>(info.size) * static_cast<std::size_t>(info.itemsize);
        const auto& ops = engine::check::ops(level(isa));
        py::gil_scoped_release release;
        return ops.crc32c(static_cast<const std::uint8_t*>(info.ptr), size, seed);
    }, py::arg("data"), py::arg("seed") = 0, py::kw_only(), py::arg("isa") = "");
    m.def("crc32c_join", &engine::check::base::join, py::arg("first"), py::arg("second"), py::arg("size"));
    m.def("hash64", [](const py::buffer& data, std::uint64_t first, const std::string& isa) {
        const auto info = data.request();
        need(PyBuffer_IsContiguous(info.view(), 'C'), "hash64: expected a C-contiguous buffer");
        const auto size = static_cast<std::size_t>(info.size) * static_cast<std::size_t>(info.itemsize);
        const auto& ops = engine::check::ops(level(isa));
        py::gil_scoped_release release;
        return ops.hash64(static_cast<const std::uint8_t*>(info.ptr), size, first);
    }, py::arg("data"), py::arg("first") = 0, py::kw_only(), py::arg("isa") = "");
    m.def("hash64_rows", [](const Arr<std::uint8_t>& data, std::size_t width, const Arr<std::int64_t>& rows, const std::string& isa) {
        const auto size = static_cast<std::size_t>(data.size());
        need(width && size % width == 0, "hash64_rows: expected whole rows");
        const auto count = static_cast<std::int64_t>(size / width);
        const auto* row = rows.data();
        const auto n = static_cast<std::size_t>(rows.size());
        for (std::size_t i = 0; i < n; ++i)
            need(row[i] >= 0 && row[i] < count && (!i || row[i] > row[i - 1]), "hash64_rows: expected ascending rows of the array");
        const auto* bytes = data.data();
        const auto& ops = engine::check::ops(level(isa));
        py::gil_scoped_release release;
        std::uint64_t sum = 0;
        std::size_t past = 0;  // words before this one are counted: rows may share one
        for (std::size_t i = 0; i < n; ++i) {
            const auto from = static_cast<std::size_t>(row[i]) * width, start = std::max(from / 8, past);
            past = std::max(past, (from + width + 7) / 8);
            sum += ops.hash64(bytes + start * 8, std::min(past * 8, size) - std::min(start * 8, size), start);
        }
        return sum;
    }, py::arg("data").noconvert(), py::arg("width"), py::arg("rows").noconvert(), py::kw_only(), py::arg("isa") = "");
}
