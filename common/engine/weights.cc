#include "common/engine/weights.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/engine/packed/pack_weights.h"
#include "common/engine/packed/stored_weights.h"

namespace chord::engine {

absl::StatusOr<Mat> WeightReader::Matrix(const std::string& name, absl::Span<const int64_t> shape) {
  CHORD_ASSIGN_OR_RETURN(const model::TensorView tensor, checkpoint_.Get(name, shape));
  int64_t cols = 1;
  for (int64_t side : shape.subspan(1)) cols *= side;
  return backend_.AdoptMatrix(tensor, shape[0], cols);
}

absl::StatusOr<Mat> WeightReader::Table(const std::string& name, int64_t rows, int64_t cols) {
  CHORD_ASSIGN_OR_RETURN(const model::TensorView tensor, checkpoint_.Get(name, {rows, cols}));
  return backend_.AdoptTable(tensor, rows, cols);
}

absl::StatusOr<Mat> WeightReader::Vector(const std::string& name, int64_t size) {
  CHORD_ASSIGN_OR_RETURN(const model::TensorView tensor, checkpoint_.Get(name, {size}));
  return backend_.AdoptVector(tensor, size);
}

absl::StatusOr<LinearLayer> WeightReader::Linear(const std::string& name, int64_t out, int64_t in,
                                                 bool bias) {
  LinearLayer layer;
  const std::string weight = absl::StrCat(name, ".weight");
  if (options_.stored && IsStoredQuantized(checkpoint_, name)) {
    CHORD_ASSIGN_OR_RETURN(layer.packed, Cached(weight, out, in, [&] {
                             return PackStoredWeights(checkpoint_, *options_.stored, name, out, in);
                           }));
  } else if (options_.format.packed()) {
    CHORD_ASSIGN_OR_RETURN(layer.packed, Packed(weight, out, in, options_.format));
  } else {
    CHORD_ASSIGN_OR_RETURN(layer.weight, Matrix(weight, {out, in}));
  }
  if (bias) {
    CHORD_ASSIGN_OR_RETURN(layer.bias, Vector(absl::StrCat(name, ".bias"), out));
  }
  return layer;
}

absl::StatusOr<LinearLayer> WeightReader::Head(const std::string& tensor, int64_t out, int64_t in,
                                               bool packed) {
  LinearLayer layer;
  if (packed) {
    CHORD_ASSIGN_OR_RETURN(layer.packed,
                           Packed(tensor, out, in, WeightFormat{WeightFormat::Kind::kInt8}));
  } else {
    CHORD_ASSIGN_OR_RETURN(layer.weight, Matrix(tensor, {out, in}));
  }
  return layer;
}

absl::StatusOr<std::shared_ptr<const PackedMatrix>> WeightReader::Cached(const std::string& name,
                                                                         int64_t out, int64_t in,
                                                                         Packing pack) {
  std::shared_ptr<const PackedMatrix> matrix =
      options_.cache != nullptr ? options_.cache->Find(name) : nullptr;
  if (matrix == nullptr || matrix->outputs() != out || matrix->inputs() != in) {
    CHORD_ASSIGN_OR_RETURN(matrix, pack());
    if (options_.cache != nullptr) options_.cache->Add(name, matrix);
  }
  packed_bytes_ += static_cast<int64_t>(matrix->blob().size());
  return matrix;
}

absl::StatusOr<std::shared_ptr<const PackedMatrix>> WeightReader::Packed(
    const std::string& name, int64_t out, int64_t in, const WeightFormat& format) {
  CHORD_ASSIGN_OR_RETURN(const model::TensorView tensor, checkpoint_.Get(name, {out, in}));
  return Cached(name, out, in, [&]() -> absl::StatusOr<std::shared_ptr<const PackedMatrix>> {
    auto packed = PackWeights(tensor, out, in, format);
    if (packed.ok()) return packed;
    return errors::CheckpointInvalid(absl::StrCat("tensor ", name, " ", packed.status().message()));
  });
}

}  // namespace chord::engine
