// Tensors of a checkpoint -> what a model computes with, by canonical name and exact shape:
// matrices of a backend, or packed weights.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/engine/backend.h"
#include "common/engine/packed/packed_cache.h"
#include "common/engine/weight_format.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace chord::engine {

class WeightReader {
 public:
  struct Options {
    WeightFormat format = {};  // of the linear layers; another one than kStored needs the CPU
    // How the checkpoint stores some of them quantised. Those keep their values whatever the
    // format.
    std::optional<model::Quantization> stored = {};
    PackedCache* cache = nullptr;  // where packed weights are looked for and remembered; not owned
  };
  WeightReader(const model::Checkpoint& checkpoint, Backend& backend, Options options)
      : checkpoint_(checkpoint), backend_(backend), options_(std::move(options)) {}

  // A tensor of `shape`, seen as [shape[0], the rest], as the backend holds it.
  absl::StatusOr<Mat> Matrix(const std::string& name, absl::Span<const int64_t> shape);
  // Of which only rows are read.
  absl::StatusOr<Mat> Table(const std::string& name, int64_t rows, int64_t cols);
  absl::StatusOr<Mat> Vector(const std::string& name, int64_t size);
  // `name`.weight and, with `bias`, `name`.bias.
  absl::StatusOr<LinearLayer> Linear(const std::string& name, int64_t out, int64_t in, bool bias);
  // The matrix of the logits. `packed`, it is int8 in any format: errors of it are errors of the
  // answer, and confidence is made of it.
  absl::StatusOr<LinearLayer> Head(const std::string& tensor, int64_t out, int64_t in, bool packed);

  int64_t packed_bytes() const { return packed_bytes_; }

 private:
  using Packing = absl::FunctionRef<absl::StatusOr<std::shared_ptr<const PackedMatrix>>()>;
  // The matrix of that name and shape from the cache, else what `pack` makes.
  absl::StatusOr<std::shared_ptr<const PackedMatrix>> Cached(const std::string& name, int64_t out,
                                                             int64_t in, Packing pack);
  absl::StatusOr<std::shared_ptr<const PackedMatrix>> Packed(const std::string& name, int64_t out,
                                                             int64_t in,
                                                             const WeightFormat& format);

  const model::Checkpoint& checkpoint_;
  Backend& backend_;
  const Options options_;
  int64_t packed_bytes_ = 0;
};

}  // namespace chord::engine
