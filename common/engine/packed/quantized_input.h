// Rows of activations on their way into packed products: quantised, in the order in which the
// weights' inputs stand.
#pragma once

#include <cstdint>
#include <vector>

#include "common/engine/packed/packed_kernels.h"

namespace chord::engine {

// Keeps its memory from use to use. SetRow may run on several threads at once, for different rows
// and workers; the rest is not thread-safe.
class QuantizedInput {
 public:
  // True when what was made for one of the two serves the other.
  static bool Serves(const PackedMatrix& a, const PackedMatrix& b);

  // Makes room for `rows` rows for `matrix`, which must live until the next Reset.
  void Reset(const PackedMatrix& matrix, int64_t rows, int workers);
  // x: matrix.inputs() values.
  void SetRow(int64_t row, const float* x, int worker);
  QuantizedRows rows() const;

 private:
  const PackedMatrix* matrix_ = nullptr;
  int64_t stride_ = 0, groups_ = 0;
  std::vector<int8_t> values_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
  std::vector<std::vector<float>> ordered_;  // a row for each worker
};

}  // namespace chord::engine
