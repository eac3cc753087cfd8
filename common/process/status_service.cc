#include "common/process/status_service.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/rpc/status_map.h"

namespace chord::process {

using internal::v1::WorkerState;

class StatusService::Watcher : public grpc::ServerWriteReactor<WorkerState> {
 public:
  explicit Watcher(absl::Duration interval) : interval_(interval) {}
  void KeepAlive(std::shared_ptr<Watcher> self) { self_ = std::move(self); }

  // A slow reader misses states in between, never the latest.
  void Offer(const WorkerState& state, absl::Time now) {
    absl::MutexLock lock(&mu_);
    if (finished_ || writing_) return;
    const bool changed = !google::protobuf::util::MessageDifferencer::Equals(state, sent_);
    if (now < due_ && !changed) return;
    sent_ = state;
    due_ = now + interval_;
    writing_ = true;
    StartWrite(&sent_);
  }
  void End(const grpc::Status& status) {
    absl::MutexLock lock(&mu_);
    if (finished_) return;
    finished_ = true;
    Finish(status);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return End(grpc::Status::CANCELLED);
    absl::MutexLock lock(&mu_);
    writing_ = false;
  }
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override { auto last = std::move(self_); }

 private:
  const absl::Duration interval_;
  std::shared_ptr<Watcher> self_;
  absl::Mutex mu_;
  WorkerState sent_ ABSL_GUARDED_BY(mu_);
  absl::Time due_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

StatusService::StatusService(std::function<WorkerState()> snapshot,
                             std::function<std::string()> metrics)
    : snapshot_(std::move(snapshot)), metrics_(std::move(metrics)) {}
StatusService::~StatusService() = default;

grpc::ServerWriteReactor<WorkerState>* StatusService::Watch(
    grpc::CallbackServerContext* context, const internal::v1::WatchRequest* request) {
  const double seconds = request->interval_seconds() == 0 ? 1.0 : request->interval_seconds();
  auto watcher = std::make_shared<Watcher>(absl::Seconds(seconds));
  watcher->KeepAlive(watcher);
  if (!(seconds >= 0.1 && seconds <= 60)) {
    watcher->End(
        rpc::ToGrpc(errors::ParameterInvalid("interval_seconds", "a number from 0.1 to 60, or 0")));
    return watcher.get();
  }
  {
    absl::MutexLock lock(&mu_);
    if (closed_) {
      watcher->End(rpc::ToGrpc(errors::ShuttingDown()));
    } else {
      watchers_.push_back(watcher);
    }
  }
  watcher->Offer(snapshot_(), absl::Now());
  return watcher.get();
}

grpc::ServerUnaryReactor* StatusService::Metrics(grpc::CallbackServerContext* context,
                                                 const internal::v1::MetricsRequest*,
                                                 internal::v1::MetricsResponse* response) {
  response->set_text(metrics_());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

void StatusService::Tick(absl::Time now) {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    absl::MutexLock lock(&mu_);
    auto ended = std::remove_if(watchers_.begin(), watchers_.end(),
                                [](const auto& watcher) { return watcher.expired(); });
    watchers_.erase(ended, watchers_.end());
    for (const auto& weak : watchers_) {
      if (auto watcher = weak.lock()) watchers.push_back(std::move(watcher));
    }
  }
  if (watchers.empty()) return;
  const WorkerState state = snapshot_();
  for (const auto& watcher : watchers) watcher->Offer(state, now);
}

void StatusService::Close() {
  std::vector<std::weak_ptr<Watcher>> watchers;
  {
    absl::MutexLock lock(&mu_);
    closed_ = true;
    watchers = std::move(watchers_);
    watchers_.clear();
  }
  for (const auto& weak : watchers) {
    if (auto watcher = weak.lock()) watcher->End(rpc::ToGrpc(errors::ShuttingDown()));
  }
}

}  // namespace chord::process
