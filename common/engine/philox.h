// Philox4x32-10, a counter-based random number generator: the numbers of a (seed, counter) pair are
// a pure function of it. Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011. Used for sampling, so that an answer depends on its seed and on nothing else: not on the
// other sequences of a step, nor on how often a token was computed.
#pragma once

#include <array>
#include <cstdint>

namespace chord::engine {

// The block of four 32-bit numbers of `counter` under `key`.
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Uniform in [0, 1), a multiple of 2^-53. Equal arguments give equal numbers on every machine.
double UniformAt(uint64_t seed, uint64_t index);

}  // namespace chord::engine
