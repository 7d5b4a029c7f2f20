#include "bind/array.h"
#include "entropy/ops.h"

#include <memory>

using namespace engine::entropy;

namespace {

Work& work() {  // one a thread, kept: 600 KiB would otherwise be faulted in at every call
    static thread_local std::unique_ptr<Work> kept(new Work);
    return *kept;
}

template <class Encode>
std::size_t bytes_encode(const char* name, const Arr<u8>& data, Arr<u8>& out, Encode encode) {
    const u8* in = data.data();
    u8* to = writable(out);
    const auto n = static_cast<std::size_t>(data.size()), room = static_cast<std::size_t>(out.size());
    std::size_t used;
    {
        py::gil_scoped_release release;
        used = encode(in, n, to, room);
    }
    need(used, name);
    return used;
}

template <class Decode>
void bytes_decode(const char* name, const Arr<u8>& data, Arr<u8>& out, Decode decode) {
    const u8* in = data.data();
    u8* to = writable(out);
    const auto size = static_cast<std::size_t>(data.size()), n = static_cast<std::size_t>(out.size());
    bool ok;
    {
        py::gil_scoped_release release;
        ok = decode(in, size, to, n);
    }
    need(ok, name);
}

const u8* conditions(const py::object& cond, py::ssize_t n) {
    if (cond.is_none()) return nullptr;
    need(py::isinstance<Arr<u8>>(cond), "cond: expected a C-contiguous uint8 array or None");
    const auto array = py::reinterpret_borrow<Arr<u8>>(cond);
    need(array.size() == n, "cond: expected one a value");
    return array.data();
}

void bind_index(py::module_& m) {
    m.def("index_bound", [](std::size_t n, std::uint64_t universe) { return index_bound(n, universe); }, py::arg("n"), py::arg("universe"));
    m.def("index_encode", [](const Arr<u32>& index, std::uint64_t universe, Arr<u8>& out, bool fast, const std::string& isa) {
        const u32* in = index.data();
        u8* to = writable(out);
        const auto n = static_cast<std::size_t>(index.size()), room = static_cast<std::size_t>(out.size());
        const auto& ops = engine::entropy::ops(level(isa));
        need(universe <= std::uint64_t(1) << 32, "index_encode: expected a universe <= 2^32");
        std::size_t used = 0;
        bool ascending = !n || in[n - 1] < universe;
        {
            py::gil_scoped_release release;
            if (ascending) ops.runs(in, n, ascending);
            if (ascending) used = index_encode(ops, in, n, universe, fast, to, room, work());
        }
        need(ascending, "index_encode: expected strictly ascending indices below the universe");
        need(used, "index_encode: out is smaller than index_bound");
        return used;
    }, py::arg("index").noconvert(), py::arg("universe"), py::arg("out").noconvert(), py::arg("fast") = false, py::kw_only(), py::arg("isa") = "");
    m.def("index_decode", [](const Arr<u8>& data, std::uint64_t universe, Arr<u32>& out, const std::string& isa) {
        const u8* in = data.data();
        u32* to = writable(out);
        const auto size = static_cast<std::size_t>(data.size()), n = static_cast<std::size_t>(out.size());
        const auto& ops = engine::entropy::ops(level(isa));
        need(universe <= std::uint64_t(1) << 32, "index_decode: expected a universe <= 2^32");
        std::size_t used = 0;
        bool ok;
        {
            py::gil_scoped_release release;
            ok = index_decode(ops, in, size, to, n, universe, used, work());
        }
        need(ok, "index_decode: not an index set of this length");
        return used;
    }, py::arg("data").noconvert(), py::arg("universe"), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
}

}  // namespace

void bind_entropy(py::module_& m) {
    m.def("class_bound", [](std::size_t n) { return bound(n); }, py::arg("n"));
    m.def("class_encode", [](const Arr<u32>& values, const py::object& cond, Arr<u8>& out, const std::string& isa) {
        const u32* in = values.data();
        const u8* given = conditions(cond, values.size());
        u8* to = writable(out);
        const auto n = static_cast<std::size_t>(values.size()), room = static_cast<std::size_t>(out.size());
        const auto& ops = engine::entropy::ops(level(isa));
        std::size_t used;
        {
            py::gil_scoped_release release;
            used = encode_all(ops, in, given, n, to, room, work());
        }
        need(used || !n, "class_encode: out is smaller than class_bound");
        return used;
    }, py::arg("values").noconvert(), py::arg("cond"), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("class_decode", [](const Arr<u8>& data, const py::object& cond, Arr<u32>& out, const std::string& isa) {
        const u8* in = data.data();
        const u8* given = conditions(cond, out.size());
        u32* to = writable(out);
        const auto size = static_cast<std::size_t>(data.size()), n = static_cast<std::size_t>(out.size());
        const auto& ops = engine::entropy::ops(level(isa));
        std::size_t used;
        {
            py::gil_scoped_release release;
            used = decode_all(ops, in, size, given, to, n);
        }
        need(used || !n, "class_decode: not the class code of this many values");
        return used;
    }, py::arg("data").noconvert(), py::arg("cond"), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("huffman_encode", [](const Arr<u8>& data, Arr<u8>& out) {
        return bytes_encode("huffman_encode: out is too small", data, out, huffman_encode);
    }, py::arg("data").noconvert(), py::arg("out").noconvert());
    m.def("huffman_decode", [](const Arr<u8>& data, Arr<u8>& out) {
        bytes_decode("huffman_decode: not the code of this many bytes", data, out, huffman_decode);
    }, py::arg("data").noconvert(), py::arg("out").noconvert());
    m.def("range_encode", [](const Arr<u8>& data, Arr<u8>& out) {
        return bytes_encode("range_encode: out is too small", data, out, range_encode);
    }, py::arg("data").noconvert(), py::arg("out").noconvert());
    m.def("range_decode", [](const Arr<u8>& data, Arr<u8>& out) {
        bytes_decode("range_decode: not the code of this many bytes", data, out, range_decode);
    }, py::arg("data").noconvert(), py::arg("out").noconvert());
    bind_index(m);
}
