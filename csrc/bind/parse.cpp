#include "bind/array.h"
#include "bind/grams.h"
#include <algorithm>
#include <cstring>

#include "parse/ops.h"

using namespace engine::parse;

namespace {

struct Text { const std::uint8_t* data; std::size_t size; };

Text text(const py::buffer_info& info) {
    need(PyBuffer_IsContiguous(info.view(), 'C'), "parse: expected a C-contiguous buffer");
    return {static_cast<const std::uint8_t*>(info.ptr), static_cast<std::size_t>(info.size * info.itemsize)};
}

using F32 = Arr<float>;
using I64 = Arr<std::int64_t>;
using U32 = Arr<std::uint32_t>;

Out rows(F32& y, I64& at, I64& bad, I64& tally, py::ssize_t lines) {
    need(y.size() >= lines && at.size() >= lines, "parse: y and at need a place a line");
    need(tally.size() >= 8 && bad.size() % 3 == 0, "parse: tally needs 8 places, bad 3 a row");
    return {writable(y), writable(at), nullptr, nullptr, nullptr, nullptr, writable(bad), bad.size() / 3, writable(tally)};
}

void sparse(Out& out, I64& indptr, U32& keys, F32& values, py::ssize_t lines, py::ssize_t entries) {
    need(indptr.size() > lines, "parse: indptr needs a place a line and one");
    need(keys.size() >= entries && values.size() >= entries, "parse: keys and values are too small");
    out.indptr = writable(indptr), out.keys = writable(keys), out.values = writable(values);
}

py::tuple libsvm(const py::buffer& data, F32 y, I64 indptr, U32 keys, F32 values, I64 at, I64 bad, I64 tally,
                 std::int64_t first, int mode, std::uint32_t mask, const std::string& isa) {
    const auto info = data.request();
    const Text t = text(info);
    const auto& o = ops(level(isa));
    need(mode >= 0 && mode <= 2 && first >= 0 && first <= 1, "parse_libsvm: mode 0..2, first 0..1");
    const auto lines = o.count(t.data, t.size, '\n') + 1;
    Out out = rows(y, at, bad, tally, lines);
    sparse(out, indptr, keys, values, lines, o.count(t.data, t.size, ':'));
    Result r;
    {
        py::gil_scoped_release release;
        r = o.libsvm(t.data, t.size, first, mode, mask, out);
    }
    return py::make_tuple(r.rows, r.nnz, r.ones != 0);
}

// Bytes of the longest text there may be: of a line, or where quotes may hold line ends, of all.
std::size_t longest(const std::uint8_t* data, std::size_t size, bool lines_only) {
    if (!lines_only) return size;
    std::size_t most = 0;
    for (const std::uint8_t *p = data, *end = data + size; p < end;) {
        const void* hit = std::memchr(p, '\n', static_cast<std::size_t>(end - p));
        const auto* next = hit ? static_cast<const std::uint8_t*>(hit) + 1 : end;
        most = std::max(most, static_cast<std::size_t>(next - p));
        p = next;
    }
    return most;
}

py::tuple csv(const py::buffer& data, const Arr<std::uint8_t>& kinds, const Arr<std::uint64_t>& seeds, const py::bytes& labels,
              const I64& ends, F32 y, py::object x, py::object indptr, py::object keys, py::object values, I64 at, I64 bad,
              I64 tally, int delimiter, std::uint32_t mask, bool lines_only, const Orders& orders, const std::string& isa) {
    const auto info = data.request();
    const Text t = text(info);
    const auto& o = ops(level(isa));
    const std::string names = labels;
    const py::ssize_t columns = kinds.size();
    need(columns > 0 && seeds.size() == columns, "parse_csv: a kind and a seed a column");
    need(delimiter >= 0 && (delimiter || columns == 2) && delimiter < 256 && delimiter != '\n' && delimiter != '"', "parse_csv: delimiter");
    const auto g = grams_of(orders);
    std::int64_t before = 0, width = 0, texts = 0;
    for (py::ssize_t i = 0; i < ends.size(); before = ends.data()[i++])
        need(ends.data()[i] >= before && ends.data()[i] <= static_cast<std::int64_t>(names.size()), "parse_csv: label ends");
    for (py::ssize_t i = 0; i < columns; ++i) {
        need(kinds.data()[i] <= words, "parse_csv: kind 0..5");
        need(x.is_none() || (kinds.data()[i] != categorical && kinds.data()[i] != words), "parse_csv: a column of words needs sparse output");
        width += kinds.data()[i] == numeric, texts += kinds.data()[i] == words;
    }
    const auto lines = o.count(t.data, t.size, '\n') + 1;
    Out out = rows(y, at, bad, tally, lines);
    if (x.is_none()) {
        auto ip = py::cast<I64>(indptr); auto k = py::cast<U32>(keys); auto v = py::cast<F32>(values);
        need(ip.ptr() == indptr.ptr() && k.ptr() == keys.ptr() && v.ptr() == values.ptr(), "parse_csv: output dtype");
        sparse(out, ip, k, v, lines, lines * columns + static_cast<py::ssize_t>(texts ? engine::text::room(g, t.size) + lines * engine::text::room(g, 0) * texts : 0));
    } else {
        auto dense = py::cast<F32>(x);
        need(dense.ptr() == x.ptr() && dense.size() >= lines * width, "parse_csv: x is float32, width places a line");
        out.x = writable(dense);
    }
    auto table = seen_of(g, texts ? longest(t.data, t.size, lines_only) : 0);
    engine::text::Seen seen{table.data(), 0};
    const Csv plan{static_cast<std::uint8_t>(delimiter), lines_only, kinds.data(), seeds.data(), columns, width, mask,
                   reinterpret_cast<const std::uint8_t*>(names.data()), ends.data(), ends.size(), &g, &seen};
    Result r;
    {
        py::gil_scoped_release release;
        r = o.csv(t.data, t.size, plan, out);
    }
    return py::make_tuple(r.rows, r.nnz);
}

// One field of each row at `at`, to `out`: int64 times or uint64 ids. Returns how many rows had none.
template <class T>
std::int64_t fields(const py::buffer& data, const I64& at, std::int64_t column, int delimiter, bool lines_only, double scale, Arr<T> out) {
    const auto info = data.request();
    const Text t = text(info);
    need(at.size() == out.size() && column >= 0 && delimiter > 0 && delimiter < 256, "parse_fields: a place in out a row, a column, a delimiter");
    for (py::ssize_t i = 0; i < at.size(); ++i)
        need(at.data()[i] >= 0 && static_cast<std::size_t>(at.data()[i]) < t.size, "parse_fields: at lies outside the text");
    Csv plan{};
    plan.delimiter = static_cast<std::uint8_t>(delimiter), plan.lines = lines_only;
    const auto* places = at.data();
    const auto rows = static_cast<std::int64_t>(at.size());
    T* to = writable(out);
    py::gil_scoped_release release;
    if constexpr (std::is_signed_v<T>) return times(t.data, t.size, places, rows, plan, column, scale, to);
    else return names(t.data, t.size, places, rows, plan, column, to);
}

}  // namespace

