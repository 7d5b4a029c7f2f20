#include "bind/array.h"
#include "score/ops.h"

namespace {

using engine::score::Rows;
using engine::score::Table;
using F32 = Arr<float>;
using I64 = Arr<std::int64_t>;

Rows rows(const F32& scores, const F32& y, const F32& previous, const I64& order, std::int64_t start, py::ssize_t width) {
    const py::ssize_t n = y.size();
    need(scores.size() == n * width && previous.size() == n && order.size() == n, "score: scores, y, previous and order differ in rows");
    need(start >= 0 && start <= n, "score: start outside the rows");
    return {scores.data() + start * width, y.data() + start, previous.data() + start, order.data() + start, n - start};
}

Table buckets(I64& table, std::int64_t bucket_rows, py::ssize_t width) {
    need(table.ndim() == 2 && table.shape(1) == width, "score: expected table (buckets, 5 + classes)");
    need(bucket_rows > 0, "score: bucket_rows must be positive");
    return {writable(table), table.shape(0), table.shape(1), bucket_rows};
}

}  // namespace

void bind_score(py::module_& m) {
    m.def("score_binary", [](const F32& scores, const F32& y, const F32& previous, const I64& order, std::int64_t start, I64& table,
                             std::int64_t bucket_rows, I64& confusion, I64& hist, const std::string& isa) {
        const auto in = rows(scores, y, previous, order, start, 1);
        const auto out = buckets(table, bucket_rows, engine::score::labels + 2);
        need(confusion.size() == 4 && hist.size() == 2 * engine::score::bins, "score_binary: expected confusion (2, 2), hist (2, 65536)");
        auto *c = writable(confusion), *h = writable(hist);
        const auto& ops = engine::score::ops(level(isa));
        py::gil_scoped_release release;
        return ops.binary(in, out, c, h);
    }, py::arg("scores").noconvert(), py::arg("y").noconvert(), py::arg("previous").noconvert(), py::arg("order").noconvert(), py::arg("start"),
       py::arg("table").noconvert(), py::arg("bucket_rows"), py::arg("confusion").noconvert(), py::arg("hist").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("score_multi", [](const F32& scores, const F32& y, const F32& previous, const I64& order, std::int64_t start, I64& table,
                            std::int64_t bucket_rows, I64& confusion, const std::string& isa) {
        need(confusion.ndim() == 2 && confusion.shape(0) == confusion.shape(1), "score_multi: expected confusion (classes, classes)");
        const auto classes = confusion.shape(0);
        const auto in = rows(scores, y, previous, order, start, classes);
        const auto out = buckets(table, bucket_rows, engine::score::labels + classes);
        auto* c = writable(confusion);
        const auto& ops = engine::score::ops(level(isa));
        py::gil_scoped_release release;
        return ops.multi(in, classes, out, c);
    }, py::arg("scores").noconvert(), py::arg("y").noconvert(), py::arg("previous").noconvert(), py::arg("order").noconvert(), py::arg("start"),
       py::arg("table").noconvert(), py::arg("bucket_rows"), py::arg("confusion").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("score_real", [](const F32& scores, const F32& y, const F32& previous, const I64& order, std::int64_t start, I64& table,
                           std::int64_t bucket_rows, Arr<double>& sums, const std::string& isa) {
        const auto in = rows(scores, y, previous, order, start, 1);
        const auto out = buckets(table, bucket_rows, engine::score::labels);
        need(sums.ndim() == 2 && sums.shape(0) == table.shape(0) && sums.shape(1) == engine::score::sums_width, "score_real: expected sums (buckets, 6)");
        auto* s = writable(sums);
        const auto& ops = engine::score::ops(level(isa));
        py::gil_scoped_release release;
        return ops.real(in, out, s);
    }, py::arg("scores").noconvert(), py::arg("y").noconvert(), py::arg("previous").noconvert(), py::arg("order").noconvert(), py::arg("start"),
       py::arg("table").noconvert(), py::arg("bucket_rows"), py::arg("sums").noconvert(), py::kw_only(), py::arg("isa") = "");
}
