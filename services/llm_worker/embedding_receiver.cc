#include "services/llm_worker/embedding_receiver.h"

#include <cstddef>
#include <utility>

#include "common/base/checked_math.h"
#include "common/base/crc32c.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace chord::llm_worker {

absl::Status CheckHeader(const PushHeader& header, const EmbeddingShape& reserved) {
  if (header.model_fingerprint != reserved.model_fingerprint) return errors::ModelMismatch();
  if (!(header.grid == reserved.grid)) return errors::EmbeddingMismatch("grid");
  if (header.rows != reserved.rows || header.rows <= 0) return errors::EmbeddingMismatch("rows");
  if (header.width != reserved.width || header.width <= 0) {
    return errors::EmbeddingMismatch("width");
  }
  if (header.dtype != model::DType::kFloat32 && header.dtype != model::DType::kBFloat16 &&
      header.dtype != model::DType::kFloat16) {
    return errors::EmbeddingMismatch("dtype");
  }
  const auto values = CheckedMul(header.rows, int64_t{header.width});
  const auto bytes = values ? CheckedMul(*values, model::SizeOf(header.dtype)) : std::nullopt;
  if (!bytes || *bytes != header.total_bytes) return errors::EmbeddingMismatch("bytes");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<EmbeddingReceiver>> EmbeddingReceiver::Begin(
    std::shared_ptr<Reservation> reservation, const PushHeader& header, Allocate allocate) {
  CHORD_RETURN_IF_ERROR(reservation->BeginReceive());
  if (auto status = CheckHeader(header, reservation->shape()); !status.ok()) {
    reservation->WriterLeft(status);
    return status;
  }
  return std::unique_ptr<EmbeddingReceiver>(
      new EmbeddingReceiver(std::move(reservation), header, std::move(allocate)));
}

EmbeddingReceiver::~EmbeddingReceiver() { Abort(errors::Internal()); }

absl::Status EmbeddingReceiver::Chunk(int64_t offset, absl::string_view data, uint32_t crc32c) {
  auto status = CheckedChunk(offset, data, crc32c);
  if (!status.ok()) Abort(status);
  return status;
}

absl::Status EmbeddingReceiver::CheckedChunk(int64_t offset, absl::string_view data,
                                             uint32_t crc32c) {
  CHORD_RETURN_IF_ERROR(reservation_->token().Check());
  if (data.empty() || static_cast<int64_t>(data.size()) > limits::kMaxChunkBytes) {
    return errors::EmbeddingMismatch("chunk size");
  }
  if (offset != received_) return errors::EmbeddingMismatch("chunk order");
  if (static_cast<int64_t>(data.size()) > header_.total_bytes - received_) {
    return errors::EmbeddingMismatch("bytes");
  }
  if (Crc32c(data) != crc32c) return errors::EmbeddingMismatch("checksum");
  if (rows_ == nullptr) {
    CHORD_ASSIGN_OR_RETURN(rows_, allocate_(header_.rows, header_.dtype));
  }
  CHORD_RETURN_IF_ERROR(rows_->Write(
      offset, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(data.data()), data.size())));
  received_ += static_cast<int64_t>(data.size());
  return absl::OkStatus();
}

absl::Status EmbeddingReceiver::Finish() {
  if (!has_all()) {
    auto status = errors::EmbeddingMismatch("bytes");
    Abort(status);
    return status;
  }
  inside_ = false;
  return reservation_->Complete(std::move(rows_));
}

void EmbeddingReceiver::Abort(absl::Status reason) {
  if (!std::exchange(inside_, false)) return;
  rows_ = nullptr;
  reservation_->WriterLeft(std::move(reason));
}

}  // namespace chord::llm_worker
