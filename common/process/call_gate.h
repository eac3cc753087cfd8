// Admits calls to a worker: none while the model loads, all while the worker serves, none once it
// drains; and counts those inside.
#pragma once

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/errors.h"

namespace chord::process {

// Thread-safe.
class CallGate {
 public:
  explicit CallGate(std::string role) : role_(std::move(role)) {}

  // WORKER_UNAVAILABLE while loading, SHUTTING_DOWN after Close. OK obliges to Leave once.
  absl::Status Enter() {
    absl::MutexLock lock(&mu_);
    if (state_ == State::kLoading) return errors::WorkerUnavailable(role_);
    if (state_ == State::kClosed) return errors::ShuttingDown();
    ++inside_;
    return absl::OkStatus();
  }
  void Leave() {
    absl::MutexLock lock(&mu_);
    --inside_;
  }
  void Open() {
    absl::MutexLock lock(&mu_);
    if (state_ == State::kLoading) state_ = State::kOpen;
  }
  void Close() {
    absl::MutexLock lock(&mu_);
    state_ = State::kClosed;
  }
  // False when a call is still inside at `deadline`.
  bool WaitUntilEmpty(absl::Time deadline) {
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithDeadline(absl::Condition(
                                     +[](int* inside) { return *inside == 0; }, &inside_),
                                 deadline);
  }
  int inside() const {
    absl::MutexLock lock(&mu_);
    return inside_;
  }

 private:
  enum class State { kLoading, kOpen, kClosed };
  const std::string role_;
  mutable absl::Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kLoading;
  int inside_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace chord::process
