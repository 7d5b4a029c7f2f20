#include <pybind11/stl.h>

#include <optional>

#include "bind/array.h"
#include "forest/base.h"
#include "forest/ops.h"

namespace {

using namespace engine::forest;

// A tree bound to its arrays (owned by Python). Not for two threads at once.
class Native {
public:
    Native(Arr<std::int32_t> feature, Arr<std::int32_t> child, Arr<std::int32_t> depth, Arr<double> value, Arr<double> sums,
           Arr<double> prior, Arr<double> last, Arr<std::uint8_t> touched, Arr<std::int64_t> count, std::size_t columns,
           const std::vector<double>& numbers, bool bayes, std::uint64_t seed)
        : keep_(py::make_tuple(feature, child, depth, value, sums, prior, last, touched, count)) {
        const auto room = static_cast<std::size_t>(feature.size());
        need(prior.ndim() == 2 && static_cast<std::size_t>(prior.shape(0)) == room, "Tree: expected prior (room, classes)");
        const auto classes = static_cast<std::size_t>(prior.shape(1));
        need(classes >= 2 && classes <= base::classes_max && columns >= 1 && room >= 1, "Tree: expected 2 to 256 classes and a column");
        need(static_cast<std::size_t>(child.size()) == 2 * room && static_cast<std::size_t>(depth.size()) == room &&
                 static_cast<std::size_t>(value.size()) == room && static_cast<std::size_t>(last.size()) == room &&
                 static_cast<std::size_t>(touched.size()) == room && count.size() == 1, "Tree: arrays of one room");
        tree_ = {writable(feature), writable(child), writable(depth), writable(value), writable(sums), writable(prior),
                 writable(last), writable(touched), room, columns, classes, writable(count)};
        need(static_cast<std::size_t>(sums.size()) == room * tree_.width(), "Tree: expected sums (room, 4 + classes + 2 columns classes)");
        need(numbers.size() == 6, "Tree: expected 6 numbers");
        rule_ = {numbers[0], numbers[1], numbers[2], static_cast<std::size_t>(numbers[3]), static_cast<std::size_t>(numbers[4]),
                 numbers[5], seed, bayes};
    }

    void predict(const Arr<float>& x, double gain, Arr<double>& votes) {
        const Rows in = rows(x, votes);
        double* out = writable(votes);
        py::gil_scoped_release release;
        ops_.predict(tree_, rule_, in, gain, out);
    }

    void learn(const Arr<float>& x, const Arr<float>& y, const std::optional<Arr<float>>& weight, const Arr<std::int64_t>& order,
               double gain, Arr<double>& votes, Arr<std::uint8_t>& hits, bool split) {
        Rows in = rows(x, votes);
        const auto n = static_cast<py::ssize_t>(in.count);
        need(y.size() == n && order.size() == n && hits.size() == n && (!weight || weight->size() == n), "Tree: one of each a row");
        for (py::ssize_t i = 0; i < n; ++i) {
            const float v = y.data()[i];
            need(std::isnan(v) || (v >= 0 && v < static_cast<float>(tree_.classes) && v == std::floor(v)),
                 "label: expected a class of the model; make it with more classes (model.classes)");
        }
        in.y = y.data(), in.order = order.data(), in.weight = weight ? weight->data() : nullptr;
        double* out = writable(votes);
        auto* right = writable(hits);
        py::gil_scoped_release release;
        ops_.learn(tree_, rule_, in, gain, out, right, split);
    }

    std::size_t attempt() {
        py::gil_scoped_release release;
        return ops_.attempt(tree_, rule_);
    }

private:
    Rows rows(const Arr<float>& x, const Arr<double>& votes) const {
        need(x.ndim() == 2 && static_cast<std::size_t>(x.shape(1)) == tree_.columns, "rows: wrong number of columns");
        need(static_cast<std::size_t>(votes.size()) == static_cast<std::size_t>(x.shape(0)) * tree_.classes, "Tree: votes must be (rows, classes)");
        return {static_cast<std::size_t>(x.shape(0)), x.data(), nullptr, nullptr, nullptr};
    }

    py::tuple keep_;
    Tree tree_{};
    Rule rule_{};
    const Ops& ops_ = ops(engine::isa());
};

}  // namespace

void bind_forest(py::module_& m) {
    py::class_<Native>(m, "Tree")
        .def(py::init<Arr<std::int32_t>, Arr<std::int32_t>, Arr<std::int32_t>, Arr<double>, Arr<double>, Arr<double>, Arr<double>,
                      Arr<std::uint8_t>, Arr<std::int64_t>, std::size_t, const std::vector<double>&, bool, std::uint64_t>(),
             py::arg("feature").noconvert(), py::arg("child").noconvert(), py::arg("depth").noconvert(), py::arg("value").noconvert(),
             py::arg("sums").noconvert(), py::arg("prior").noconvert(), py::arg("last").noconvert(), py::arg("touched").noconvert(),
             py::arg("count").noconvert(), py::arg("columns"), py::arg("numbers"), py::arg("bayes"), py::arg("seed"))
        .def("predict", &Native::predict, py::arg("x").noconvert(), py::arg("gain"), py::arg("votes").noconvert())
        .def("learn", &Native::learn, py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("weight").noconvert(),
             py::arg("order").noconvert(), py::arg("gain"), py::arg("votes").noconvert(), py::arg("hits").noconvert(), py::arg("split"))
        .def("attempt", &Native::attempt);
}
