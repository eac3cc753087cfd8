#include "services/gateway/admission.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"

namespace chord::gateway {

std::string ClientOfGrpcPeer(absl::string_view peer) {
  if (!absl::ConsumePrefix(&peer, "ipv4:") && !absl::ConsumePrefix(&peer, "ipv6:")) return "local";
  std::string host = absl::StrReplaceAll(peer.substr(0, peer.rfind(':')),
                                         {{"%5B", ""}, {"%5D", ""}, {"[", ""}, {"]", ""}});
  absl::string_view plain = host;
  absl::ConsumePrefix(&plain, "::ffff:");  // an IPv4 client of a socket for both
  return std::string(plain);
}

Admission::Slot& Admission::Slot::operator=(Slot&& other) noexcept {
  if (this == &other) return *this;
  Release();
  admission_ = std::exchange(other.admission_, nullptr);
  client_ = std::move(other.client_);
  bytes_ = other.bytes_;
  grown_ = other.grown_;
  request_ = other.request_;
  return *this;
}

absl::Status Admission::Slot::Grow(int64_t bytes) { return admission_->Grow(*this, bytes); }

void Admission::Slot::Release() {
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
  if (bytes_ > 0 && bytes_ + bytes > options_.max_bytes) {
    return errors::Overloaded(RetryAfterLocked());
  }
  if (request) ++requests_;
  bytes_ += bytes;
  if (!client.empty()) ++clients_[std::string(client)].places;
  Slot slot;
  slot.admission_ = this;
  slot.client_ = std::string(client);
  slot.bytes_ = bytes;
  slot.request_ = request;
  return slot;
}

absl::Status Admission::Grow(Slot& slot, int64_t bytes) {
  absl::MutexLock lock(&mu_);
  // As Enter does: what is alone may have any size.
  if (bytes_ > slot.bytes_ && bytes_ + bytes > options_.max_bytes) {
    return errors::Overloaded(RetryAfterLocked());
  }
  if (!slot.client_.empty()) {
    Client& client = clients_[slot.client_];
    // How long an image takes to arrive is its client's to say, so one client's arriving images
    // leave half of the room to all others.
    if (client.arriving_bytes > slot.grown_ &&
        client.arriving_bytes + bytes > options_.max_bytes / 2) {
      return errors::Overloaded(RetryAfterLocked());
    }
    client.arriving_bytes += bytes;
  }
  bytes_ += bytes;
  slot.bytes_ += bytes;
  slot.grown_ += bytes;
  return absl::OkStatus();
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
  if (found != clients_.end() && found->second.places >= options_.client_requests) {
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
  bytes_ -= slot.bytes_;
  if (slot.client_.empty()) return;
  const auto found = clients_.find(slot.client_);
  found->second.arriving_bytes -= slot.grown_;
  if (--found->second.places == 0) clients_.erase(found);
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
