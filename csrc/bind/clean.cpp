#include "clean/ops.h"

#include <pybind11/stl.h>

#include "bind/array.h"

using namespace engine::clean;

namespace {

using F32 = Arr<float>;
using F64 = Arr<double>;
using U32 = Arr<std::uint32_t>;
using I64 = Arr<std::int64_t>;
using U8 = Arr<std::uint8_t>;

Shape shape(const F32& x) {
    need(x.ndim() == 2, "clean: expected x (n, d)");
    return {static_cast<std::size_t>(x.shape(0)), static_cast<std::size_t>(x.shape(1))};
}

bool holds(py::ssize_t size, std::size_t least) { return size >= 0 && static_cast<std::size_t>(size) >= least; }

const std::int64_t* rows_of(const I64& indptr, py::ssize_t entries) {
    need(indptr.size() > 0 && indptr.data()[0] == 0, "clean: indptr starts at 0");
    for (py::ssize_t i = 1; i < indptr.size(); ++i) need(indptr.data()[i] >= indptr.data()[i - 1], "clean: indptr ascends");
    need(indptr.data()[indptr.size() - 1] <= entries, "clean: indptr is past the keys");
    return indptr.data();
}

}  // namespace

void bind_clean(py::module_& m) {
    m.def("clean_standard", [](const F32& x, F64& stats, bool fit, F32& out, const std::string& isa) {
        const Shape s = shape(x);
        need(holds(stats.size(), 3 * s.d) && holds(out.size(), s.n * s.d), "clean_standard: stats (3, d), out (n, d)");
        const float* from = x.data(); double* held = writable(stats); float* to = writable(out);
        const auto& o = ops(level(isa));
        py::gil_scoped_release release;
        o.standard(s, from, held, fit, to);
    }, py::arg("x").noconvert(), py::arg("stats").noconvert(), py::arg("fit"), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("clean_impute", [](const F32& x, F64& stats, int how, const F32& constant, bool fit, F32& out, std::optional<F32> flags, const std::string& isa) {
        const Shape s = shape(x);
        need(how >= 0 && how <= 2, "clean_impute: how 0..2");
        need(holds(stats.size(), 2 * s.d) && holds(constant.size(), s.d) && holds(out.size(), s.n * s.d), "clean_impute: stats (2, d), constant (d,), out (n, d)");
        need(!flags || holds(flags->size(), s.n * s.d), "clean_impute: flags (n, d)");
        const float *from = x.data(), *fill = constant.data(); double* held = writable(stats); float* to = writable(out);
        float* flag = flags ? writable(*flags) : nullptr;
        const auto& o = ops(level(isa));
        py::gil_scoped_release release;
        o.impute(s, from, held, static_cast<Fill>(how), fill, fit, to, flag);
    }, py::arg("x").noconvert(), py::arg("stats").noconvert(), py::arg("how"), py::arg("constant").noconvert(), py::arg("fit"),
       py::arg("out").noconvert(), py::arg("flags").noconvert().none(true), py::kw_only(), py::arg("isa") = "");
    m.def("clean_minmax", [](const F32& x, F64& edges, bool fit, F32& out, const std::string& isa) {
        const Shape s = shape(x);
        need(holds(edges.size(), 2 * s.d) && holds(out.size(), s.n * s.d), "clean_minmax: edges (2, d), out (n, d)");
        const float* from = x.data(); double* held = writable(edges); float* to = writable(out);
        const auto& o = ops(level(isa));
        py::gil_scoped_release release;
        o.minmax(s, from, held, fit, to);
    }, py::arg("x").noconvert(), py::arg("edges").noconvert(), py::arg("fit"), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("clean_outliers", [](const F32& x, F64& stats, double z, double least, int how, bool fit, F32& out, U8& keep, const std::string& isa) {
        const Shape s = shape(x);
        need(how >= 0 && how <= 2, "clean_outliers: how 0..2");
        need(holds(stats.size(), 3 * s.d) && holds(out.size(), s.n * s.d) && holds(keep.size(), s.n), "clean_outliers: stats (3, d), out (n, d), keep (n,)");
        const float* from = x.data(); double* held = writable(stats); float* to = writable(out); auto* kept = writable(keep);
        const auto& o = ops(level(isa));
        py::gil_scoped_release release;
        return o.outliers(s, from, held, z, least, static_cast<Far>(how), fit, to, kept);
    }, py::arg("x").noconvert(), py::arg("stats").noconvert(), py::arg("z"), py::arg("least"), py::arg("how"), py::arg("fit"),
       py::arg("out").noconvert(), py::arg("keep").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("clean_lag", [](const F32& x, std::size_t k, F32& ring, bool fit, F32& out) {
        const Shape s = shape(x);
        need(k >= 1 && k < 4096 && holds(ring.size(), k * s.d) && holds(out.size(), s.n * s.d * (1 + k)), "clean_lag: ring (k, d), out (n, d (1 + k))");
        const float* from = x.data(); float *held = writable(ring), *to = writable(out);
        py::gil_scoped_release release;
        ops(engine::isa()).lag(s, from, k, held, fit, to);
    }, py::arg("x").noconvert(), py::arg("k"), py::arg("ring").noconvert(), py::arg("fit"), py::arg("out").noconvert());
    m.def("clean_rolling", [](const F32& x, std::size_t w, F32& ring, std::uint64_t seen, F32& out, const std::string& isa) {
        const Shape s = shape(x);
        need(w >= 1 && w < 1u << 20 && holds(ring.size(), w * s.d) && holds(out.size(), s.n * s.d * 3), "clean_rolling: ring (w, d), out (n, 3 d)");
        const float* from = x.data(); float *held = writable(ring), *to = writable(out);
        const auto& o = ops(level(isa));
        py::gil_scoped_release release;
        o.rolling(s, from, w, held, &seen, to);
        return seen;
    }, py::arg("x").noconvert(), py::arg("w"), py::arg("ring").noconvert(), py::arg("seen"), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("clean_hash", [](const F32& x, const U8& kinds, const Arr<std::uint64_t>& seeds, std::uint32_t mask, bool fit, std::optional<U32> owner,
                           I64& indptr, U32& keys, F32& values) {
        const Shape s = shape(x);
        need((mask & (mask + 1)) == 0 && holds(kinds.size(), s.d) && holds(seeds.size(), s.d), "clean_hash: kinds and seeds (d,), mask 2^b - 1");
        need(!owner || holds(owner->size(), mask + 1ull), "clean_hash: owner (mask + 1,)");
        need(holds(indptr.size(), s.n + 1) && holds(keys.size(), s.n * s.d) && holds(values.size(), s.n * s.d), "clean_hash: indptr (n + 1,), keys and values (n d,)");
        const float* from = x.data(); const auto* kind = kinds.data(); const auto* seed = seeds.data();
        auto* who = owner ? writable(*owner) : nullptr; auto* ip = writable(indptr); auto* k = writable(keys); auto* v = writable(values);
        py::gil_scoped_release release;
        return hash_rows(s, from, kind, seed, mask, fit, who, ip, k, v);
    }, py::arg("x").noconvert(), py::arg("kinds").noconvert(), py::arg("seeds").noconvert(), py::arg("mask"), py::arg("fit"),
       py::arg("owner").noconvert().none(true), py::arg("indptr").noconvert(), py::arg("keys").noconvert(), py::arg("values").noconvert());
    m.def("clean_sketch", [](const F32& x, F64& counts) {
        const Shape s = shape(x);
        need(holds(counts.size(), s.d * 16384), "clean_sketch: counts (d, 16384)");
        const float* from = x.data(); double* held = writable(counts);
        py::gil_scoped_release release;
        sketch_add(s, from, held);
    }, py::arg("x").noconvert(), py::arg("counts").noconvert());
    m.def("clean_frequent", [](const I64& indptr, const U32& keys, std::optional<F32> values, std::uint32_t mask, std::uint32_t least, bool fit,
                               U32& counts, I64& out_indptr, U32& out_keys, F32& out_values) {
        const auto* ip = rows_of(indptr, keys.size());
        need((mask & (mask + 1)) == 0 && holds(counts.size(), mask + 1ull), "clean_frequent: counts (mask + 1,), mask 2^b - 1");
        need(!values || values->size() >= keys.size(), "clean_frequent: a value a key");
        need(out_indptr.size() >= indptr.size() && out_keys.size() >= keys.size() && out_values.size() >= keys.size(), "clean_frequent: outputs as long as inputs");
        const auto* k = keys.data(); const float* v = values ? values->data() : nullptr;
        auto* seen = writable(counts); auto* oi = writable(out_indptr); auto* ok = writable(out_keys); auto* ov = writable(out_values);
        const auto n = static_cast<std::size_t>(indptr.size() - 1);
        py::gil_scoped_release release;
        return frequent(n, ip, k, v, mask, least, fit, seen, oi, ok, ov);
    }, py::arg("indptr").noconvert(), py::arg("keys").noconvert(), py::arg("values").noconvert().none(true), py::arg("mask"), py::arg("least"),
       py::arg("fit"), py::arg("counts").noconvert(), py::arg("out_indptr").noconvert(), py::arg("out_keys").noconvert(), py::arg("out_values").noconvert());
    m.def("clean_project", [](const I64& indptr, const U32& keys, std::optional<F32> values, std::uint64_t seed, F32& out) {
        const auto* ip = rows_of(indptr, keys.size());
        const auto n = static_cast<std::size_t>(indptr.size() - 1);
        need(out.ndim() == 2 && static_cast<std::size_t>(out.shape(0)) == n && out.shape(1) > 0, "clean_project: out (n, k)");
        need(!values || values->size() >= keys.size(), "clean_project: a value a key");
        const auto* k = keys.data(); const float* v = values ? values->data() : nullptr;
        const auto width = static_cast<std::size_t>(out.shape(1));
        float* to = writable(out);
        py::gil_scoped_release release;
        project(n, ip, k, v, width, seed, to);
    }, py::arg("indptr").noconvert(), py::arg("keys").noconvert(), py::arg("values").noconvert().none(true), py::arg("seed"), py::arg("out").noconvert());
}
