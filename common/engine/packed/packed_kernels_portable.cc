// The floor: any processor. The compiler may use what the build's own target has.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/engine/half.h"
#include "common/engine/packed/packed_kernels.h"

namespace chord::engine::packed_portable {
namespace {

#include "common/engine/packed/packed_rounding.inc"

// The bytes of a step as 64 outputs of 4 inputs.
inline const uint8_t* StepOf(const PackedHeader& shape, const uint8_t* step, uint8_t* unpacked) {
  if (shape.bits == 8) return step;
  for (int64_t plane = 0; plane < 2; ++plane, step += 64, unpacked += 128) {
    for (int64_t i = 0; i < 64; ++i) {
      unpacked[i] = step[i] & 15;
      unpacked[64 + i] = step[i] >> 4;
    }
  }
  return unpacked - 256;
}

void Row(const PackedView& w, int64_t block, const int8_t* q, const float* scales,
         const int32_t* sums, float* out) {
  const PackedHeader& shape = w.shape;
  const int64_t steps = shape.steps(), group_steps = shape.group / kPackedStep;
  const uint8_t* weights = w.weights + block * steps * shape.step_bytes();
  float total[kPackedBlock] = {};
  uint8_t unpacked[kPackedBlock * kPackedStep];
  for (int64_t g = 0; g < shape.groups(); ++g) {
    int32_t dot[kPackedBlock] = {};
    const int64_t end = (g + 1) * group_steps < steps ? (g + 1) * group_steps : steps;
    for (int64_t step = g * group_steps; step < end; ++step, weights += shape.step_bytes()) {
      const uint8_t* u = StepOf(shape, weights, unpacked);
      const int8_t* x = q + step * kPackedStep;
      for (int64_t j = 0; j < kPackedBlock; ++j, u += kPackedStep) {
        dot[j] += u[0] * x[0] + u[1] * x[1] + u[2] * x[2] + u[3] * x[3];
      }
    }
    const int64_t at = (block * shape.groups() + g) * kPackedBlock;
    for (int64_t j = 0; j < kPackedBlock; ++j) {
      const int zero = w.zeros != nullptr ? w.zeros[at + j] : 1 << (shape.bits - 1);
      auto value = static_cast<float>(dot[j] - zero * sums[g]);
      if (w.group_scales != nullptr) value *= HalfToFloat(w.group_scales[at + j]);
      total[j] = std::fma(value, scales[g], total[j]);
    }
  }
  const int64_t first = block * kPackedBlock;
  for (int64_t j = 0; j < kPackedBlock && first + j < shape.outputs; ++j) {
    out[j] = total[j] * w.output_scales[first + j];
  }
}

void Products(const PackedView& w, int64_t block, const QuantizedRows& x, int64_t row, int64_t rows,
              float* out, int64_t ld_out) {
  for (int64_t r = row; r < row + rows; ++r, out += ld_out) {
    Row(w, block, x.values + r * x.stride, x.scales + r * x.groups, x.sums + r * x.groups, out);
  }
}

}  // namespace

const PackedKernels kKernels = {"portable", Quantize, Products, Largest, FitInt4, RoundWeights};

}  // namespace chord::engine::packed_portable
