// Rotary tables, computed by the same operators as the reference so that they are equal bit for
// bit. float32 always (spec §4.9).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/model/checkpoint.h"

namespace chord::engine {

// cos[p·freqs + k] and sin of p·θ^(−2k/dim), p in [0, positions), k in [0, dim/2).
struct RopeTable {
  int64_t positions = 0;
  int64_t freqs = 0;
  std::vector<float> cos;
  std::vector<float> sin;
};
// `round_to`: the values are rounded to it and widened again (spec §4.5: the language model's are
// cast to the compute dtype, the vision tower's stay float32).
RopeTable MakeRopeTable(double theta, int64_t dim, int64_t positions, model::DType round_to);

// Axis (0 T, 1 H, 2 W) of each of the head_dim/2 frequencies: consecutive chunks (spec §4.5).
std::vector<int> RopeAxes(absl::Span<const int> mrope_section);

// Assembles cos, sin [n, freqs] of tokens at positions [3, n].
void AssembleMrope(const RopeTable& table, absl::Span<const int> axes,
                   absl::Span<const int32_t> positions, int64_t n, float* cos, float* sin);

}  // namespace chord::engine
