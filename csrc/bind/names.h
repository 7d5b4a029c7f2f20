// Learners and merge rules by name.
#pragma once
#include <string>

#include "bind/array.h"
#include "learn/ops.h"

namespace engine::learn {

constexpr const char* learner_names[] = {"sgd", "adagrad", "ftrl", "nag", "pa1", "pa2"};
constexpr const char* merge_names[] = {"owner", "add", "average", "touch", "conflict"};

template <class E, std::size_t N>
E named(const std::string& name, const char* const (&names)[N], const char* what) {
    for (std::size_t i = 0; i < N; ++i)
        if (name == names[i]) return static_cast<E>(i);
    throw py::value_error(std::string("unknown ") + what + " " + name);
}

}  // namespace engine::learn
