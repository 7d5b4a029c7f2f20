#include <algorithm>

#include "bind/grams.h"

void bind_text(py::module_& m) {
    m.def("text_grams", [](const py::buffer& data, const Arr<std::int64_t>& ends, const Orders& orders, std::uint64_t seed, std::uint32_t mask) {
        const auto info = data.request();
        need(PyBuffer_IsContiguous(info.view(), 'C') && info.itemsize == 1, "text_grams: expected bytes");
        need((mask & (mask + 1)) == 0, "text_grams: mask 2^b - 1");
        const auto g = grams_of(orders);
        const auto* bytes = static_cast<const std::uint8_t*>(info.ptr);
        std::int64_t before = 0, longest = 0, room = 0;
        for (py::ssize_t i = 0; i < ends.size(); before = ends.data()[i++]) {
            need(ends.data()[i] >= before && ends.data()[i] <= info.size, "text_grams: ends ascend to the end");
            longest = std::max(longest, ends.data()[i] - before);
            room += static_cast<std::int64_t>(engine::text::room(g, static_cast<std::uint64_t>(ends.data()[i] - before)));
        }
        auto table = seen_of(g, static_cast<std::size_t>(longest + 1));
        engine::text::Seen seen{table.data(), 0};
        Arr<std::int64_t> indptr(ends.size() + 1);
        Arr<std::uint32_t> keys(room);
        Arr<float> values(room);
        auto* ip = writable(indptr); auto* k = writable(keys); auto* v = writable(values);
        const auto* end = ends.data(); const auto n = ends.size();
        {
            py::gil_scoped_release release;
            ip[0] = 0;
            for (py::ssize_t i = 0; i < n; ++i)
                ip[i + 1] = engine::text::grams(bytes + (i ? end[i - 1] : 0), bytes + end[i], g, seed, mask, seen, k, v, ip[i]);
        }
        return py::make_tuple(indptr, keys, values);
    }, "n texts, end to end, to CSR: indptr (n + 1,), keys and values with room to spare.",
       py::arg("data"), py::arg("ends").noconvert(), py::arg("orders"), py::arg("seed") = 0, py::arg("mask") = (1u << 20) - 1);
}