void bind_parse(py::module_& m) {
    m.def("count_byte", [](const py::buffer& data, int byte, const std::string& isa) {
        const auto info = data.request();
        const Text t = text(info);
        return ops(level(isa)).count(t.data, t.size, static_cast<std::uint8_t>(byte));
    }, py::arg("data"), py::arg("byte"), py::kw_only(), py::arg("isa") = "");
    m.def("parse_libsvm", &libsvm, py::arg("data"), py::arg("y").noconvert(), py::arg("indptr").noconvert(),
          py::arg("keys").noconvert(), py::arg("values").noconvert(), py::arg("at").noconvert(), py::arg("bad").noconvert(),
          py::arg("tally").noconvert(), py::kw_only(), py::arg("first") = 1, py::arg("mode") = 0,
          py::arg("mask") = (1u << 30) - 1, py::arg("isa") = "");
    m.def("parse_csv", &csv, py::arg("data"), py::arg("kinds").noconvert(), py::arg("seeds").noconvert(), py::arg("labels"),
          py::arg("ends").noconvert(), py::arg("y").noconvert(), py::arg("x"), py::arg("indptr"), py::arg("keys"),
          py::arg("values"), py::arg("at").noconvert(), py::arg("bad").noconvert(), py::arg("tally").noconvert(), py::kw_only(),
          py::arg("delimiter") = 44, py::arg("mask") = (1u << 30) - 1, py::arg("lines_only") = true, py::arg("orders") = Orders{}, py::arg("isa") = "");
    m.def("parse_times", &fields<std::int64_t>, py::arg("data"), py::arg("at").noconvert(), py::arg("column"), py::arg("delimiter"),
          py::arg("lines_only"), py::arg("scale"), py::arg("out").noconvert());
    m.def("parse_ids", &fields<std::uint64_t>, py::arg("data"), py::arg("at").noconvert(), py::arg("column"), py::arg("delimiter"),
          py::arg("lines_only"), py::arg("scale"), py::arg("out").noconvert());
}
