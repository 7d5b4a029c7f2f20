// The gradient argument of the error-feedback kernels.
#pragma once
#include <pybind11/stl.h>

#include "bind/array.h"
#include "quant/ops.h"

// The gradient as flat float32 (or None: x = e), float64, or bfloat16 as its uint16 bits; `call(g, at, count)` gets float32
// pieces of `step` elements of the latter two, widened into L1.
using Source = std::optional<py::array>;

struct Feed {
    const void* data = nullptr;
    int size = 4;

    Feed(const Source& g, const Arr<float>& e) {
        if (!g) return;
        const auto kind = g->dtype().char_();
        need(kind == 'f' || kind == 'd' || kind == 'H', "quant: expected g of float32, float64 or uint16 (the bits of bfloat16)");
        need(g->dtype().byteorder() != '>', "quant: expected g in this machine's byte order");
        need((g->flags() & py::array::c_style) && g->size() == e.size(), "quant: g and e differ in size, or g is not contiguous");
        data = g->data();
        size = static_cast<int>(g->itemsize());
    }

    void widen(const engine::quant::Ops& table, std::size_t at, std::size_t count, float* out) const {
        if (size == 2) table.from_bf16(static_cast<const std::uint16_t*>(data) + at, count, out);
        else table.from_f64(static_cast<const double*>(data) + at, count, out);
    }

    template <class Call>
    std::size_t run(const engine::quant::Ops& table, std::size_t n, std::size_t step, Call call) const {
        if (size == 4) return call(static_cast<const float*>(data), std::size_t(0), n);
        alignas(64) float piece[engine::quant::largest];
        std::size_t bad = 0;
        for (std::size_t at = 0; at < n; at += step) {
            const std::size_t count = n - at < step ? n - at : step;
            widen(table, at, count, piece);
            bad += call(piece, at, count);
        }
        return bad;
    }
};
