// An array of any layout and number, as float32 in C order: what np.ascontiguousarray(view, np.float32) gives.
#pragma once
#include "kernel.h"

namespace engine::gather {

constexpr int AXES = 8;

// Strides in bytes, which may overlap or be negative.
struct Layout {
    const char* data;
    int axes;
    std::size_t shape[AXES];
    std::ptrdiff_t strides[AXES];
};

// `out` holds as many float32 as the layout has elements. T: float, double, or an integer of 8 to 64 bits.
template <class T>
void gather(const Layout& from, float* out);

}  // namespace engine::gather
