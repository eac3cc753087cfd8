// Tensors of a checkpoint -> matrices of a backend, by canonical name and exact shape.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/base/status_macros.h"
#include "common/engine/backend.h"
#include "common/model/checkpoint.h"

namespace chord::engine {

class WeightReader {
 public:
  WeightReader(const model::Checkpoint& checkpoint, Backend& backend)
      : checkpoint_(checkpoint), backend_(backend) {}

  // A tensor of `shape`, seen as [shape[0], the rest].
  absl::StatusOr<Mat> Matrix(const std::string& name, absl::Span<const int64_t> shape) {
    CHORD_ASSIGN_OR_RETURN(const model::TensorView tensor, checkpoint_.Get(name, shape));
    int64_t cols = 1;
    for (int64_t side : shape.subspan(1)) cols *= side;
    return backend_.AdoptMatrix(tensor, shape[0], cols);
  }
  absl::StatusOr<Mat> Vector(const std::string& name, int64_t size) {
    CHORD_ASSIGN_OR_RETURN(const model::TensorView tensor, checkpoint_.Get(name, {size}));
    return backend_.AdoptVector(tensor, size);
  }
  absl::StatusOr<LinearLayer> Linear(const std::string& name, int64_t out, int64_t in, bool bias) {
    LinearLayer layer;
    CHORD_ASSIGN_OR_RETURN(layer.weight, Matrix(absl::StrCat(name, ".weight"), {out, in}));
    if (bias) {
      CHORD_ASSIGN_OR_RETURN(layer.bias, Vector(absl::StrCat(name, ".bias"), out));
    }
    return layer;
  }

 private:
  const model::Checkpoint& checkpoint_;
  Backend& backend_;
};

}  // namespace chord::engine
