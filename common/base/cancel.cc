#include "common/base/cancel.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"

namespace chord {

namespace internal {
struct CancelState {
  explicit CancelState(absl::Time d) : deadline(d) {}

  // False when it had fired before.
  bool Fire(absl::Status why) {
    absl::MutexLock lock(&mu);
    if (fired.load(std::memory_order_relaxed)) return false;
    reason = why.ok() ? absl::CancelledError("The request was cancelled.") : std::move(why);
    fired.store(true, std::memory_order_release);
    changed.SignalAll();
    return true;
  }
  // The callback before it, and what it captured, must be destroyed by now. Null after the last.
  std::function<void()> NextCallback() {
    absl::MutexLock lock(&mu);
    running = 0;
    changed.SignalAll();
    if (callbacks.empty()) return nullptr;
    auto node = callbacks.extract(callbacks.begin());
    running = node.key();
    return std::move(node.mapped());
  }

  const absl::Time deadline;
  std::atomic<bool> fired{false};
  absl::Mutex mu;
  absl::CondVar changed;
  absl::Status reason ABSL_GUARDED_BY(mu);
  std::map<uint64_t, std::function<void()>> callbacks ABSL_GUARDED_BY(mu);
  uint64_t next_id ABSL_GUARDED_BY(mu) = 1;
  uint64_t running ABSL_GUARDED_BY(mu) = 0;  // id of the callback that runs now, or 0
};
}  // namespace internal

absl::Status CancelToken::Check() const {
  if (state_ == nullptr) return absl::OkStatus();
  if (state_->fired.load(std::memory_order_acquire)) {
    absl::MutexLock lock(&state_->mu);
    return state_->reason;
  }
  if (state_->deadline != absl::InfiniteFuture() && absl::Now() >= state_->deadline) {
    return errors::DeadlineExceeded();
  }
  return absl::OkStatus();
}

absl::Time CancelToken::deadline() const {
  return state_ == nullptr ? absl::InfiniteFuture() : state_->deadline;
}

absl::Status CancelToken::WaitUntil(absl::Time until) const {
  if (state_ == nullptr) {
    absl::SleepFor(until - absl::Now());
    return absl::OkStatus();
  }
  {
    absl::MutexLock lock(&state_->mu);
    const absl::Time end = std::min(until, state_->deadline);
    while (!state_->fired.load(std::memory_order_relaxed) && absl::Now() < end) {
      state_->changed.WaitWithDeadline(&state_->mu, end);
    }
  }
  return Check();
}

CancelToken::Registration CancelToken::OnCancel(std::function<void()> fn) const {
  Registration out;
  if (state_ == nullptr) return out;
  {
    absl::MutexLock lock(&state_->mu);
    if (!state_->fired.load(std::memory_order_relaxed)) {
      out.state_ = state_;
      out.id_ = state_->next_id++;
      state_->callbacks.emplace(out.id_, std::move(fn));
      return out;
    }
  }
  fn();
  return out;
}

CancelToken::Registration& CancelToken::Registration::operator=(Registration&& other) noexcept {
  if (this != &other) {
    Registration old(std::move(*this));  // unregisters at scope end
    state_ = std::move(other.state_);
    id_ = std::exchange(other.id_, 0);
  }
  return *this;
}

CancelToken::Registration::~Registration() {
  if (state_ == nullptr) return;
  internal::CancelState& s = *state_;
  absl::MutexLock lock(&s.mu);
  s.callbacks.erase(id_);
  while (s.running == id_) s.changed.Wait(&s.mu);
}

CancelSource::CancelSource(absl::Time deadline)
    : state_(std::make_shared<internal::CancelState>(deadline)) {}

void CancelSource::Cancel(absl::Status reason) {
  const std::shared_ptr<internal::CancelState> state = state_;  // a callback may destroy this
  if (!state->Fire(std::move(reason))) return;
  while (const std::function<void()> callback = state->NextCallback()) callback();
}

}  // namespace chord
