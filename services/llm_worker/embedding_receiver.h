// The receiving half of a push: checks header and chunks against the reservation, collects the
// embeddings.
// Free of gRPC.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/engine/language_model.h"
#include "common/model/checkpoint.h"
#include "services/llm_worker/reservation.h"

namespace chord::llm_worker {

struct PushHeader {
  std::string model_fingerprint;
  image::Grid grid;
  int64_t rows = 0;
  int32_t width = 0;
  model::DType dtype = model::DType::kOther;
  int64_t total_bytes = 0;
};

// MODEL_MISMATCH, or EMBEDDING_MISMATCH with the first field that is wrong: grid, rows, width,
// dtype, bytes.
absl::Status CheckHeader(const PushHeader& header, const EmbeddingShape& reserved);

// The one writer of a reservation. Not thread-safe: chunks come one after another. Any error
// ends the request of this ticket, and no other, with the same status.
class EmbeddingReceiver {
 public:
  using Allocate = std::function<absl::StatusOr<std::unique_ptr<engine::EmbeddingBuffer>>(
      int64_t rows, model::DType dtype)>;

  // Checks the header, then takes the ticket. A header that does not fit its ticket ends the
  // request; a ticket that is taken, unknown or used is only refused. No memory is taken before the
  // first chunk.
  static absl::StatusOr<std::unique_ptr<EmbeddingReceiver>> Begin(
      std::shared_ptr<Reservation> reservation, const PushHeader& header, Allocate allocate);
  // Aborts with INTERNAL unless Finish, Abort or an error came before.
  ~EmbeddingReceiver();

  // EMBEDDING_MISMATCH (chunk size, chunk order, bytes, checksum), EMBEDDING_NOT_FINITE, the
  // ticket's own reason when it was cancelled, DEVICE_MEMORY. After an error only drop it.
  absl::Status Chunk(int64_t offset, absl::string_view data, uint32_t crc32c);
  bool has_all() const { return received_ == header_.total_bytes; }
  int64_t received() const { return received_; }
  // The writer is done. EMBEDDING_MISMATCH (bytes) when some are missing.
  absl::Status Finish();
  // The writer has failed or disconnected. No-op after an error or Finish.
  void Abort(absl::Status reason);

 private:
  EmbeddingReceiver(std::shared_ptr<Reservation> reservation, const PushHeader& header,
                    Allocate allocate)
      : reservation_(std::move(reservation)), header_(header), allocate_(std::move(allocate)) {}
  absl::Status CheckedChunk(int64_t offset, absl::string_view data, uint32_t crc32c);

  const std::shared_ptr<Reservation> reservation_;
  const PushHeader header_;
  const Allocate allocate_;
  bool inside_ = true;  // the reservation counts on us to leave
  int64_t received_ = 0;
  std::unique_ptr<engine::EmbeddingBuffer> rows_;
};

}  // namespace chord::llm_worker
