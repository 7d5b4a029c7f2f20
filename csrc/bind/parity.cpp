#include "bind/array.h"
#include "parity/ops.h"

#include <vector>

using Bytes = Arr<std::uint8_t>;

void bind_parity(py::module_& m) {
    m.def("parity_dot", [](const Bytes& matrix, const py::sequence& data, const py::sequence& out, bool keep, const std::string& isa) {
        const auto k = data.size(), rows = out.size();
        need(k && rows && matrix.ndim() == 2 && matrix.shape(0) == static_cast<py::ssize_t>(rows) && matrix.shape(1) == static_cast<py::ssize_t>(k),
             "parity: expected a matrix (outputs, inputs), one at least of each");
        std::vector<const std::uint8_t*> from;
        std::vector<std::uint8_t*> to;
        py::ssize_t n = -1;
        const auto take = [&](const py::handle& item) {
            need(py::isinstance<Bytes>(item), "parity: expected C-contiguous uint8 arrays");
            auto array = py::reinterpret_borrow<Bytes>(item);
            need(n < 0 || array.size() == n, "parity: arrays differ in size");
            n = array.size();
            return array;
        };
        for (const auto& item : data) from.push_back(take(item).data());
        for (const auto& item : out) {
            auto array = take(item);
            to.push_back(writable(array));
        }
        const auto size = static_cast<std::size_t>(n);
        const auto clear = [size](const std::uint8_t* a, const std::uint8_t* b) { return a + size <= b || b + size <= a; };
        for (std::size_t j = 0; j < rows; ++j) {
            for (const auto* p : from) need(!size || clear(to[j], p), "parity: an output overlaps an input");
            for (std::size_t i = 0; i < j; ++i) need(!size || clear(to[j], to[i]), "parity: outputs overlap");
        }
        const auto* factors = matrix.data();
        const auto& ops = engine::parity::ops(level(isa));
        py::gil_scoped_release release;
        ops.dot(factors, k, rows, from.data(), to.data(), size, keep);
    }, py::arg("matrix").noconvert(), py::arg("data"), py::arg("out"), py::arg("keep") = false, py::kw_only(), py::arg("isa") = "");
}
