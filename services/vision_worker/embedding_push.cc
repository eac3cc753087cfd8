#include "services/vision_worker/embedding_push.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/crc32c.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"
#include "common/rpc/trace_metadata.h"

namespace chord::vision_worker {

std::shared_ptr<EmbeddingPush> EmbeddingPush::Open(internal::v1::EmbeddingSink::Stub* stub,
                                                   const internal::v1::EmbeddingHeader& header,
                                                   absl::Time deadline,
                                                   const obs::TraceContext& trace,
                                                   OnDoneFn on_done) {
  auto push = rpc::MakeClientCall<EmbeddingPush>(header.total_bytes(), std::move(on_done));
  rpc::SetDeadline(push->context_, deadline);
  rpc::PassTrace(trace, &push->context_);
  *push->request_.mutable_header() = header;
  stub->async()->Push(&push->context_, push.get());
  push->AddHold();
  push->StartWrite(&push->request_);
  push->StartRead(&push->response_);
  push->StartCall();
  return push;
}

void EmbeddingPush::Send(std::vector<std::byte> rows) {
  absl::MutexLock lock(&mu_);
  if (!held_) return;
  if (static_cast<int64_t>(rows.size()) != total_bytes_) {  // not what the header promised
    context_.TryCancel();
    return ReleaseHold();
  }
  rows_ = std::move(rows);
  WriteNext();
  ReleaseHold();  // from here on every write is started by the one before it, or by the accept
}

void EmbeddingPush::Cancel() {
  context_.TryCancel();
  absl::MutexLock lock(&mu_);
  ReleaseHold();
}

void EmbeddingPush::ReleaseHold() {
  if (std::exchange(held_, false)) RemoveHold();
}

void EmbeddingPush::OnReadDone(bool ok) {
  absl::MutexLock lock(&mu_);
  if (!ok) return ReleaseHold();  // the stream has ended; OnEnd receives the outcome
  if (response_.has_accept() && !accepted_) {
    accepted_ = true;
    chunk_bytes_ =
        std::clamp<int64_t>(response_.accept().max_chunk_bytes(), 1, limits::kMaxChunkBytes);
    WriteNext();
  } else if (response_.has_received()) {
    confirmed_ = response_.received().bytes();
  }
  StartRead(&response_);
}

void EmbeddingPush::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mu_);
  writing_ = false;
  if (ok) WriteNext();
}

void EmbeddingPush::WriteNext() {
  if (writing_ || !accepted_ || rows_.empty() || sent_ == total_bytes_) return;
  if (sent_ == 0) first_chunk_ = absl::Now();
  const int64_t bytes = std::min(chunk_bytes_, total_bytes_ - sent_);
  internal::v1::EmbeddingChunk& chunk = *request_.mutable_chunk();
  chunk.set_offset(sent_);
  chunk.set_data(rows_.data() + sent_, static_cast<size_t>(bytes));
  chunk.set_crc32c(Crc32c(chunk.data()));
  sent_ += bytes;
  writing_ = true;
  if (sent_ < total_bytes_) {
    StartWrite(&request_);
  } else {
    StartWriteLast(&request_, grpc::WriteOptions());
  }
}

void EmbeddingPush::OnEnd(const grpc::Status& status) {
  absl::Status outcome = rpc::FromGrpc(status);
  absl::Duration took = absl::ZeroDuration();
  {
    absl::MutexLock lock(&mu_);
    const bool complete = sent_ == total_bytes_ && confirmed_ == total_bytes_;
    if (outcome.ok() && !complete) outcome = errors::WorkerLost("language");
    if (first_chunk_ < absl::InfiniteFuture()) took = absl::Now() - first_chunk_;
    rows_ = {};
  }
  if (!outcome.ok() && !IsCatalogued(outcome)) {
    if (absl::IsCancelled(outcome)) {
      outcome = errors::Cancelled();
    } else if (absl::IsDeadlineExceeded(outcome)) {
      outcome = errors::DeadlineExceeded();
    } else {
      outcome = errors::WorkerLost("language");
    }
  }
  const auto on_done = std::move(on_done_);
  on_done(std::move(outcome), took);
}

}  // namespace chord::vision_worker
