#include "common/base/byte_budget.h"

namespace chord {

ByteBudget::Hold ByteBudget::Open(absl::string_view client) {
  Hold out;
  out.budget_ = this;
  out.client_ = std::string(client);
  return out;
}

ByteBudget::Hold& ByteBudget::Hold::operator=(Hold&& other) noexcept {
  if (this == &other) return *this;
  Release();
  budget_ = std::exchange(other.budget_, nullptr);
  client_ = std::move(other.client_);
  bytes_ = std::exchange(other.bytes_, 0);
  arriving_ = std::exchange(other.arriving_, 0);
  return *this;
}

bool ByteBudget::Fits(const Hold& hold, int64_t bytes) const {
  if (options_.oversize_alone && held_ == hold.bytes_) return true;
  return held_ + bytes <= options_.limit;
}

bool ByteBudget::Hold::Take(int64_t bytes) {
  absl::MutexLock lock(&budget_->mu_);
  if (!budget_->Fits(*this, bytes)) return false;
  budget_->held_ += bytes;
  bytes_ += bytes;
  return true;
}

bool ByteBudget::Hold::Receive(int64_t bytes) {
  absl::MutexLock lock(&budget_->mu_);
  if (!budget_->Fits(*this, bytes)) return false;
  if (!client_.empty()) {
    const auto found = budget_->arriving_.find(client_);
    const Arriving held = found == budget_->arriving_.end() ? Arriving() : found->second;
    const int transfers = held.transfers + (arriving_ == 0 ? 1 : 0);
    if (transfers > 1 && held.bytes + bytes > budget_->options_.limit / 2) return false;
    budget_->arriving_[client_] = {transfers, held.bytes + bytes};
    arriving_ += bytes;
  }
  budget_->held_ += bytes;
  bytes_ += bytes;
  return true;
}

void ByteBudget::ArrivedLocked(Hold& hold) {
  if (hold.arriving_ == 0) return;
  const auto found = arriving_.find(hold.client_);
  found->second.bytes -= std::exchange(hold.arriving_, 0);
  if (--found->second.transfers == 0) arriving_.erase(found);
}

void ByteBudget::Hold::Arrived() {
  if (budget_ == nullptr) return;
  absl::MutexLock lock(&budget_->mu_);
  budget_->ArrivedLocked(*this);
}

void ByteBudget::Hold::Release() {
  if (budget_ == nullptr) return;
  absl::MutexLock lock(&budget_->mu_);
  budget_->ArrivedLocked(*this);
  budget_->held_ -= std::exchange(bytes_, 0);
}

bool ByteBudget::HasRoom(int64_t bytes) const {
  absl::MutexLock lock(&mu_);
  return held_ + bytes <= options_.limit;
}

int64_t ByteBudget::held() const {
  absl::MutexLock lock(&mu_);
  return held_;
}

}  // namespace chord
