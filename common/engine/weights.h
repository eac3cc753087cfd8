// Tensors of a checkpoint -> what a model computes with, by canonical name and exact shape:
// matrices of a backend, or packed weights.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/engine/backend.h"
#include "common/engine/weight_format.h"
#include "common/model/checkpoint.h"

namespace chord::engine {

class WeightReader {
 public:
  // `format`: of the linear layers. Another one than kStored needs the CPU's backend.
  WeightReader(const model::Checkpoint& checkpoint, Backend& backend,
               const WeightFormat& format = {})
      : checkpoint_(checkpoint), backend_(backend), format_(format) {}

  // A tensor of `shape`, seen as [shape[0], the rest], as the backend holds it.
  absl::StatusOr<Mat> Matrix(const std::string& name, absl::Span<const int64_t> shape);
  absl::StatusOr<Mat> Vector(const std::string& name, int64_t size);
  // `name`.weight and, with `bias`, `name`.bias.
  absl::StatusOr<LinearLayer> Linear(const std::string& name, int64_t out, int64_t in, bool bias);
  // The matrix of the logits. Packed, it is int8 in any format: errors of it are errors of the
  // answer, and confidence is made of it.
  absl::StatusOr<LinearLayer> Head(const std::string& tensor, int64_t out, int64_t in);

  int64_t packed_bytes() const { return packed_bytes_; }

 private:
  absl::StatusOr<std::shared_ptr<const PackedMatrix>> Packed(const std::string& name, int64_t out,
                                                             int64_t in,
                                                             const WeightFormat& format);

  const model::Checkpoint& checkpoint_;
  Backend& backend_;
  const WeightFormat format_;
  int64_t packed_bytes_ = 0;
};

}  // namespace chord::engine
