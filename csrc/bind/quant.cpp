#include "bind/feed.h"

using namespace engine::quant;

using Floats = Arr<float>;

namespace {

constexpr const char* mode_names[] = {"sign", "ternary", "int2", "int4", "int8", "int2s", "int4s", "int8s"};
constexpr int mode_bits[] = {1, 2, 2, 4, 8, 2, 4, 8};
constexpr const char* narrow_names[] = {"bf16", "fp16", "fp8"};

template <std::size_t N>
int find(const char* const (&names)[N], const std::string& name) {
    for (std::size_t i = 0; i < N; ++i)
        if (name == names[i]) return static_cast<int>(i);
    throw py::value_error("unknown mode " + name);
}

void fits(int mode, std::size_t n, std::size_t block, py::ssize_t payload, py::ssize_t scales) {
    need(block >= group && block <= largest && block % group == 0, "quant: expected a block of 64..4096, a multiple of 64");
    need(static_cast<std::size_t>(payload) == (n + 63) / 64 * 8 * static_cast<std::size_t>(mode_bits[mode]), "quant: payload has the wrong size");
    need(static_cast<std::size_t>(scales) == (n + block - 1) / block, "quant: expected one scale a block");
}

}  // namespace

void bind_quant(py::module_& m) {
    m.def("quant_encode", [](const std::string& mode, const Source& g, Floats& e, std::size_t block, Arr<std::uint8_t>& out,
                             Floats& scales, std::uint64_t key, std::uint64_t counter, const std::string& isa) {
        const int at = find(mode_names, mode);
        const auto n = static_cast<std::size_t>(e.size());
        fits(at, n, block, out.size(), scales.size());
        need(counter % group == 0, "quant: counter must be a multiple of 64");
        const Feed feed(g, e);
        float *residual = writable(e), *scale = writable(scales);
        auto* payload = writable(out);
        const auto& table = ops(level(isa));
        py::gil_scoped_release release;
        return feed.run(table, n, largest / block * block, [&](const float* x, std::size_t from, std::size_t count) {
            return table.encode[at](x, residual + from, count, block, payload + from / 8 * static_cast<std::size_t>(mode_bits[at]),
                                    scale + from / block, {std::uint32_t(key), std::uint32_t(key >> 32), counter + from});
        });
    }, py::arg("mode"), py::arg("g").noconvert().none(true), py::arg("e").noconvert(), py::arg("block"), py::arg("out").noconvert(),
       py::arg("scales").noconvert(), py::arg("key") = 0, py::arg("counter") = 0, py::kw_only(), py::arg("isa") = "");
    m.def("quant_decode_add", [](const std::string& mode, const Arr<std::uint8_t>& payload, const Floats& scales, std::size_t block, Floats& acc,
                                 const std::string& isa) {
        const int at = find(mode_names, mode);
        const auto n = static_cast<std::size_t>(acc.size());
        fits(at, n, block, payload.size(), scales.size());
        float* sum = writable(acc);
        const auto* in = payload.data();
        const float* scale = scales.data();
        const auto& table = ops(level(isa));
        py::gil_scoped_release release;
        table.decode[at](in, scale, n, block, sum);
    }, py::arg("mode"), py::arg("payload").noconvert(), py::arg("scales").noconvert(), py::arg("block"), py::arg("acc").noconvert(),
       py::kw_only(), py::arg("isa") = "");
    m.def("cast_encode", [](const std::string& mode, const Source& g, Floats& e, Arr<std::uint8_t>& out, const std::string& isa) {
        const int at = find(narrow_names, mode);
        const auto n = static_cast<std::size_t>(e.size());
        need(static_cast<std::size_t>(out.size()) == n * (at == fp8 ? 1 : 2), "cast: out has the wrong size");
        const Feed feed(g, e);
        float* residual = writable(e);
        auto* payload = writable(out);
        const auto& table = ops(level(isa));
        py::gil_scoped_release release;
        return feed.run(table, n, largest, [&](const float* x, std::size_t from, std::size_t count) {
            return table.cast[at](x, residual + from, count, payload + from * (at == fp8 ? 1 : 2));
        });
    }, py::arg("mode"), py::arg("g").noconvert().none(true), py::arg("e").noconvert(), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("cast_decode_add", [](const std::string& mode, const Arr<std::uint8_t>& payload, Floats& acc, const std::string& isa) {
        const int at = find(narrow_names, mode);
        const auto n = static_cast<std::size_t>(acc.size());
        need(static_cast<std::size_t>(payload.size()) == n * (at == fp8 ? 1 : 2), "cast: payload has the wrong size");
        const auto* in = payload.data();
        float* sum = writable(acc);
        const auto& table = ops(level(isa));
        py::gil_scoped_release release;
        table.widen[at](in, n, sum);
    }, py::arg("mode"), py::arg("payload").noconvert(), py::arg("acc").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("shared_encode", [](const Source& g, Floats& e, float top, std::uint32_t levels, Arr<std::uint8_t>& out, int bits,
                              const std::string& isa) {
        const auto n = static_cast<std::size_t>(e.size());
        need(bits == 8 || bits == 16 || bits == 32, "shared: expected 8, 16 or 32 bits");
        need(levels >= 1 && levels <= (bits == 8 ? 127u : bits == 16 ? 32767u : 1u << 21), "shared: levels do not fit the bits");
        need(static_cast<std::size_t>(out.size()) == n * static_cast<std::size_t>(bits / 8), "shared: out has the wrong size");
        const Feed feed(g, e);
        float* residual = writable(e);
        auto* payload = writable(out);
        const auto& table = ops(level(isa));
        const auto l = static_cast<float>(levels);
        const bool tiny = !(top >= 1e-30f);
        py::gil_scoped_release release;
        return feed.run(table, n, largest, [&](const float* x, std::size_t from, std::size_t count) {
            return table.shared[bits / 16](x, residual + from, count, tiny ? 0 : l / top, tiny ? 0 : top / l, l,
                                           payload + from * static_cast<std::size_t>(bits / 8));
        });
    }, py::arg("g").noconvert().none(true), py::arg("e").noconvert(), py::arg("top"), py::arg("levels"), py::arg("out").noconvert(), py::arg("bits"),
       py::kw_only(), py::arg("isa") = "");
    m.def("shared_add", [](const Arr<std::uint8_t>& codes, float scale, Floats& acc, int bits, const std::string& isa) {
        need(bits == 8 || bits == 16 || bits == 32, "shared: expected 8, 16 or 32 bits");
        const auto n = static_cast<std::size_t>(acc.size());
        need(static_cast<std::size_t>(codes.size()) == n * static_cast<std::size_t>(bits / 8), "shared: codes have the wrong size");
        const auto* in = codes.data();
        float* sum = writable(acc);
        const auto& table = ops(level(isa));
        py::gil_scoped_release release;
        table.shared_add[bits / 16](in, n, scale, sum);
    }, py::arg("codes").noconvert(), py::arg("scale"), py::arg("acc").noconvert(), py::arg("bits"), py::kw_only(), py::arg("isa") = "");
    m.def("shared_peak", [](const Source& g, const Floats& e, const std::string& isa) {
        const Feed feed(g, e);
        need(feed.data || !e.size(), "shared: expected g");
        const float* residual = e.data();
        const auto n = static_cast<std::size_t>(e.size());
        const auto& table = ops(level(isa));
        py::gil_scoped_release release;
        float top = 0;
        feed.run(table, n, largest, [&](const float* x, std::size_t from, std::size_t count) {
            const float part = table.peak(x, residual + from, count);
            top = part > top ? part : top;
            return std::size_t(0);
        });
        return top;
    }, py::arg("g").noconvert(), py::arg("e").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("quantise", [](const Floats& x, float inverse, float zero, Arr<std::uint8_t>& out, const std::string& isa) {
        need(x.size() == out.size(), "quantise: x and out differ in size");
        const float* in = x.data();
        auto* code = writable(out);
        const auto n = static_cast<std::size_t>(x.size());
        const auto& table = ops(level(isa));
        py::gil_scoped_release release;
        table.quantise(in, n, inverse, zero, code);
    }, py::arg("x").noconvert(), py::arg("inverse"), py::arg("zero"), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("widen", [](const py::array& x, Floats& out, const std::string& isa) {
        const Feed feed(x, out);
        need(feed.size != 4, "widen: expected float64, or bfloat16 as uint16");
        float* to = writable(out);
        const auto n = static_cast<std::size_t>(out.size());
        const auto& table = ops(level(isa));
        py::gil_scoped_release release;
        feed.widen(table, 0, n, to);
    }, py::arg("x").noconvert(), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("add", [](const Floats& g, Floats& e, const std::string& isa) {
        need(g.size() == e.size(), "add: g and e differ in size");
        const float* x = g.data();
        float* y = writable(e);
        const auto n = static_cast<std::size_t>(e.size());
        const auto& table = ops(level(isa));
        py::gil_scoped_release release;
        table.add(x, y, n);
    }, py::arg("g").noconvert(), py::arg("e").noconvert(), py::kw_only(), py::arg("isa") = "");
}
