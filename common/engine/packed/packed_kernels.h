// Inner loops over packed weights, one table for each instruction set, chosen when the process
// starts. Activations are quantised as they come: signed bytes with a float32 scale for each row
// and group of inputs. With
//
//   s[g] = Σ u · q over the group's inputs,  sum[g] = Σ q
//
// a product is output_scale · Σ_g ((s[g] − zero[g] · sum[g]) · group_scale[g]) · scale[g]. What is
// in the inner brackets is an exact integer below 2^24; the sum over g is one chain of fused
// multiply-adds in the order of g. So an element has the same bits whatever rows or blocks are
// computed with it; only instruction sets without fused multiply-add differ from those with.
#pragma once

#include <cstdint>

#include "common/engine/packed/packed_matrix.h"

namespace chord::engine {

// Rows of activations. values [rows, stride], zero from the matrix's inputs to its last step;
// scales and sums [rows, groups].
struct QuantizedRows {
  const int8_t* values = nullptr;
  int64_t stride = 0;
  const float* scales = nullptr;
  const int32_t* sums = nullptr;
  int64_t groups = 0;
};

struct PackedKernels {
  const char* instruction_set;

  // x [n] -> values [n], and scale and sum of each group. A group whose values are not all finite
  // gets the scale NaN, one of zeros (or of less than 1e-30) the scale 0.
  void (*quantize)(const float* x, int64_t n, int64_t group, int8_t* values, float* scales,
                   int32_t* sums);
  // Outputs of one block for rows [row, row + rows) of x: out[r · ld_out + j], j < 64 or what the
  // last block has.
  void (*products)(const PackedView& w, int64_t block, const QuantizedRows& x, int64_t row,
                   int64_t rows, float* out, int64_t ld_out);

  // For packing. `n` is a multiple of 16.
  // The value of the largest size, with its sign; NaN when one of them is not finite.
  float (*largest)(const float* w, int64_t n);
  // The scale that puts w nearest to scale · {−8 … 7}, in squares, among a few.
  float (*fit_int4)(const float* w, int64_t n, float largest);
  // u = round(w · inverse_scale) + zero, within [0, 2 · zero).
  void (*round_weights)(const float* w, int64_t n, float inverse_scale, int zero, uint8_t* u);
};

namespace packed_portable {
extern const PackedKernels kKernels;
}
namespace packed_avx2 {
extern const PackedKernels kKernels;
}
namespace packed_vnni {
extern const PackedKernels kKernels;
}

// The best this processor runs.
const PackedKernels& ChoosePackedKernels();

}  // namespace chord::engine
