#include "services/gateway/admission.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/host_port.h"

namespace chord::gateway {

std::string ClientOfGrpcPeer(absl::string_view peer) {
  if (!absl::ConsumePrefix(&peer, "ipv4:") && !absl::ConsumePrefix(&peer, "ipv6:")) {
    return std::string(kLocalClient);
  }
  const absl::StatusOr<HostPort> where =
      ParseHostPort(absl::StrReplaceAll(peer, {{"%5B", "["}, {"%5D", "]"}}));
  if (!where.ok()) return "unknown";
  absl::string_view plain = where->host;
  absl::ConsumePrefix(&plain, "::ffff:");  // an IPv4 client of a dual-stack socket
  return std::string(plain);
}

Admission::Slot& Admission::Slot::operator=(Slot&& other) noexcept {
  if (this == &other) return *this;
  Release();
  admission_ = std::exchange(other.admission_, nullptr);
  client_ = std::move(other.client_);
  bytes_ = std::move(other.bytes_);
  request_ = other.request_;
  return *this;
}

absl::Status Admission::Slot::Grow(int64_t bytes) {
  return bytes_.Receive(bytes) ? absl::OkStatus() : errors::Overloaded(admission_->RetryAfter());
}

void Admission::Slot::Release() {
  bytes_.Release();
  if (admission_ != nullptr) std::exchange(admission_, nullptr)->Return(*this);
}

absl::StatusOr<Admission::Slot> Admission::Enter(absl::string_view client, int64_t bytes) {
  return EnterAs(client, bytes, true);
}
absl::StatusOr<Admission::Slot> Admission::EnterUpload(absl::string_view client, int64_t bytes) {
  return EnterAs(client, bytes, false);
}

absl::StatusOr<Admission::Slot> Admission::EnterAs(absl::string_view client, int64_t bytes,
                                                   bool request) {
  absl::MutexLock lock(&mu_);
  if (absl::Status refusal = Refusal(client, request); !refusal.ok()) return refusal;
  ByteBudget::Hold hold = bytes_.Open(client);
  if (!hold.Take(bytes)) return errors::Overloaded(RetryAfterLocked());
  if (request) ++requests_;
  if (!client.empty()) ++clients_[std::string(client)];
  Slot slot;
  slot.admission_ = this;
  slot.client_ = std::string(client);
  slot.bytes_ = std::move(hold);
  slot.request_ = request;
  return slot;
}

absl::Status Admission::Check(absl::string_view client) const {
  absl::MutexLock lock(&mu_);
  return Refusal(client, true);
}

absl::Status Admission::CheckUpload(absl::string_view client) const {
  absl::MutexLock lock(&mu_);
  return Refusal(client, false);
}

absl::Status Admission::Refusal(absl::string_view client, bool request) const {
  if (request && requests_ >= options_.max_requests) return errors::Overloaded(RetryAfterLocked());
  const auto found = clients_.find(std::string(client));
  if (found != clients_.end() && found->second >= options_.client_requests) {
    return errors::ClientLimit(options_.client_requests, RetryAfterLocked());
  }
  return absl::OkStatus();
}

void Admission::Answered(absl::Duration took) {
  absl::MutexLock lock(&mu_);
  mean_ = mean_ * 0.9 + took * 0.1;
}

absl::Duration Admission::RetryAfter() const {
  absl::MutexLock lock(&mu_);
  return RetryAfterLocked();
}

// By then about as many requests have ended as are under way now.
absl::Duration Admission::RetryAfterLocked() const {
  return std::clamp(mean_, absl::Milliseconds(200), absl::Seconds(30));
}

int Admission::in_flight() const {
  absl::MutexLock lock(&mu_);
  return requests_;
}

void Admission::Return(const Slot& slot) {
  absl::MutexLock lock(&mu_);
  if (slot.request_) --requests_;
  if (slot.client_.empty()) return;
  const auto found = clients_.find(slot.client_);
  if (--found->second == 0) clients_.erase(found);
}

void RetryBudget::Earn() {
  absl::MutexLock lock(&mu_);
  left_ = std::min(burst_, left_ + share_);
}

bool RetryBudget::TrySpend() {
  absl::MutexLock lock(&mu_);
  if (left_ < 1) return false;
  left_ -= 1;
  return true;
}

}  // namespace chord::gateway
