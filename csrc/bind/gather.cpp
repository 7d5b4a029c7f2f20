#include "gather/ops.h"

#include "bind/array.h"

namespace {

using namespace engine::gather;

template <class... T>
bool gathered(const py::array& view, const Layout& from, float* out) {
    const auto run = [&](auto kind) {
        using K = decltype(kind);
        if (!py::dtype::of<K>().is(view.dtype()) && !py::dtype::of<K>().equal(view.dtype())) return false;
        py::gil_scoped_release release;
        gather<K>(from, out);
        return true;
    };
    return (run(T{}) || ...);
}

}  // namespace

void bind_gather(py::module_& m) {
    m.def("gather", [](const py::array& view, Arr<float>& out) {
        need(view.ndim() <= AXES, "gather: expected at most 8 axes");
        need(view.size() == out.size(), "gather: out and view differ in size");
        Layout from{static_cast<const char*>(view.data()), static_cast<int>(view.ndim()), {}, {}};
        for (int i = 0; i < from.axes; ++i) from.shape[i] = static_cast<std::size_t>(view.shape(i)), from.strides[i] = view.strides(i);
        float* to = writable(out);
        need(gathered<double, float, std::int32_t, std::int64_t, std::uint8_t, std::int8_t, std::int16_t, std::uint16_t, std::uint32_t, std::uint64_t>(view, from, to),
             "gather: expected float32, float64 or an integer");
    }, py::arg("view").noconvert(), py::arg("out").noconvert());
}
