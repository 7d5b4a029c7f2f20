// Slabs and nodes as Python sees them; they keep the memory they look at alive.
#pragma once
#include "bind/array.h"
#include "learn/ops.h"
#include "table/node.h"

struct PySlab {
    Arr<std::uint8_t> memory;
    engine::table::Slab slab;
    explicit PySlab(Arr<std::uint8_t> bytes);
};

struct PyNode {
    std::vector<Arr<std::uint8_t>> held;
    std::vector<py::object> arrays;
    Arr<std::int16_t> place;
    Arr<float> init;
    engine::learn::Rule rule{};  // and how pushes are merged, where the rows are a learner's
    engine::learn::Merge how{};
    engine::table::Node node{};
};
