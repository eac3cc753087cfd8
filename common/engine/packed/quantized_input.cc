#include "common/engine/packed/quantized_input.h"

#include <cstring>

namespace chord::engine {

bool QuantizedInput::Serves(const PackedMatrix& a, const PackedMatrix& b) {
  const PackedHeader &ha = a.header(), &hb = b.header();
  if (ha.inputs != hb.inputs || ha.group != hb.group || ha.has_order != hb.has_order) return false;
  return !ha.has_order ||
         std::memcmp(a.view().order, b.view().order, ha.inputs * sizeof(int32_t)) == 0;
}

void QuantizedInput::Reset(const PackedMatrix& matrix, int64_t rows, int workers) {
  const PackedHeader& shape = matrix.header();
  matrix_ = &matrix;
  stride_ = shape.steps() * kPackedStep;
  groups_ = shape.groups();
  values_.resize(rows * stride_);
  scales_.resize(rows * groups_);
  sums_.resize(rows * groups_);
  if (!shape.has_order) return;
  ordered_.resize(workers);
  for (std::vector<float>& row : ordered_) row.resize(shape.inputs);
}

void QuantizedInput::SetRow(int64_t row, const float* x, int worker) {
  const PackedHeader& shape = matrix_->header();
  if (const int32_t* order = matrix_->view().order; order != nullptr) {
    float* ordered = ordered_[worker].data();
    for (int64_t k = 0; k < shape.inputs; ++k) ordered[k] = x[order[k]];
    x = ordered;
  }
  int8_t* values = values_.data() + row * stride_;
  ChoosePackedKernels().quantize(x, shape.inputs, shape.group, values,
                                 scales_.data() + row * groups_, sums_.data() + row * groups_);
  std::memset(values + shape.inputs, 0, stride_ - shape.inputs);
}

QuantizedRows QuantizedInput::rows() const {
  return {values_.data(), stride_, scales_.data(), sums_.data(), groups_};
}

}  // namespace chord::engine
