// A bounded amount of a resource (pixels, bytes, patches) that the requests in flight share.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/cancel.h"

namespace chord::vision_worker {

// A weighted semaphore. Thread-safe. An amount above the whole capacity is granted alone. First
// come, first served: small amounts do not starve a large one.
class ResourceBudget {
 public:
  explicit ResourceBudget(int64_t capacity) : capacity_(capacity) {}

  // Releases its amount when destroyed. The budget must outlive it.
  class Permit {
   public:
    Permit() = default;
    Permit(ResourceBudget* budget, int64_t amount) : budget_(budget), amount_(amount) {}
    Permit(Permit&& other) noexcept { *this = std::move(other); }
    Permit& operator=(Permit&& other) noexcept {
      Release();
      budget_ = std::exchange(other.budget_, nullptr);
      amount_ = std::exchange(other.amount_, 0);
      return *this;
    }
    ~Permit() { Release(); }
    explicit operator bool() const { return budget_ != nullptr; }
    void Release() {
      if (budget_ != nullptr) std::exchange(budget_, nullptr)->Release(amount_);
    }

   private:
    ResourceBudget* budget_ = nullptr;  // not owned
    int64_t amount_ = 0;
  };

  // An empty permit when `amount` does not fit now or others wait.
  Permit TryAcquire(int64_t amount);
  // Waits for its turn; the status of `cancel` when that comes first.
  absl::StatusOr<Permit> Acquire(int64_t amount, const CancelToken& cancel);
  int64_t in_use() const;

 private:
  bool Fits(int64_t amount) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return in_use_ == 0 || amount <= capacity_ - in_use_;
  }
  void Release(int64_t amount);

  const int64_t capacity_;
  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  int64_t in_use_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t next_ticket_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<uint64_t> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::vision_worker
