// What every binding shares: exact array types (no silent copy), size checks, and the choice of ISA.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "kernel.h"

namespace py = pybind11;

// C-contiguous array of exactly T. Bind each argument with `.noconvert()`: pybind11 otherwise copies, and `out` is lost.
template <class T>
using Arr = py::array_t<T, py::array::c_style>;

inline void need(bool ok, const char* message) {
    if (!ok) throw py::value_error(message);
}

template <class T>
T* writable(Arr<T>& array) { return array.mutable_data(); }  // throws on a read-only array

// Bindings take `isa` as an optional name, so that tests can compare every path in one process.
inline engine::Isa level(const std::string& name) {
    if (name.empty()) return engine::isa();
    for (int i = 0; i < 4; ++i) {
        auto l = static_cast<engine::Isa>(i);
        if (name == engine::isa_name(l)) {
            if (!engine::isa_runs(l)) throw py::value_error("this CPU or build cannot run isa=" + name);
            return l;
        }
    }
    throw py::value_error("unknown isa " + name + "; one of base, avx2, avx512, neon");
}
