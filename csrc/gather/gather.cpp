#include "gather/ops.h"

#include <cstring>

namespace engine::gather {
namespace {

// A line of n elements `step` bytes apart; n as a constant N (else 0), since windows have short ones.
template <class T, std::size_t N>
inline float* line(const char* from, std::ptrdiff_t step, std::size_t n, float* out) {
    if (N) n = N;
    if (!N && step == static_cast<std::ptrdiff_t>(sizeof(T))) {
        for (std::size_t i = 0; i < n; ++i) {
            T value;
            std::memcpy(&value, from + i * sizeof(T), sizeof(T));
            out[i] = static_cast<float>(value);
        }
        return out + n;
    }
    for (std::size_t i = 0; i < n; ++i) {
        T value;
        std::memcpy(&value, from + static_cast<std::ptrdiff_t>(i) * step, sizeof(T));
        out[i] = static_cast<float>(value);
    }
    return out + n;
}

// The last three axes: rows of windows, each some lines of N.
template <class T, std::size_t N>
float* blocks(const char* from, const std::size_t* n, const std::ptrdiff_t* step, float* out) {
    for (std::size_t i = 0; i < n[0]; ++i, from += step[0]) {
        const char* at = from;
        for (std::size_t j = 0; j < n[1]; ++j, at += step[1]) out = line<T, N>(at, step[2], n[2], out);
    }
    return out;
}

}  // namespace

template <class T>
void gather(const Layout& from, float* out) {
    std::size_t n[AXES + 3], at[AXES + 3] = {};
    std::ptrdiff_t step[AXES + 3];
    const int axes = from.axes + 3;  // three axes more, of one element, so that there always are three
    for (int i = 0; i < axes; ++i) {
        n[i] = i < 3 ? 1 : from.shape[i - 3];
        step[i] = i < 3 ? 0 : from.strides[i - 3];
        if (!n[i]) return;
    }
    const int outer = axes - 3;
    const auto inner = n[axes - 1] == 3 ? blocks<T, 3> : n[axes - 1] == 5 ? blocks<T, 5> : n[axes - 1] == 1 ? blocks<T, 1> : blocks<T, 0>;
    const char* data = from.data;
    for (;;) {
        out = inner(data, n + outer, step + outer, out);
        int axis = outer - 1;
        for (; axis >= 0; --axis) {  // the next place of the outer axes
            data += step[axis];
            if (++at[axis] < n[axis]) break;
            data -= static_cast<std::ptrdiff_t>(n[axis]) * step[axis];
            at[axis] = 0;
        }
        if (axis < 0) return;
    }
}

template void gather<float>(const Layout&, float*);
template void gather<double>(const Layout&, float*);
template void gather<std::int8_t>(const Layout&, float*);
template void gather<std::uint8_t>(const Layout&, float*);
template void gather<std::int16_t>(const Layout&, float*);
template void gather<std::uint16_t>(const Layout&, float*);
template void gather<std::int32_t>(const Layout&, float*);
template void gather<std::uint32_t>(const Layout&, float*);
template void gather<std::int64_t>(const Layout&, float*);
template void gather<std::uint64_t>(const Layout&, float*);

}  // namespace engine::gather
