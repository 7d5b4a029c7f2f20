// Table of contents of engine.kernels._native: one register function a family, each in its own file.
#include <pybind11/pybind11.h>

#include "kernel.h"

namespace py = pybind11;

void bind_check(py::module_&);
void bind_score(py::module_&);
void bind_parse(py::module_&);
void bind_learn(py::module_&);
void bind_entropy(py::module_&);
void bind_quant(py::module_&);
void bind_sparse(py::module_&);
void bind_route(py::module_&);
void bind_table(py::module_&);
void bind_serve(py::module_&);
void bind_parity(py::module_&);
void bind_factor(py::module_&);
void bind_forest(py::module_&);
void bind_stats(py::module_&);
void bind_delta(py::module_&);
void bind_clean(py::module_&);
void bind_text(py::module_&);
void bind_gather(py::module_&);

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
    m.doc() = "Native kernels; see engine.kernels for their definitions.";
    m.def("isa", [] { return engine::isa_name(engine::isa()); }, "Instruction set in use: base, avx2, avx512 or neon.");
    m.def("isa_runs", [] {
        py::list levels;
        for (int i = 0; i < 4; ++i)
            if (engine::isa_runs(static_cast<engine::Isa>(i))) levels.append(engine::isa_name(static_cast<engine::Isa>(i)));
        return levels;
    }, "Instruction sets this CPU and build can run.");
    bind_check(m);
    bind_score(m);
    bind_parse(m);
    bind_clean(m);
    bind_text(m);
    bind_gather(m);
    bind_learn(m);
    bind_entropy(m);
    bind_quant(m);
    bind_sparse(m);
    bind_route(m);
    bind_table(m);
    bind_serve(m);
    bind_parity(m);
    bind_factor(m);
    bind_forest(m);
    bind_stats(m);
    bind_delta(m);
}
