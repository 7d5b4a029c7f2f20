#include <cmath>

#include "bind/array.h"
#include "stats/ops.h"

namespace {

using engine::stats::Rows;

Rows rows(const Arr<float>& x, const Arr<float>& y) {
    need(x.ndim() == 2 && x.shape(0) == y.size() && x.shape(1) >= 1, "stats: expected x (rows, columns) and a label a row");
    return {static_cast<std::size_t>(x.shape(0)), static_cast<std::size_t>(x.shape(1)), x.data(), y.data()};
}

}  // namespace

void bind_stats(py::module_& m) {
    m.def("bayes_learn", [](Arr<double>& data, double floor, const Arr<float>& x, const Arr<float>& y, Arr<double>& joint, bool learn) {
        const Rows in = rows(x, y);
        need(data.ndim() == 3 && data.shape(1) == x.shape(1) && data.shape(2) == 3, "bayes_learn: expected data (classes, columns, 3)");
        const auto classes = static_cast<std::size_t>(data.shape(0));
        need(static_cast<std::size_t>(joint.size()) == in.count * classes, "bayes_learn: expected joint (rows, classes)");
        double *d = writable(data), *out = writable(joint);
        py::gil_scoped_release release;
        return engine::stats::ops(engine::isa()).bayes(d, classes, floor, in, out, learn);
    }, py::arg("data").noconvert(), py::arg("floor"), py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("joint").noconvert(),
       py::arg("learn"));
    m.def("kmeans_learn", [](Arr<double>& data, Arr<double>& gain, Arr<double>& centres, bool classes, double fade, const Arr<float>& x,
                             const Arr<float>& y, Arr<std::int64_t>& cluster, Arr<double>& distance) {
        const Rows in = rows(x, y);
        need(centres.ndim() == 2 && centres.shape(1) == x.shape(1) && centres.shape(0) >= 1, "kmeans_learn: expected centres (k, columns)");
        const auto k = static_cast<std::size_t>(centres.shape(0));
        need(data.ndim() == 2 && data.shape(0) == centres.shape(0) && data.shape(1) >= x.shape(1) + 3 && gain.size() == data.size(),
             "kmeans_learn: expected data and gain (k, 1 + columns + labels)");
        need(static_cast<std::size_t>(cluster.size()) == in.count && distance.size() == cluster.size(), "kmeans_learn: one cluster a row");
        const auto labels = static_cast<std::size_t>(data.shape(1) - 1 - x.shape(1));
        for (py::ssize_t i = 0; classes && i < y.size(); ++i) {
            const float v = y.data()[i];
            need(!std::isfinite(v) || (v >= 0 && v < static_cast<float>(labels) && v == std::floor(v)), "label: expected a class of the model");
        }
        double *d = writable(data), *g = writable(gain), *c = writable(centres), *far = writable(distance);
        auto* to = writable(cluster);
        py::gil_scoped_release release;
        engine::stats::ops(engine::isa()).kmeans(d, g, c, k, labels, classes, fade, in, to, far);
    }, py::arg("data").noconvert(), py::arg("gain").noconvert(), py::arg("centres").noconvert(), py::arg("classes"), py::arg("fade"),
       py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("cluster").noconvert(), py::arg("distance").noconvert());
}
