// The EmbeddingBuffer of language_model.h over a backend's memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "common/engine/backend.h"
#include "common/engine/language_model.h"

namespace chord::engine {

class DeviceEmbeddings final : public EmbeddingBuffer {
 public:
  DeviceEmbeddings(std::shared_ptr<Backend> backend, int64_t rows, int64_t width,
                   model::DType source_dtype);

  absl::Status Write(int64_t offset, absl::Span<const std::byte> data) override;
  int64_t rows() const override { return owned_.mat.rows; }

  const Mat& mat() const { return owned_.mat; }
  // Not OK once a Write has failed.
  const absl::Status& status() const { return status_; }

 private:
  absl::Status TryWrite(int64_t offset, absl::Span<const std::byte> data);

  const std::shared_ptr<Backend> backend_;
  const model::DType source_dtype_;
  const Backend::Owned owned_;
  absl::Status status_;
};

}  // namespace chord::engine
