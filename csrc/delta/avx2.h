#pragma once
#pragma GCC push_options
#pragma GCC target("avx2,bmi2,popcnt,lzcnt")

namespace engine::delta::avx2 {

#include "delta/loops.h"

}  // namespace engine::delta::avx2
#pragma GCC pop_options
