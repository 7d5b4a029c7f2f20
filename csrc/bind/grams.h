// How the bindings take n-grams: orders of words, orders of characters, weight; all 0 where there is no text.
#pragma once
#include <pybind11/stl.h>

#include <array>
#include <vector>

#include "bind/array.h"
#include "text/ops.h"

using Orders = std::array<int, 5>;

inline engine::text::Grams grams_of(const Orders& o) {
    const auto span = [](int lo, int hi) { return hi == 0 || (lo >= 1 && lo <= hi && hi <= engine::text::most); };
    need(span(o[0], o[1]) && span(o[2], o[3]) && o[4] >= 0 && o[4] <= 4, "text: orders 1..8, least first, and a weight 0..4");
    return {o[0], o[1], o[2], o[3], static_cast<engine::text::Weigh>(o[4])};
}

inline std::vector<engine::text::Slot> seen_of(const engine::text::Grams& g, std::size_t longest) {
    return std::vector<engine::text::Slot>(longest ? engine::text::slots(g, longest) : 0);
}
