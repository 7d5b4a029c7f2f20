#include <pybind11/stl.h>

#include <optional>

#include "bind/array.h"
#include "factor/base.h"
#include "factor/ops.h"

namespace {

using namespace engine::factor;
template <class T>
using Maybe = std::optional<Arr<T>>;

Rule rule(const std::string& loss, const std::vector<float>& numbers, std::uint32_t factors, std::uint32_t fields) {
    need(loss == "logistic" || loss == "squared", "factor: expected loss logistic or squared");
    need(numbers.size() == 5, "factor: expected 5 numbers");
    need(factors % 4 == 0 && factors >= 4 && factors <= base::factors_max, "factor: factors must be a multiple of 4, at most 64");
    return {loss == "logistic", numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], factors, fields};
}

Table table(Arr<float>& block, const Rule& r) {
    const auto width = base::head + static_cast<std::size_t>(r.factors) * (r.fields ? r.fields : 1);
    need(block.ndim() == 2 && static_cast<std::size_t>(block.shape(1)) == width && block.shape(0) >= 1,
         "factor: expected a block of shape (keys + 1, 4 + factors * max(1, fields))");
    return {writable(block), static_cast<std::size_t>(block.shape(0) - 1), width};
}

Rows rows(const Table& t, const Arr<std::int64_t>& indptr, const Arr<std::uint32_t>& keys, const Maybe<float>& values,
          py::ssize_t count) {
    need(indptr.size() == count + 1 && indptr.data()[0] == 0 && indptr.data()[count] == keys.size(),
         "factor: indptr must go from 0 to the number of keys");
    need(!values || values->size() == keys.size(), "factor: one value a key");
    const auto* k = keys.data();
    for (py::ssize_t i = 0; i < count; ++i) need(indptr.data()[i] <= indptr.data()[i + 1], "factor: indptr must ascend");
    for (py::ssize_t i = 0; i < keys.size(); ++i)
        if (k[i] >= t.keys) throw py::index_error("key " + std::to_string(k[i]) + " is outside the key space of " + std::to_string(t.keys));
    return {static_cast<std::size_t>(count), indptr.data(), k, values ? values->data() : nullptr, nullptr, nullptr};
}

}  // namespace

void bind_factor(py::module_& m) {
    m.def("factor_predict", [](Arr<float>& block, const std::string& loss, const std::vector<float>& numbers, std::uint32_t factors,
                               std::uint32_t fields, const Arr<std::int64_t>& indptr, const Arr<std::uint32_t>& keys,
                               const Maybe<float>& values, Arr<float>& out) {
        const Rule r = rule(loss, numbers, factors, fields);
        const Table t = table(block, r);
        const Rows in = rows(t, indptr, keys, values, out.size());
        float* scores = writable(out);
        py::gil_scoped_release release;
        ops(engine::isa()).predict(r, t, in, scores);
    }, py::arg("block").noconvert(), py::arg("loss"), py::arg("numbers"), py::arg("factors"), py::arg("fields"),
       py::arg("indptr").noconvert(), py::arg("keys").noconvert(), py::arg("values").noconvert(), py::arg("out").noconvert());
    m.def("factor_learn", [](Arr<float>& block, const std::string& loss, const std::vector<float>& numbers, std::uint32_t factors,
                             std::uint32_t fields, const Arr<std::int64_t>& indptr, const Arr<std::uint32_t>& keys,
                             const Maybe<float>& values, const Arr<float>& y, const Maybe<float>& weight, Arr<float>& out,
                             std::size_t start, Maybe<std::uint32_t>& ids, Maybe<float>& side, std::size_t touched) {
        const Rule r = rule(loss, numbers, factors, fields);
        const Table t = table(block, r);
        Rows in = rows(t, indptr, keys, values, y.size());
        need(out.size() == y.size() && start <= in.count, "factor: one score a row");
        need(!weight || weight->size() == y.size(), "factor: one weight a row");
        need(ids.has_value() == side.has_value(), "factor: ids and side come together");
        need(!ids || side->size() == static_cast<py::ssize_t>(ids->size() * t.width), "factor: side must be (ids, width)");
        in.y = y.data(), in.weight = weight ? weight->data() : nullptr;
        Track track{ids ? writable(*ids) : nullptr, side ? writable(*side) : nullptr,
                    ids ? static_cast<std::size_t>(ids->size()) : 0, touched};
        need(track.count <= track.capacity, "factor: more touched rows than there is room for");
        float* scores = writable(out);
        std::uint64_t bad = 0;
        std::size_t done;
        {
            py::gil_scoped_release release;
            done = ops(engine::isa()).learn(r, t, in, track, start, scores, &bad);
        }
        return py::make_tuple(done, track.count, bad);
    }, py::arg("block").noconvert(), py::arg("loss"), py::arg("numbers"), py::arg("factors"), py::arg("fields"),
       py::arg("indptr").noconvert(), py::arg("keys").noconvert(), py::arg("values").noconvert(), py::arg("y").noconvert(),
       py::arg("weight").noconvert(), py::arg("out").noconvert(), py::arg("start"), py::arg("ids").noconvert(),
       py::arg("side").noconvert(), py::arg("touched"));
}
