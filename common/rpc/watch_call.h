// A server stream of the latest value of something: health, the state of a worker.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/errors.h"
#include "common/rpc/call.h"
#include "common/rpc/status_map.h"

namespace chord::rpc {

// A slow reader misses values in between, never the latest. An ended call is finished once its last
// value is written. Thread-safe.
template <typename Message>
class WatchCall : public ServerCall<grpc::ServerWriteReactor<Message>> {
 public:
  void OnWriteDone(bool ok) override {
    if (!ok) this->End(errors::Cancelled());
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (!ok) pending_.reset();
    Advance();
  }

 protected:
  // `first`: sent even when the call is refused at once.
  explicit WatchCall(std::optional<Message> first = std::nullopt)
      : ServerCall<grpc::ServerWriteReactor<Message>>(absl::InfiniteFuture(),
                                                      absl::InfiniteDuration()),
        pending_(std::move(first)) {}

  // Sends the first message.
  void Begin() override {
    absl::MutexLock lock(&mu_);
    Advance();
  }
  // Sends `message` after the write under way, in place of any that waits. Nothing after the end.
  void Publish(Message message) {
    absl::MutexLock lock(&mu_);
    if (outcome_) return;
    pending_ = std::move(message);
    Advance();
  }
  void OnEnd(const absl::Status& status) override {
    absl::MutexLock lock(&mu_);
    outcome_ = ToGrpc(status);
    Advance();
  }

 private:
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (pending_) {
      message_ = *std::exchange(pending_, std::nullopt);
      writing_ = true;
      this->StartWrite(&message_);
    } else if (outcome_) {
      finished_ = true;
      this->Finish(*outcome_);
    }
  }

  absl::Mutex mu_;
  std::optional<Message> pending_ ABSL_GUARDED_BY(mu_);
  Message message_ ABSL_GUARDED_BY(mu_);  // being written
  std::optional<grpc::Status> outcome_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace chord::rpc
