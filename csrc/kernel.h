// Every native operation of the engine, once: a struct of function pointers per family, filled for one ISA.
// Law of csrc: arrays in, arrays out. No Python, no MPI, no allocation, no throw, no threads outside bind/, serve/ and embed/ (the shim of hosts).
#pragma once
#include <cstddef>
#include <cstdint>

namespace engine {

enum class Isa : int { base = 0, avx2 = 1, avx512 = 2, neon = 3 };

// Best ISA of this CPU, or what ENGINE_SIMD=base|avx2|avx512|neon asks for where the CPU has it.
Isa isa();
const char* isa_name(Isa level);
// True if this build and this CPU can run `level`.
bool isa_runs(Isa level);

}  // namespace engine
