#include "services/vision_worker/pixel_budget.h"

#include <algorithm>

namespace chord::vision_worker {

Budget::Share Budget::TryTake(int64_t amount) {
  absl::MutexLock lock(&mu_);
  if (!line_.empty() || !Fits(amount)) return Share();
  taken_ += amount;
  return Share(this, amount);
}

absl::StatusOr<Budget::Share> Budget::Take(int64_t amount, const CancelToken& cancel) {
  // Unregistered after the lock is released: the callback takes it.
  const auto wake = cancel.OnCancel([this] {
    absl::MutexLock lock(&mu_);
    changed_.SignalAll();
  });
  absl::MutexLock lock(&mu_);
  const uint64_t ticket = next_ticket_++;
  line_.push_back(ticket);
  absl::Status status;
  while (status = cancel.Check(), status.ok() && !(line_.front() == ticket && Fits(amount))) {
    changed_.WaitWithDeadline(&mu_, cancel.deadline());
  }
  line_.erase(std::find(line_.begin(), line_.end(), ticket));
  changed_.SignalAll();  // the next in line may fit, too
  if (!status.ok()) return status;
  taken_ += amount;
  return Share(this, amount);
}

void Budget::Give(int64_t amount) {
  absl::MutexLock lock(&mu_);
  taken_ -= amount;
  changed_.SignalAll();
}

int64_t Budget::taken() const {
  absl::MutexLock lock(&mu_);
  return taken_;
}

}  // namespace chord::vision_worker
