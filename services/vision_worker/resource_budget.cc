#include "services/vision_worker/resource_budget.h"

#include <algorithm>

namespace chord::vision_worker {

ResourceBudget::Permit ResourceBudget::TryAcquire(int64_t amount) {
  absl::MutexLock lock(&mu_);
  if (!waiting_.empty() || !Fits(amount)) return Permit();
  in_use_ += amount;
  return Permit(this, amount);
}

absl::StatusOr<ResourceBudget::Permit> ResourceBudget::Acquire(int64_t amount,
                                                               const CancelToken& cancel) {
  // Unregistered after the lock is released: the callback takes it.
  const auto wake = cancel.OnCancel([this] {
    absl::MutexLock lock(&mu_);
    changed_.SignalAll();
  });
  absl::MutexLock lock(&mu_);
  const uint64_t ticket = next_ticket_++;
  waiting_.push_back(ticket);
  absl::Status status;
  while (status = cancel.Check(), status.ok() && !(waiting_.front() == ticket && Fits(amount))) {
    changed_.WaitWithDeadline(&mu_, cancel.deadline());
  }
  waiting_.erase(std::find(waiting_.begin(), waiting_.end(), ticket));
  changed_.SignalAll();  // the next waiter may fit, too
  if (!status.ok()) return status;
  in_use_ += amount;
  return Permit(this, amount);
}

void ResourceBudget::Release(int64_t amount) {
  absl::MutexLock lock(&mu_);
  in_use_ -= amount;
  changed_.SignalAll();
}

int64_t ResourceBudget::in_use() const {
  absl::MutexLock lock(&mu_);
  return in_use_;
}

}  // namespace chord::vision_worker
