// A bounded amount of something (pixels, bytes) that requests under way share.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/cancel.h"

namespace chord::vision_worker {

// Thread-safe. What is larger than the whole budget is served alone. First come, first served:
// a large request is not starved by small ones.
class Budget {
 public:
  explicit Budget(int64_t capacity) : capacity_(capacity) {}

  // Gives its share back when it goes.
  class Share {
   public:
    Share() = default;
    Share(Budget* budget, int64_t amount) : budget_(budget), amount_(amount) {}
    Share(Share&& other) noexcept { *this = std::move(other); }
    Share& operator=(Share&& other) noexcept {
      Return();
      budget_ = std::exchange(other.budget_, nullptr);
      amount_ = std::exchange(other.amount_, 0);
      return *this;
    }
    ~Share() { Return(); }
    explicit operator bool() const { return budget_ != nullptr; }
    void Return() {
      if (budget_ != nullptr) std::exchange(budget_, nullptr)->Give(amount_);
    }

   private:
    Budget* budget_ = nullptr;  // not owned
    int64_t amount_ = 0;
  };

  // An empty share when it does not fit now or others wait.
  Share TryTake(int64_t amount);
  // Waits its turn; the status of `cancel` when that comes first.
  absl::StatusOr<Share> Take(int64_t amount, const CancelToken& cancel);
  int64_t taken() const;

 private:
  bool Fits(int64_t amount) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return taken_ == 0 || amount <= capacity_ - taken_;
  }
  void Give(int64_t amount);

  const int64_t capacity_;
  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  int64_t taken_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t next_ticket_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<uint64_t> line_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::vision_worker
