#include "common/engine/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>
#include <c10/core/InferenceMode.h>

#include <cstring>

#include "common/engine/torch/torch_types.h"

namespace chord::engine {
namespace {

std::vector<float> ToVector(const at::Tensor& tensor, model::DType round_to) {
  const at::Tensor rounded = tensor.to(ToTorch(round_to)).to(at::kFloat).contiguous();
  const float* data = rounded.const_data_ptr<float>();
  return {data, data + rounded.numel()};
}

}  // namespace

RopeTable MakeRopeTable(double theta, int64_t dim, int64_t positions, model::DType round_to) {
  const c10::InferenceMode inference;
  const at::Tensor exponents = at::arange(0, dim, 2, at::kFloat) / static_cast<double>(dim);
  const at::Tensor inv_freq = at::pow(at::Scalar(theta), exponents).reciprocal();
  const at::Tensor angles =
      at::arange(0, positions, 1, at::kFloat).unsqueeze(1) * inv_freq.unsqueeze(0);
  return {positions, dim / 2, ToVector(at::cos(angles), round_to),
          ToVector(at::sin(angles), round_to)};
}

std::vector<int> RopeAxes(absl::Span<const int> mrope_section) {
  std::vector<int> axes;
  for (size_t i = 0; i < mrope_section.size(); ++i) {
    axes.insert(axes.end(), mrope_section[i], static_cast<int>(i % 3));
  }
  return axes;
}

void AssembleMrope(const RopeTable& table, absl::Span<const int> axes,
                   absl::Span<const int32_t> positions, int64_t n, float* cos, float* sin) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < table.freqs; ++k) {
      const int64_t at = positions[axes[k] * n + i] * table.freqs + k;
      *cos++ = table.cos[at];
      *sin++ = table.sin[at];
    }
  }
}

}  // namespace chord::engine
