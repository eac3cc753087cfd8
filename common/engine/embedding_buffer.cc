#include "common/engine/embedding_buffer.h"

#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/engine/cpu/widen.h"
#include "common/engine/torch/torch_guard.h"

namespace chord::engine {
namespace {

using model::DType;

// The largest magnitude that stays finite in the compute dtype.
float LargestFinite(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return 65'504.0f;
    case DType::kBFloat16:
      return 0x1.FEp+127f;
    default:
      return std::numeric_limits<float>::max();
  }
}

}  // namespace

DeviceEmbeddings::DeviceEmbeddings(std::shared_ptr<Backend> backend, int64_t rows, int64_t width,
                                   DType source_dtype)
    : backend_(std::move(backend)),
      source_dtype_(source_dtype),
      owned_(backend_->AllocateOwned(rows, width, backend_->dtype())) {}

absl::Status DeviceEmbeddings::Write(int64_t offset, absl::Span<const std::byte> data) {
  CHORD_RETURN_IF_ERROR(status_);
  status_ = Guard([&] { return TryWrite(offset, data); });
  return status_;
}

absl::Status DeviceEmbeddings::TryWrite(int64_t offset, absl::Span<const std::byte> data) {
  const int64_t size = model::SizeOf(source_dtype_);
  const int64_t total = owned_.mat.rows * owned_.mat.cols * size;
  const auto bytes = static_cast<int64_t>(data.size());
  if (offset < 0 || offset > total || bytes > total - offset || offset % size != 0 ||
      bytes % size != 0) {
    return errors::EmbeddingMismatch("bytes");
  }
  const int64_t count = bytes / size;
  // Not a member: buffers are kept by the hundred, and each would hold its rows twice.
  const auto wide = std::make_unique_for_overwrite<float[]>(count);
  Widen(source_dtype_, data, wide.get());
  const float limit = LargestFinite(backend_->dtype());
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) finite &= std::abs(wide[i]) <= limit;  // false for NaN
  if (!finite) return errors::EmbeddingNotFinite();
  if (count > 0) backend_->UploadFlat(wide.get(), offset / size, count, owned_.mat);
  return absl::OkStatus();
}

}  // namespace chord::engine
