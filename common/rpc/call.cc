#include "common/rpc/call.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "common/base/errors.h"

namespace chord::rpc {

OpenCall::OpenCall(absl::Time deadline, absl::Duration longest)
    : received_(absl::Now()), source_(std::min(deadline, received_ + longest)) {}

absl::Status OpenCall::CancelReason() const { return errors::Cancelled(); }

bool OpenCall::End(const absl::Status& status) {
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return false;
    ended_ = true;
    stalls_at_ = absl::InfiniteFuture();
  }
  OnEnd(status);
  return true;
}

bool OpenCall::ended() const {
  absl::MutexLock lock(&mu_);
  return ended_;
}

void OpenCall::CheckStall(absl::Time now) {
  absl::Status reason;
  {
    absl::MutexLock lock(&mu_);
    if (now < stalls_at_) return;
    reason = stall_reason_;
  }
  End(reason);
}

bool OpenCall::StartUnlessEnded(absl::FunctionRef<void()> start) {
  absl::MutexLock lock(&mu_);
  if (ended_) return false;
  start();
  return true;
}

void OpenCall::SetStall(absl::Time at, const absl::Status& reason) {
  absl::MutexLock lock(&mu_);
  if (ended_) return;
  stalls_at_ = at;
  stall_reason_ = reason;
}

// The registration is dropped in HandleDone and not in OnEnd: its destructor waits for the
// callback, and the callback may be what ended the call.
void OpenCall::EndWith(const CancelToken& token) {
  auto registration = token.OnCancel([weak = weak_from_this(), token] {
    if (auto call = weak.lock()) call->End(token.Check());
  });
  absl::MutexLock lock(&mu_);
  if (!ended_) registrations_.push_back(std::move(registration));
}

void OpenCall::HandleCancel() {
  const absl::Status reason =
      absl::Now() >= deadline() ? errors::DeadlineExceeded() : CancelReason();
  source_.Cancel(reason);
  OnClientCancel(reason);
}

void OpenCall::HandleDone() {
  std::vector<CancelToken::Registration> registrations;
  std::shared_ptr<OpenCall> self;
  {
    absl::MutexLock lock(&mu_);
    registrations = std::move(registrations_);
    registrations_.clear();
    self = std::move(self_);
  }
}

absl::Status CallRegistry::Add(const std::shared_ptr<OpenCall>& call) {
  absl::MutexLock lock(&mu_);
  if (!shutdown_.ok()) return shutdown_;
  if (calls_.size() >= std::min(prune_at_, max_calls_)) {
    Prune();
    if (calls_.size() >= max_calls_) return errors::Overloaded(absl::Seconds(1));
    prune_at_ = std::max<size_t>(64, 2 * calls_.size());  // amortized: thousands may be open
  }
  calls_.push_back(call);
  return absl::OkStatus();
}

void CallRegistry::Sweep(absl::Time now) {
  for (const auto& call : Open()) call->CheckStall(now);
}

void CallRegistry::Shutdown(const absl::Status& reason) {
  {
    absl::MutexLock lock(&mu_);
    if (!shutdown_.ok()) return;
    shutdown_ = reason;
  }
  for (const auto& call : Open()) call->OnShutdown(reason);
}

size_t CallRegistry::active() const {
  absl::MutexLock lock(&mu_);
  return static_cast<size_t>(std::count_if(calls_.begin(), calls_.end(),
                                           [](const auto& weak) { return !weak.expired(); }));
}

std::vector<std::shared_ptr<OpenCall>> CallRegistry::Open() const {
  std::vector<std::shared_ptr<OpenCall>> out;
  absl::MutexLock lock(&mu_);
  for (const auto& weak : calls_) {
    if (auto call = weak.lock()) out.push_back(std::move(call));
  }
  return out;
}

void CallRegistry::Prune() {
  calls_.erase(
      std::remove_if(calls_.begin(), calls_.end(), [](const auto& weak) { return weak.expired(); }),
      calls_.end());
}

CallReport::CallReport(obs::Metrics* metrics, obs::Method method, absl::Time received)
    : metrics_(metrics), received_(received) {
  log_.method = method;
  metrics_->RequestBegan(method);
}

void CallReport::End(const absl::Status& status, obs::Point where) {
  log_.status = status;
  log_.took = absl::Now() - received_;
  if (status.ok()) {
    for (const auto& [stage, took] : log_.stages) metrics_->StageTook(stage, took);
  } else if (absl::IsCancelled(status)) {
    metrics_->Cancelled(where);
  } else if (absl::IsDeadlineExceeded(status)) {
    metrics_->DeadlineExceeded(where);
  } else {
    metrics_->Rejected(status);
  }
  metrics_->RequestEnded(log_.method, ForClient(status).code(), log_.took);
  obs::LogRequest(log_);
}

}  // namespace chord::rpc
