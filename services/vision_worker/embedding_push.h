// The sending half of a push: one stream to a language worker, opened while the image is still
// being computed, fed once the rows are there.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "chord/internal/v1/embedding.grpc.pb.h"
#include "common/obs/trace.h"
#include "common/rpc/client_call.h"

namespace chord::vision_worker {

// Thread-safe. Keeps itself alive until gRPC has released it.
class EmbeddingPush final
    : public rpc::ClientCall<
          grpc::ClientBidiReactor<internal::v1::PushRequest, internal::v1::PushResponse>> {
 public:
  // `on_done` is called exactly once, with OK when the language worker has confirmed every byte,
  // with its own catalogued refusal, or with WORKER_LOST / CANCELLED / DEADLINE_EXCEEDED; and with
  // the time from the first chunk to the confirmation.
  using OnDoneFn = std::function<void(absl::Status, absl::Duration)>;
  // `stub` is not owned and must outlive the call. Sends the header at once.
  static std::shared_ptr<EmbeddingPush> Open(internal::v1::EmbeddingSink::Stub* stub,
                                             const internal::v1::EmbeddingHeader& header,
                                             absl::Time deadline, const obs::TraceContext& trace,
                                             OnDoneFn on_done);

  // All rows, once; exactly the header's total_bytes. They leave when the worker has accepted.
  void Send(std::vector<std::byte> rows);
  // Gives up; idempotent; nothing after the end.
  void Cancel();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;

  EmbeddingPush(int64_t total_bytes, OnDoneFn on_done)  // for Open
      : total_bytes_(total_bytes), on_done_(std::move(on_done)) {}

 private:
  void OnEnd(const grpc::Status& status) override;
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReleaseHold() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int64_t total_bytes_;
  OnDoneFn on_done_;
  grpc::ClientContext context_;

  absl::Mutex mu_;
  internal::v1::PushRequest request_;      // being written
  internal::v1::PushResponse response_;    // being read
  bool held_ ABSL_GUARDED_BY(mu_) = true;  // others than gRPC's own reactions may start writes
  bool writing_ ABSL_GUARDED_BY(mu_) = true;
  bool accepted_ ABSL_GUARDED_BY(mu_) = false;
  int64_t chunk_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t sent_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t confirmed_ ABSL_GUARDED_BY(mu_) = -1;
  absl::Time first_chunk_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();
  std::vector<std::byte> rows_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::vision_worker
