// Cooperative cancellation: one CancelSource per request, fed by the client's call, the peer
// stream and the deadline; any number of tokens read it. Modelled on seastar's abort_source.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace chord {

namespace internal {
struct CancelState;
}

// A view of a CancelSource. Cheap to copy, thread-safe. A default token is never cancelled.
class CancelToken {
 public:
  CancelToken() = default;

  // kCancelled or kDeadlineExceeded once the source fired or the deadline passed, else OK.
  // Costs one atomic load and, with a deadline, one clock read.
  absl::Status Check() const;
  bool cancelled() const { return !Check().ok(); }
  absl::Time deadline() const;

  // Sleeps until `until`, the deadline or cancellation, whichever comes first. Returns Check().
  absl::Status WaitUntil(absl::Time until) const;

  // Runs `fn` once when the source is cancelled explicitly (not on a deadline passing), on the
  // thread that cancels; at once when that has happened already. The returned handle unregisters
  // on destruction and then waits for a running `fn` to return, so `fn` must not destroy it.
  class Registration {
   public:
    Registration() = default;
    Registration(Registration&&) noexcept = default;
    Registration& operator=(Registration&& other) noexcept;
    ~Registration();

   private:
    friend class CancelToken;
    std::shared_ptr<internal::CancelState> state_;
    uint64_t id_ = 0;
  };
  [[nodiscard]] Registration OnCancel(std::function<void()> fn) const;

 private:
  friend class CancelSource;
  explicit CancelToken(std::shared_ptr<internal::CancelState> state) : state_(std::move(state)) {}
  std::shared_ptr<internal::CancelState> state_;
};

// Owns the decision. Thread-safe; `Cancel` is idempotent, the first reason wins.
class CancelSource {
 public:
  explicit CancelSource(absl::Time deadline = absl::InfiniteFuture());
  // `reason` must not be OK. Runs the registered callbacks on this thread.
  void Cancel(absl::Status reason);
  void Cancel() { Cancel(absl::CancelledError("The request was cancelled.")); }
  CancelToken token() const { return CancelToken(state_); }

 private:
  std::shared_ptr<internal::CancelState> state_;
};

}  // namespace chord
